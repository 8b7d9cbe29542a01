#include "egress/content_reader.h"

#include <utility>

#include <postern/base/check.h>

namespace postern::egress {

void ContentReader::start(const Delivery& delivery, std::optional<smtp::ContentConverter::Kind> conversion,
                          bool complete_line) {
  stop();
  delivery_ = &delivery;
  step_ = Step::fields;
  index_ = 0;
  status_ = OkStatus();
  raw_ = {};
  converter_.reset();
  if (conversion) converter_.emplace(*conversion);
  complete_line_ = complete_line;
}

void ContentReader::stop() {
  if (fetching_) source_.forget_reader(*this);
  if (holds_piece_) source_.release_piece(*this);
  fetching_ = false;
  holds_piece_ = false;
  piece_.reset();
  delivery_ = nullptr;
  step_ = Step::idle;
}

void ContentReader::on_piece(StatusOr<Bytes> piece) {
  POSTERN_CHECK(fetching_);
  fetching_ = false;
  if (piece.ok()) {
    piece_ = *piece;
    holds_piece_ = true;
  } else {
    status_ = std::move(piece).status();
  }
  user_.on_content_ready();
}

bool ContentReader::drained() const {
  if (converter_) return step_ == Step::end;
  return step_ == Step::tail || (step_ == Step::memory && index_ == delivery_->message->content.chunk_count());
}

std::optional<Bytes> ContentReader::take_raw() {
  const mail::Message& message = *delivery_->message;
  for (;;) {
    switch (step_) {
      case Step::fields:
        step_ = Step::spooled;
        if (!message.added_fields.empty()) return as_bytes(message.added_fields);
        break;
      case Step::spooled:
        if (index_ == message.spooled.size()) {
          step_ = Step::memory;
          index_ = 0;
          break;
        }
        if (piece_) {
          ++index_;
          return std::exchange(piece_, std::nullopt);
        }
        // One piece is held at a time: the next is asked for when the caller is done with this one.
        if (!fetching_ && !holds_piece_ && status_.ok()) {
          fetching_ = true;
          source_.fetch_piece(*delivery_, index_, *this);
        }
        return std::nullopt;
      case Step::memory:
        if (index_ == message.content.chunk_count()) {
          step_ = Step::tail;
          break;
        }
        return message.content.chunk(index_++);
      case Step::tail:
      case Step::end:
      case Step::idle:
        return std::nullopt;
    }
  }
}

ContentReader::State ContentReader::next(std::vector<io::Slice>& slices) {
  POSTERN_CHECK(step_ != Step::idle);
  if (!status_.ok()) return State::failed;
  // What was handed out last time is done with. A piece that the converter has not finished stays.
  if (holds_piece_ && !piece_ && raw_.empty()) {
    source_.release_piece(*this);
    holds_piece_ = false;
  }
  if (converter_) return next_converted(slices);

  std::size_t bytes = 0;
  std::size_t count = 0;
  while (bytes < bytes_per_turn && count < slices_per_turn) {
    const std::optional<Bytes> raw = take_raw();
    if (!raw) break;
    slices.push_back({raw->data(), raw->size()});
    bytes += raw->size();
    ++count;
  }
  if (count > 0) return State::slices;
  if (!status_.ok()) return State::failed;
  return step_ == Step::tail ? State::end : State::pending;
}

ContentReader::State ContentReader::next_converted(std::vector<io::Slice>& slices) {
  if (step_ == Step::end) return State::end;
  converted_.resize(converted_bytes);
  std::size_t filled = 0;
  bool at_end = false;
  while (filled < converted_.size()) {
    if (raw_.empty()) {
      const std::optional<Bytes> raw = take_raw();
      if (!raw) {
        if (holds_piece_ && !piece_) {  // converted to its end, so not needed any more
          source_.release_piece(*this);
          holds_piece_ = false;
          continue;
        }
        at_end = step_ == Step::tail;
        break;
      }
      raw_ = *raw;
    }
    const auto progress = converter_->convert(raw_, MutableBytes(converted_).subspan(filled));
    raw_ = raw_.subspan(progress.consumed);
    filled += progress.produced;
    if (progress.consumed == 0 && progress.produced == 0) break;
  }
  if (!status_.ok()) return State::failed;
  if (filled > 0) slices.push_back({converted_.data(), filled});
  if (at_end) {
    step_ = Step::end;
    const Bytes rest = as_bytes(converter_->finish(complete_line_));
    if (!rest.empty()) slices.push_back({rest.data(), rest.size()});
    if (filled == 0 && rest.empty()) return State::end;
    return State::slices;
  }
  return filled > 0 ? State::slices : State::pending;
}

}  // namespace postern::egress
