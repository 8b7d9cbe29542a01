#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/spool/record.h>
#include <postern/spool/replay.h>

namespace postern::spool {
namespace {

constexpr std::uint64_t message_window_bytes = 256u << 10;
constexpr std::uint64_t state_window_bytes = 64u << 10;
// A head (header, envelope, added fields) is mostly within it; larger ones take a second read.
constexpr std::uint64_t head_guess_bytes = 4096;

}  // namespace

Replay::Replay(Log& log) : log_(&log) {
  const Index& index = log.index();
  if (index.segment_count() == 0) {
    finish();
    return;
  }
  sequence_ = index.segment(0).sequence;
  last_sequence_ = log.recovered_last_;
}

void Replay::finish() {
  done_ = true;
  log_->replay_due_ = false;
}

// Puts the cursor on a living message; false: there is none any more.
bool Replay::find_next() {
  const Index& index = log_->index();
  while (sequence_ <= last_sequence_) {
    const Segment* const segment = index.find_segment(sequence_);
    if (segment != nullptr) {
      for (; entry_ < segment->entries.size(); ++entry_) {
        if (segment->entries[entry_].unsettled != 0) return true;
      }
    }
    ++sequence_;
    entry_ = 0;
    // Skip to the next segment that there is: numbers have holes.
    if (index.find_segment(sequence_) == nullptr) {
      std::uint64_t next = last_sequence_ + 1;
      for (std::size_t i = 0; i < index.segment_count(); ++i) {
        if (index.segment(i).sequence >= sequence_) {
          next = std::min(next, index.segment(i).sequence);
          break;
        }
      }
      sequence_ = next;
    }
  }
  return false;
}

void Replay::next_message() {
  ++entry_;
  gathering_ = false;
  head_bytes_ = 0;
}

void Replay::pass_over(const Segment& segment, const Entry& entry, std::string_view what) {
  std::string text = "spool: ";
  text += what;
  text += " in segment ";
  text += std::to_string(segment.sequence);
  text += " (";
  text += slot_path(log_->log(), segment.slot);
  text += ") at offset ";
  text += std::to_string(std::uint64_t{entry.units} * record_alignment);
  const mail::Location location{.log = log_->log(), .length = entry.bytes, .position = segment.position_of(entry)};
  unreadable_.push_back({location, mail::QueueId{entry.queue_id}, error(StatusCode::kDataLoss, text)});
  next_message();
}

void Replay::ask(Window& window, const Segment& segment, std::uint64_t from, std::uint64_t bytes, std::uint64_t to) {
  asked_ = &window;
  asked_sequence_ = segment.sequence;
  asked_slot_ = segment.slot;
  asked_offset_ = round_down(from, block_bytes);
  asked_bytes_ = std::min(round_up(to, block_bytes), segment.bytes) - asked_offset_;
  asked_least_ = round_up(from + bytes, block_bytes) - asked_offset_;
  read_taken_ = false;
}

// As far as the living messages that follow closely reach.
std::uint64_t Replay::message_window_end(const Segment& segment, std::uint64_t head) const {
  const std::uint64_t from = std::uint64_t{segment.entries[entry_].units} * record_alignment;
  std::uint64_t end = from + head;
  for (std::size_t i = entry_ + 1; i < segment.entries.size(); ++i) {
    const Entry& entry = segment.entries[i];
    if (entry.unsettled == 0) continue;
    const std::uint64_t begin = std::uint64_t{entry.units} * record_alignment;
    const std::uint64_t needed = begin + std::min<std::uint64_t>(entry.bytes, head_guess_bytes);
    if (needed > from + message_window_bytes) break;
    end = std::max(end, needed);
  }
  return end;
}

std::optional<ReplayedMessage> Replay::take_message() {
  if (asked_ != nullptr) return std::nullopt;
  const Index& index = log_->index();
  while (!done_) {
    if (!find_next()) {
      finish();
      break;
    }
    const Segment& segment = *index.find_segment(sequence_);
    const Entry& entry = segment.entries[entry_];
    const std::uint64_t offset = std::uint64_t{entry.units} * record_alignment;
    const std::uint64_t head = head_bytes_ != 0 ? head_bytes_ : std::min<std::uint64_t>(entry.bytes, head_guess_bytes);
    if (!messages_.holds(sequence_, offset, head)) {
      ask(messages_, segment, offset, head, message_window_end(segment, head));
      return std::nullopt;
    }
    const Bytes at = messages_.buffer.first(messages_.bytes).subspan(offset - messages_.offset, head);
    const std::size_t needed = head_bytes(at);
    if (needed > head && needed <= entry.bytes) {
      head_bytes_ = needed;
      continue;
    }
    const auto header = check_record(segment.checksum, segment.position_of(entry), at);
    const auto view = header && header->bytes == entry.bytes && header->queue_id == entry.queue_id
                          ? read_message(*header, at)
                          : std::nullopt;
    if (!view) {
      pass_over(segment, entry, "damaged message");
      continue;
    }
    if (!gathering_) {
      gathering_ = true;
      recipient_ = 0;
      unsettled_.clear();
      state_bytes_.clear();
      state_pieces_.clear();
    }
    if (!gather(segment.position_of(entry), entry)) return std::nullopt;
    for (std::size_t i = 0; i < unsettled_.size(); ++i) {
      unsettled_[i].state = Bytes(state_bytes_).subspan(state_pieces_[i].first, state_pieces_[i].second);
    }
    ReplayedMessage message;
    message.location = {.log = log_->log(), .length = entry.bytes, .position = segment.position_of(entry)};
    message.id = view->id;
    message.recipients = view->recipients;
    message.envelope = view->envelope;
    message.facts = view->facts;
    message.unsettled = unsettled_;
    next_message();
    return message;
  }
  return std::nullopt;
}

// Collects the unsettled recipients with their states; false: a read is needed.
bool Replay::gather(std::uint64_t position, const Entry& entry) {
  const Index& index = log_->index();
  for (; recipient_ < entry.recipients; ++recipient_) {
    const auto recipient = static_cast<std::uint16_t>(recipient_);
    if (index.is_settled(position, entry, recipient)) continue;
    const std::size_t begin = state_bytes_.size();
    const auto ref = index.state(mail::QueueId{entry.queue_id}, recipient);
    const Segment* const segment = ref ? index.find_segment(sequence_of(ref->position)) : nullptr;
    if (segment != nullptr) {
      const std::uint64_t offset = offset_of(ref->position);
      if (!states_.holds(segment->sequence, offset, ref->bytes)) {
        ask(states_, *segment, offset, ref->bytes,
            std::max(offset + ref->bytes, std::min(offset + state_window_bytes, segment->end)));
        return false;
      }
      const Bytes record = states_.buffer.first(states_.bytes).subspan(offset - states_.offset, ref->bytes);
      const auto header = check_record(segment->checksum, ref->position, record);
      if (header && header->kind == RecordKind::retry_state && header->queue_id == entry.queue_id) {
        const Bytes opaque = record.subspan(sizeof(RecordHeader), header->meta_bytes);
        state_bytes_.insert(state_bytes_.end(), opaque.begin(), opaque.end());
      }
    }
    unsettled_.push_back({.index = recipient, .state = {}});
    state_pieces_.emplace_back(begin, state_bytes_.size() - begin);
  }
  return true;
}

std::optional<ReadIntent> Replay::take_read() {
  if (asked_ == nullptr || read_taken_) return std::nullopt;
  if (asked_->buffer.size() < asked_bytes_) asked_->buffer = AlignedBuffer(asked_bytes_);
  asked_->bytes = 0;
  read_taken_ = true;
  return ReadIntent{asked_slot_, asked_offset_, asked_->buffer.bytes().first(asked_bytes_)};
}

void Replay::on_read(const Status& status) {
  POSTERN_CHECK(asked_ != nullptr && read_taken_);
  Window& window = *asked_;
  asked_ = nullptr;
  if (!status.ok() && asked_bytes_ > asked_least_) {
    asked_bytes_ = asked_least_;  // somewhere in it is a bad block: read no more than what is needed now
    asked_ = &window;
    read_taken_ = false;
    return;
  }
  if (!status.ok()) std::memset(window.buffer.data(), 0, asked_bytes_);  // validates as nothing
  window.sequence = asked_sequence_;
  window.offset = asked_offset_;
  window.bytes = asked_bytes_;
}

}  // namespace postern::spool
