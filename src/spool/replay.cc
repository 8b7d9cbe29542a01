#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/spool/record.h>
#include <postern/spool/replay.h>

namespace postern::spool {
namespace {

constexpr std::uint64_t window_bytes = 256u << 10;
// What lies between two states that one read takes along: less than another read would cost.
constexpr std::uint64_t state_gap_bytes = 32u << 10;
constexpr std::size_t states_per_round = 512u << 10;
// Recipients looked up in one call: some milliseconds.
constexpr std::size_t recipients_per_call = 16u << 10;
// A head (header, envelope, added fields) is mostly within it; larger ones take a second read.
constexpr std::uint64_t head_guess_bytes = 4096;

}  // namespace

Replay::Replay(Log& log) : log_(&log) {
  const Index& index = log.index();
  if (index.segment_count() == 0) {
    finish();
    return;
  }
  next_.sequence = index.segment(0).sequence;
  collected_ = next_;
  last_sequence_ = log.recovered_last_;
}

void Replay::finish() {
  done_ = true;
  refs_ = {};
  round_bytes_ = {};
  log_->replay_due_ = false;
}

bool Replay::find_living(Cursor& cursor) const {
  const Index& index = log_->index();
  while (cursor.sequence <= last_sequence_) {
    const Segment* const segment = index.find_segment(cursor.sequence);
    if (segment != nullptr) {
      for (; cursor.entry < segment->entries.size(); ++cursor.entry) {
        if (segment->entries[cursor.entry].unsettled != 0) return true;
      }
    }
    cursor = {.sequence = cursor.sequence + 1};
    // Skip to the next segment that there is: numbers have holes.
    if (index.find_segment(cursor.sequence) == nullptr) {
      std::uint64_t next = last_sequence_ + 1;
      for (std::size_t i = 0; i < index.segment_count(); ++i) {
        if (index.segment(i).sequence >= cursor.sequence) {
          next = std::min(next, index.segment(i).sequence);
          break;
        }
      }
      cursor.sequence = next;
    }
  }
  return false;
}

// --- a round of states -----------------------------------------------------------------------------------------------

void Replay::collect_round() {
  const Index& index = log_->index();
  for (std::size_t looked_up = 0; looked_up < recipients_per_call;) {
    const bool full = refs_.size() >= states_per_round || round_size_ >= state_round_bytes;
    if (full || !find_living(collected_)) {
      std::sort(refs_.begin(), refs_.end(),
                [](const StateRef& a, const StateRef& b) { return a.position < b.position; });
      ref_ = 0;
      round_ = Round::reading;
      return;
    }
    const Segment& segment = *index.find_segment(collected_.sequence);
    const Entry& entry = segment.entries[collected_.entry];
    for (std::uint32_t i = 0; i < entry.recipients; ++i) {
      const auto recipient = static_cast<std::uint16_t>(i);
      if (index.is_settled(segment.position_of(entry), entry, recipient)) continue;
      const auto ref = index.state(segment.position_of(entry), entry, recipient);
      if (!ref || index.find_segment(sequence_of(ref->position)) == nullptr) continue;
      refs_.push_back({.position = ref->position, .bytes = ref->bytes});
      round_size_ += ref->bytes;
    }
    looked_up += entry.recipients;
    ++collected_.entry;
  }
}

void Replay::plan_states() {
  const Index& index = log_->index();
  for (planned_states_ = std::max(planned_states_, ref_); planned_states_ < refs_.size() && ahead_.has_room();) {
    const StateRef& first = refs_[planned_states_++];
    const Segment* const segment = index.find_segment(sequence_of(first.position));
    if (segment == nullptr) continue;
    const std::uint64_t from = offset_of(first.position);
    std::uint64_t end = from + first.bytes;
    for (; planned_states_ < refs_.size(); ++planned_states_) {
      const StateRef& ref = refs_[planned_states_];
      const std::uint64_t begin = offset_of(ref.position);
      if (sequence_of(ref.position) != segment->sequence || begin > end + state_gap_bytes) break;
      if (begin + ref.bytes > from + window_bytes) break;
      end = std::max(end, begin + ref.bytes);
    }
    ahead_.add().ask(segment->slot, segment->sequence, segment->bytes, from, end);
  }
}

bool Replay::read_round() {
  const Index& index = log_->index();
  for (; ref_ < refs_.size(); ++ref_) {
    StateRef& ref = refs_[ref_];
    const Segment* const segment = index.find_segment(sequence_of(ref.position));
    if (segment == nullptr) {  // its recipient was settled meanwhile
      ref.bytes = 0;
      continue;
    }
    plan_states();
    const std::optional<Bytes> record = bytes_at(single_state_, *segment, offset_of(ref.position), ref.bytes);
    if (!record) return false;
    ref.bytes = 0;
    const auto header = check_record(segment->checksum, ref.position, *record);
    if (!header || header->kind != RecordKind::retry_state) continue;
    const Bytes opaque = record->subspan(sizeof(RecordHeader), header->meta_bytes);
    ref.begin = static_cast<std::uint32_t>(round_bytes_.size());
    ref.bytes = static_cast<std::uint32_t>(opaque.size());
    round_bytes_.insert(round_bytes_.end(), opaque.begin(), opaque.end());
  }
  return true;
}

const Replay::StateRef* Replay::find_in_round(std::uint64_t position) const {
  const auto at = std::lower_bound(refs_.begin(), refs_.end(), position,
                                   [](const StateRef& ref, std::uint64_t wanted) { return ref.position < wanted; });
  return at != refs_.end() && at->position == position ? &*at : nullptr;
}

// --- messages --------------------------------------------------------------------------------------------------------

void Replay::next_message() {
  ++next_.entry;
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
  unreadable_.push_back({location, mail::QueueId{entry.queue_id()}, error(StatusCode::kDataLoss, text)});
  next_message();
}

std::optional<Bytes> Replay::bytes_at(ReadWindow& single, const Segment& segment, std::uint64_t from,
                                      std::uint64_t size) {
  const ReadAhead::Found found = ahead_.find(segment.sequence, from, size);
  if (found.wait) return std::nullopt;
  if (found.window != nullptr) return found.window->at(from, size);
  return single_at(single, segment, from, size);
}

std::optional<Bytes> Replay::single_at(ReadWindow& single, const Segment& segment, std::uint64_t from,
                                       std::uint64_t size) {
  if (single.state == ReadWindow::State::filled && single.covers(segment.sequence, from, size)) {
    return single.at(from, size);
  }
  if (single.state != ReadWindow::State::reading) {
    single.ask(segment.slot, segment.sequence, segment.bytes, from, from + size);
  }
  return std::nullopt;
}

// Each window as far as the living messages that follow closely reach.
void Replay::plan_messages() {
  const Index& index = log_->index();
  planned_messages_ = std::max(planned_messages_, next_);
  while (ahead_.has_room() && find_living(planned_messages_) && planned_messages_ < collected_) {
    const Segment& segment = *index.find_segment(planned_messages_.sequence);
    const auto begin_of = [](const Entry& entry) { return std::uint64_t{entry.units} * record_alignment; };
    const auto end_of = [&](const Entry& entry) {
      return begin_of(entry) + std::min<std::uint64_t>(entry.bytes, head_guess_bytes);
    };
    std::size_t& at = planned_messages_.entry;
    const std::uint64_t from = begin_of(segment.entries[at]);
    std::uint64_t end = end_of(segment.entries[at]);
    for (++at; at < segment.entries.size(); ++at) {
      const Entry& entry = segment.entries[at];
      if (entry.unsettled == 0) continue;
      if (end_of(entry) > from + window_bytes) break;
      end = std::max(end, end_of(entry));
    }
    ahead_.add().ask(segment.slot, segment.sequence, segment.bytes, from, end);
  }
}

std::optional<ReplayedMessage> Replay::take_message() {
  const Index& index = log_->index();
  while (!done_) {
    if (round_ == Round::collecting) {
      collect_round();
      if (round_ == Round::collecting) return std::nullopt;
    }
    if (round_ == Round::reading) {
      if (!read_round() || !ahead_.clear()) return std::nullopt;
      round_ = Round::handing_out;
    }
    if (!find_living(next_)) {
      if (!nothing_is_read()) return std::nullopt;
      finish();
      break;
    }
    if (next_ >= collected_) {
      if (!ahead_.clear()) return std::nullopt;
      planned_states_ = 0;
      refs_.clear();
      round_bytes_.clear();
      round_size_ = 0;
      round_ = Round::collecting;
      continue;
    }
    const Segment& segment = *index.find_segment(next_.sequence);
    const Entry& entry = segment.entries[next_.entry];
    const std::uint64_t offset = std::uint64_t{entry.units} * record_alignment;
    const std::uint64_t head = head_bytes_ != 0 ? head_bytes_ : std::min<std::uint64_t>(entry.bytes, head_guess_bytes);
    plan_messages();
    const std::optional<Bytes> read = bytes_at(single_head_, segment, offset, head);
    if (!read) return std::nullopt;
    const Bytes at = *read;
    const std::size_t needed = head_bytes(at);
    if (needed > head && needed <= entry.bytes) {
      head_bytes_ = needed;
      continue;
    }
    const auto header = check_record(segment.checksum, segment.position_of(entry), at);
    const auto view = header && header->bytes == entry.bytes && header->queue_id == entry.queue_id()
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
    const auto ref = index.state(position, entry, recipient);
    const Segment* const segment = ref ? index.find_segment(sequence_of(ref->position)) : nullptr;
    if (segment != nullptr) {
      Bytes state;
      if (const StateRef* const known = find_in_round(ref->position); known != nullptr) {
        state = Bytes(round_bytes_).subspan(known->begin, known->bytes);
      } else {
        // It is newer than the round.
        const std::optional<Bytes> record = single_at(single_state_, *segment, offset_of(ref->position), ref->bytes);
        if (!record) return false;
        const auto header = check_record(segment->checksum, ref->position, *record);
        if (header && header->kind == RecordKind::retry_state && header->queue_id == entry.queue_id()) {
          state = record->subspan(sizeof(RecordHeader), header->meta_bytes);
        }
      }
      state_bytes_.insert(state_bytes_.end(), state.begin(), state.end());
    }
    unsettled_.push_back({.index = recipient, .state = {}});
    state_pieces_.emplace_back(begin, state_bytes_.size() - begin);
  }
  return true;
}

// --- reads -----------------------------------------------------------------------------------------------------------

std::optional<Replay::Read> Replay::take_read() {
  if (done_) return std::nullopt;
  // What take_message() stands still for comes first.
  for (unsigned i = 0; i < singles_.size(); ++i) {
    if (singles_[i]->state == ReadWindow::State::asked) {
      return Read{ReadAhead::windows_max + i, singles_[i]->begin_reading()};
    }
  }
  return ahead_.take_read();
}

void Replay::on_read(unsigned window, const Status& status) {
  if (window < ReadAhead::windows_max) return ahead_.on_read(window, status);
  ReadWindow& single = *singles_.at(window - ReadAhead::windows_max);
  POSTERN_CHECK(single.state == ReadWindow::State::reading);
  if (!status.ok()) std::memset(single.buffer.data(), 0, single.bytes);  // validates as nothing
  single.state = ReadWindow::State::filled;
}

// Memory that a read under way writes to must not go.
bool Replay::nothing_is_read() {
  return ahead_.clear() && single_head_.state != ReadWindow::State::reading &&
         single_state_.state != ReadWindow::State::reading;
}

}  // namespace postern::spool
