#include "compactor.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include <postern/base/check.h>
#include <postern/spool/record.h>

namespace postern::spool {

namespace {

constexpr std::uint64_t window_bytes = 256u << 10;

}  // namespace

bool Compactor::worthwhile() const {
  const Index& index = log_.index_;
  if (index.segment_count() < std::max<std::size_t>(2, log_.options_.compaction_segments_min)) return false;
  const Segment& front = index.segment(0);
  if (&front == log_.active_ || !front.seal_durable || log_.free_.empty()) return false;
  // Of the sealed segments only: the active one's room is no garbage.
  const std::uint64_t total = index.segment_bytes() - log_.active_->bytes;
  const std::uint64_t live = index.live_bytes() - log_.active_->live_bytes;
  const std::uint64_t garbage = total - std::min(total, live);
  const bool pressed = log_.pressed_for_space() && !log_.may_create();
  const std::uint64_t percent =
      pressed ? std::max(1u, log_.options_.garbage_percent / 4) : log_.options_.garbage_percent;
  if (garbage < 2 * front.bytes || garbage < total / 100 * percent) return false;
  // Bytes are moved only against bytes that died or were padding from the first. At the share of garbage at which this
  // starts, two are moved for one that is won when the living lie evenly; the third is for when they do not.
  const std::uint64_t credit = allowance_ + (index.died_bytes() + log_.padding_bytes_) * (pressed ? 8 : 3);
  return spent_ + front.live_bytes <= credit;
}

bool Compactor::begin_segment() {
  Segment& front = log_.index_.segment(0);
  if (sequence_ != front.sequence) failures_ = 0;
  sequence_ = front.sequence;
  jobs_.clear();
  job_ = 0;
  for (const Entry& entry : front.entries) {
    if (entry.unsettled != 0) jobs_.push_back({.position = front.position_of(entry)});
  }
  for (const auto& [position, uses] : log_.index_.large()) {
    if (sequence_of(position) == sequence_) continue;
    const bool here =
        std::any_of(uses.begin(), uses.end(), [this](const ChunkUse& use) { return use.sequence == sequence_; });
    if (here) jobs_.push_back({.position = position});
  }
  for (const auto& [id, content] : log_.contents_) {
    if (content.unreadable) continue;
    for (std::size_t i = 0; i < content.extents.size(); ++i) {
      if (sequence_of(content.extents[i].position) == sequence_) jobs_.push_back({.content = id, .index = i});
    }
  }
  if (jobs_.empty()) return false;  // waits for readers, or for notices of moves to be taken
  spent_ += front.live_bytes;
  ++front.pins;
  window_begin_ = window_end_ = 0;
  narrow_ = false;
  step_ = Step::next;
  return true;
}

void Compactor::end_segment() {
  log_.unpin({sequence_});
  log_.advance_oldest();
  step_ = Step::idle;
}

bool Compactor::alive() const {
  const Entry* const entry = log_.index_.find_entry(jobs_[job_].position);
  return entry != nullptr && entry->unsettled != 0;
}

void Compactor::begin_job() {
  const Job& job = jobs_[job_];
  if (job.position == 0) {
    const auto at = log_.contents_.find(job.content);
    const bool here = at != log_.contents_.end() && sequence_of(at->second.extents[job.index].position) == sequence_;
    if (here) {
      step_ = Step::content;
    } else {
      ++job_;
    }
    return;
  }
  if (!alive()) {
    ++job_;
    return;
  }
  copy_ = {};
  copy_id_ = 0;
  copied_.clear();
  chunk_ = 0;
  recipient_ = 0;
  states_.clear();
  state_bytes_.clear();
  state_ = 0;
  step_ = Step::record;
}

void Compactor::end_job() {
  // What was copied is counted by the message that lists it by now, or by nobody.
  for (const std::size_t i : copied_)
    log_.index_.remove_chunk(copy_.extents[i].position, copy_.extents[i].bytes, false);
  copied_.clear();
  ++job_;
  step_ = Step::next;
}

void Compactor::give_up(std::string_view why) {
  const std::uint64_t position = jobs_[job_].position;
  if (Segment* const segment = log_.index_.find_segment(sequence_of(position)); segment != nullptr && alive()) {
    segment->set_aside = true;
    const Entry* const entry = log_.index_.find_entry(position);
    std::string text = "spool: message ";
    text += mail::QueueId{entry->queue_id()}.to_string();
    text += " cannot be read and is given up; its file is left aside: ";
    text += why;
    if (log_.alarms_.size() < RecoveryReport::alarms_max) log_.alarms_.push_back(std::move(text));
    ++log_.figures_.messages_unreadable;
    log_.index_.drop(position);
  }
  end_job();
}

// What was moved of the segment has been moved.
void Compactor::leave_for_now(Instant now) {
  end_job();
  if (const Segment* const segment = log_.index_.find_segment(sequence_)) {
    spent_ -= std::min(spent_, segment->live_bytes);
  }
  next_attempt_ = now + pause;
  end_segment();
}

bool Compactor::find_state() {
  const Entry* const entry = log_.index_.find_entry(jobs_[job_].position);
  for (; recipient_ < entry->recipients; ++recipient_) {
    const auto recipient = static_cast<std::uint16_t>(recipient_);
    if (log_.index_.is_settled(jobs_[job_].position, *entry, recipient)) continue;
    const auto ref = log_.index_.state(jobs_[job_].position, *entry, recipient);
    if (ref && log_.index_.find_segment(sequence_of(ref->position)) != nullptr) return true;
  }
  return false;
}

bool Compactor::append_message() {
  const std::uint64_t position = jobs_[job_].position;
  const Index::Found found = log_.index_.find(position);
  const mail::QueueId id = view_.id;
  std::vector<std::byte> settled;
  if (found.entry->unsettled != found.entry->recipients) {
    settled.resize((found.entry->recipients + 7u) / 8u);
    for (std::uint32_t i = 0; i < found.entry->recipients; ++i) {
      if (log_.index_.is_settled(position, *found.entry, static_cast<std::uint16_t>(i))) {
        settled[i / 8u] |= static_cast<std::byte>(1u << (i % 8u));
      }
    }
  }
  const std::array<Bytes, 1> content{view_.content};
  MessageRecord record;
  record.id = id;
  record.envelope = view_.envelope;
  record.added_fields = view_.added_fields;
  record.content = content;
  record.facts = view_.facts;
  record.recipients = view_.recipients;
  record.use = Use::internal;
  const mail::Location from{.log = log_.log_, .length = found.entry->bytes, .position = position};
  const StatusOr<mail::Location> to = log_.place_message(record, copy_.extents, position, settled);
  if (to.status().code() == StatusCode::kInvalidArgument) stall(message_of(to.status()));
  if (!to.ok()) return false;
  log_.open_->rewritten = true;
  log_.open_->moved.push_back({id, from, *to});
  log_.forward_[position] = *to;
  moved_to_ = *to;
  ++found.segment->pins;  // until the notice is taken
  return true;
}

bool Compactor::append_states() {
  for (; state_ < states_.size(); ++state_) {
    const State& state = states_[state_];
    const auto latest = log_.state_of(moved_to_, state.recipient);
    if (!state.usable || !latest || latest->position != state.position) continue;  // settled, or newer, meanwhile
    const Status done = log_.append_retry_state(moved_to_, view_.id, state.recipient,
                                                Bytes(state_bytes_).subspan(state.begin, state.size));
    if (done.code() == StatusCode::kResourceExhausted || done.code() == StatusCode::kUnavailable) return false;
  }
  return true;
}

// A record is too large for the batches that this start makes: nothing is lost, but no space comes back either.
void Compactor::stall(std::string_view why) {
  stalled_ = true;
  std::string text = "spool: compaction stops, raise batch_bytes_max to what it was: ";
  text += why;
  log_.alarms_.push_back(std::move(text));
}

bool Compactor::advance() {
  for (;;) {
    if (stalled_) return false;
    switch (step_) {
      case Step::idle:
        if (!worthwhile() || !begin_segment()) return false;
        break;
      case Step::next:
        if (job_ == jobs_.size()) {
          end_segment();
        } else {
          begin_job();
        }
        break;
      case Step::record:
        if (!alive()) {
          end_job();
          break;
        }
        return true;
      case Step::chunks:
        if (!alive()) {
          end_job();
          break;
        }
        while (chunk_ < copy_.extents.size() && sequence_of(copy_.extents[chunk_].position) != sequence_) ++chunk_;
        if (chunk_ < copy_.extents.size()) {
          if (copy_.extents[chunk_].bytes > log_.chunk_bytes_max()) {
            stall("a chunk is larger than a batch");
            break;
          }
          return log_.has_room(Log::chunk_record_bytes(copy_.extents[chunk_].bytes), Use::internal);
        }
        step_ = Step::states;
        break;
      case Step::states:
        if (!alive()) {
          end_job();
          break;
        }
        if (find_state()) return true;
        step_ = Step::append;
        break;
      case Step::append:
        if (!alive()) {
          end_job();
          break;
        }
        if (!states_current()) {
          states_.clear();
          state_bytes_.clear();
          recipient_ = 0;
          step_ = Step::states;
          break;
        }
        if (!append_message()) return false;
        step_ = Step::append_states;
        break;
      case Step::append_states:
        if (!append_states()) return false;
        end_job();
        break;
      case Step::content: {
        const auto at = log_.contents_.find(jobs_[job_].content);
        if (at == log_.contents_.end()) {
          end_job();
          break;
        }
        return log_.has_room(Log::chunk_record_bytes(at->second.extents[jobs_[job_].index].bytes), Use::internal);
      }
    }
  }
}

std::optional<Compactor::Wanted> Compactor::wanted() {
  const Index& index = log_.index_;
  const Job& job = jobs_[job_];
  std::uint64_t position = 0;
  Wanted wanted;
  if (step_ == Step::record) {
    position = job.position;
    wanted.bytes = index.find_entry(position)->bytes;
  } else if (step_ == Step::states) {
    const auto ref = index.state(job.position, *index.find_entry(job.position), static_cast<std::uint16_t>(recipient_));
    position = state_position_ = ref->position;
    wanted.bytes = ref->bytes;
  } else {
    const Extent extent =
        step_ == Step::chunks ? copy_.extents[chunk_] : log_.contents_.at(job.content).extents[job.index];
    position = extent.position;
    wanted.bytes = sizeof(RecordHeader) + std::uint64_t{extent.bytes};
  }
  wanted.segment = index.find_segment(sequence_of(position));
  const std::uint64_t offset = offset_of(position);
  // A record appended a moment ago is on its way to the disk: come back when it is there.
  if (!wanted.segment->seal_durable && offset + wanted.bytes > wanted.segment->durable_end) return std::nullopt;
  wanted.offset = round_down(offset, block_bytes);
  wanted.end = round_up(offset + wanted.bytes, block_bytes);
  wanted.lead = offset - wanted.offset;
  return wanted;
}

bool Compactor::in_window(const Wanted& wanted) {
  if (wanted.segment->sequence != sequence_ || wanted.offset < window_begin_ || wanted.end > window_end_) return false;
  range_ = Bytes(window_.bytes()).subspan(wanted.offset - window_begin_, wanted.end - wanted.offset);
  read_bytes_ = range_.subspan(wanted.lead, wanted.bytes);
  return true;
}

ReadIntent Compactor::read(const Wanted& wanted) {
  reading_ = true;
  reading_what_ = wanted;
  reading_window_ = !narrow_ && wanted.segment->sequence == sequence_ && wanted.end - wanted.offset <= window_bytes;
  const std::uint64_t end =
      reading_window_ ? std::min(wanted.offset + window_bytes, wanted.segment->bytes) : wanted.end;
  AlignedBuffer& buffer = reading_window_ ? window_ : other_;
  if (buffer.size() < end - wanted.offset) buffer = AlignedBuffer(end - wanted.offset);
  if (reading_window_) {
    window_begin_ = wanted.offset;
    window_end_ = end;
  }
  return {wanted.segment->slot, wanted.offset, buffer.bytes().first(end - wanted.offset)};
}

std::optional<ReadIntent> Compactor::take_read(Instant now) {
  if (reading_ || now < next_attempt_) return std::nullopt;
  while (log_.compaction_may_append() && advance()) {
    const std::optional<Wanted> what = wanted();
    if (!what) return std::nullopt;
    if (!in_window(*what)) return read(*what);
    on_bytes();
  }
  return std::nullopt;
}

void Compactor::on_read(const Status& status, Instant now) {
  POSTERN_CHECK(reading_);
  reading_ = false;
  if (!status.ok() && reading_window_) {
    window_end_ = window_begin_;
    narrow_ = true;  // until the segment's end: what can be read of it is read piece by piece
    return;
  }
  if (log_.failed()) return;
  if (jobs_[job_].position != 0 && !alive()) {
    end_job();
    return;
  }
  if (!status.ok()) {
    on_failed_read(status, now);
    return;
  }
  range_ = Bytes((reading_window_ ? window_ : other_).bytes()).first(reading_what_.end - reading_what_.offset);
  read_bytes_ = range_.subspan(reading_what_.lead, reading_what_.bytes);
  on_bytes();
}

void Compactor::on_failed_read(const Status& status, Instant now) {
  // For want of descriptors, memory or rights nothing is said of what was to be read.
  const bool of_disk =
      status.code() != StatusCode::kResourceExhausted && status.code() != StatusCode::kPermissionDenied;
  if (!of_disk || failures_ < attempts) {
    if (of_disk) ++failures_;
    leave_for_now(now);
  } else if (step_ == Step::states) {
    keep_state({});
  } else if (step_ == Step::content) {
    if (const auto at = log_.contents_.find(jobs_[job_].content); at != log_.contents_.end()) {
      at->second.unreadable = true;
    }
    end_job();
  } else {
    give_up(message_of(status));
  }
}

void Compactor::on_bytes() {
  switch (step_) {
    case Step::record:
      on_record();
      break;
    case Step::chunks:
      on_chunk();
      break;
    case Step::states:
      on_state();
      break;
    case Step::content:
      on_content();
      break;
    default:
      break;
  }
}

void Compactor::on_record() {
  const std::uint64_t position = jobs_[job_].position;
  const Segment* const segment = log_.index_.find_segment(sequence_of(position));
  record_.assign(read_bytes_.begin(), read_bytes_.end());  // the window moves on when states and chunks are read
  const auto header = check_record(segment->checksum, position, record_);
  const auto view =
      header && check_content(segment->checksum, *header, record_) ? read_message(*header, record_) : std::nullopt;
  if (!view || view->id.value != log_.index_.find_entry(position)->queue_id()) {
    give_up("damaged record");
    return;
  }
  view_ = *view;
  for (std::size_t i = 0; i < view_.extents.size(); ++i) copy_.extents.push_back(view_.extents[i]);
  copy_id_ = log_.next_content_++;
  step_ = Step::chunks;
}

void Compactor::on_chunk() {
  const StatusOr<Bytes> bytes = log_.decode_chunk(copy_.extents[chunk_], chunk_, range_);
  if (!bytes.ok()) {
    give_up(message_of(bytes.status()));
    return;
  }
  const StatusOr<Extent> extent = log_.place_chunk(chunk_, copy_id_, *bytes, Use::internal);
  if (!extent.ok()) return;  // no room: read again later
  log_.open_->rewritten = true;
  copy_.extents[chunk_] = *extent;  // the message lists the old ones until its new record is appended
  copied_.push_back(chunk_);
  ++chunk_;
}

void Compactor::on_state() {
  const std::uint64_t position = jobs_[job_].position;
  const auto ref =
      log_.index_.state(position, *log_.index_.find_entry(position), static_cast<std::uint16_t>(recipient_));
  if (!ref) return;  // settled meanwhile
  const Segment* const segment = log_.index_.find_segment(sequence_of(ref->position));
  const auto header = check_record(segment->checksum, ref->position, read_bytes_);
  const bool valid = header && header->kind == RecordKind::retry_state && header->queue_id == view_.id.value;
  keep_state(valid ? std::optional(read_bytes_.subspan(sizeof(RecordHeader), header->meta_bytes)) : std::nullopt);
}

// nullopt: it could not be read. The message matters more than what was known of its attempts.
void Compactor::keep_state(std::optional<Bytes> opaque) {
  states_.push_back({.recipient = static_cast<std::uint16_t>(recipient_), .position = state_position_});
  if (opaque) {
    states_.back().begin = state_bytes_.size();
    states_.back().size = opaque->size();
    states_.back().usable = true;
    state_bytes_.insert(state_bytes_.end(), opaque->begin(), opaque->end());
  }
  ++recipient_;
}

// Whether no recipient got a newer state since they were read. A state must never lie before its message's record, or
// it is forgotten first; one that is appended after that record lies behind it.
bool Compactor::states_current() const {
  std::size_t at = 0;
  const Entry* const entry = log_.index_.find_entry(jobs_[job_].position);
  for (std::uint32_t i = 0; i < entry->recipients; ++i) {
    const auto recipient = static_cast<std::uint16_t>(i);
    while (at < states_.size() && states_[at].recipient < recipient) ++at;
    if (log_.index_.is_settled(jobs_[job_].position, *entry, recipient)) continue;
    const auto latest = log_.index_.state(jobs_[job_].position, *entry, recipient);
    if (!latest || log_.index_.find_segment(sequence_of(latest->position)) == nullptr) continue;
    if (at == states_.size() || states_[at].recipient != recipient || states_[at].position != latest->position) {
      return false;
    }
  }
  return true;
}

void Compactor::on_content() {
  const Job& job = jobs_[job_];
  const auto at = log_.contents_.find(job.content);
  if (at == log_.contents_.end()) {
    end_job();
    return;
  }
  Extent& old = at->second.extents[job.index];
  const StatusOr<Bytes> bytes = log_.decode_chunk(old, job.index, range_);
  if (bytes.ok()) {
    const StatusOr<Extent> extent = log_.place_chunk(job.index, job.content, *bytes, Use::internal);
    if (!extent.ok()) return;  // no room: read again later
    log_.open_->rewritten = true;
    log_.index_.remove_chunk(old.position, old.bytes, false);
    old = *extent;
  } else {
    at->second.unreadable = true;  // whoever reads the message finds out
  }
  end_job();
}

}  // namespace postern::spool
