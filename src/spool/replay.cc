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
constexpr std::uint64_t state_window_bytes = 256u << 10;
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

bool Replay::read_round() {
  const Index& index = log_->index();
  for (; ref_ < refs_.size(); ++ref_) {
    StateRef& ref = refs_[ref_];
    const Segment* const segment = index.find_segment(sequence_of(ref.position));
    const std::uint64_t offset = offset_of(ref.position);
    const std::uint64_t bytes = std::exchange(ref.bytes, 0);
    if (segment == nullptr) continue;  // its recipient was settled meanwhile
    if (!states_.holds(segment->sequence, offset, bytes)) {
      ref.bytes = static_cast<std::uint32_t>(bytes);
      std::uint64_t end = offset + bytes;
      for (std::size_t i = ref_ + 1; i < refs_.size(); ++i) {
        const std::uint64_t begin = offset_of(refs_[i].position);
        if (sequence_of(refs_[i].position) != segment->sequence || begin > end + state_gap_bytes) break;
        if (begin + refs_[i].bytes > offset + state_window_bytes) break;
        end = std::max(end, begin + refs_[i].bytes);
      }
      ask(states_, *segment, offset, bytes, end);
      return false;
    }
    const Bytes record = states_.buffer.first(states_.bytes).subspan(offset - states_.offset, bytes);
    const auto header = check_record(segment->checksum, ref.position, record);
    if (!header || header->kind != RecordKind::retry_state) continue;
    const Bytes opaque = record.subspan(sizeof(RecordHeader), header->meta_bytes);
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
  const std::uint64_t from = std::uint64_t{segment.entries[next_.entry].units} * record_alignment;
  std::uint64_t end = from + head;
  for (std::size_t i = next_.entry + 1; i < segment.entries.size(); ++i) {
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
    if (round_ == Round::collecting) {
      collect_round();
      if (round_ == Round::collecting) return std::nullopt;
    }
    if (round_ == Round::reading) {
      if (!read_round()) return std::nullopt;
      round_ = Round::handing_out;
    }
    if (!find_living(next_)) {
      finish();
      break;
    }
    if (next_ >= collected_) {
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
    if (!messages_.holds(next_.sequence, offset, head)) {
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
        const std::uint64_t offset = offset_of(ref->position);
        if (!states_.holds(segment->sequence, offset, ref->bytes)) {
          ask(states_, *segment, offset, ref->bytes, offset + ref->bytes);
          return false;
        }
        const Bytes record = states_.buffer.first(states_.bytes).subspan(offset - states_.offset, ref->bytes);
        const auto header = check_record(segment->checksum, ref->position, record);
        if (header && header->kind == RecordKind::retry_state && header->queue_id == entry.queue_id()) {
          state = record.subspan(sizeof(RecordHeader), header->meta_bytes);
        }
      }
      state_bytes_.insert(state_bytes_.end(), state.begin(), state.end());
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
