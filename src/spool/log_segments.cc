// The part of Log that deals in whole segments: files, headers, summaries, what is dead and what is free.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/planted.h>
#include <postern/spool/log.h>

#include "compactor.h"

namespace postern::spool {
namespace {

// Files kept for re-use beyond reserve and spares: zeroing a new one costs more than a little room.
constexpr std::size_t surplus_segments = 2;

}  // namespace

// --- room -----------------------------------------------------------------------------------------------------------

bool Log::can_roll(Use use) const {
  const std::size_t kept = use == Use::intake ? options_.reserved_segments : 0;
  return free_.size() > kept && !keys_.empty();
}

bool Log::pressed_for_space() const {
  return free_.size() <= options_.reserved_segments;
}

bool Log::may_create() const {
  if (create_failed_) return false;
  const std::uint64_t files = index_.segment_count() + free_.size() + retired_.size() + 1;
  if (options_.space_limit_bytes != 0 && files * options_.segment_bytes > options_.space_limit_bytes) return false;
  if (free_.size() < options_.reserved_segments + (active_ == nullptr ? 1u : 0u)) {
    return free_bytes_ >= 2 * options_.segment_bytes;
  }
  return free_bytes_ >= options_.min_free_bytes + options_.segment_bytes;
}

Intake Log::intake() const {
  if (failed()) return Intake::failed;
  if (!folder_there_ || free_bytes_ < options_.min_free_bytes) return Intake::space_low;
  if (!header_durable_) return active_ == nullptr && create_failed_ ? Intake::space_low : Intake::starting;
  if (!can_roll(Use::intake) && !slot_taken_ && !may_create() && retired_.empty()) {
    const std::uint64_t room = active_->bytes - std::min(active_->bytes, active_->end + Index::summary_bytes(*active_));
    if (room < 2 * options_.batch_bytes_max) return Intake::space_low;
  }
  return Intake::open;
}

// --- beginning and sealing ------------------------------------------------------------------------------------------

void Log::roll() {
  close_batch();
  push_summary(*active_);
  ++figures_.segments_sealed;
  begin_segment();
}

void Log::push_summary(Segment& segment) {
  std::vector<std::byte> entries;
  SummaryFooter footer;
  footer.entries = index_.build_summary(segment, entries);
  const std::size_t entry_bytes = round_up(entries.size(), block_bytes);
  const std::size_t bytes = entry_bytes + block_bytes;
  segment.sealed = true;
  segment.notes = {};
  segment.entries.shrink_to_fit();
  if (segment.end + bytes > segment.bytes) {
    // fits() keeps the room; only a damaged segment can have more to say than it had when it was written. Then the next
    // segment's previous_end closes it, and a later start reads all of it again.
    segment.seal_durable = true;
    return;
  }
  footer.entries_checksum = segment.checksum.of(entries);
  footer.sequence = segment.sequence;
  footer.oldest = oldest_;
  footer.end = segment.end;
  footer.entries_bytes = static_cast<std::uint32_t>(entries.size());
  if (segment.set_aside) footer.flags |= SummaryFooter::set_aside;
  footer.checksum = segment.checksum.of(
      {reinterpret_cast<const std::byte*>(&footer) + sizeof footer.checksum, sizeof footer - sizeof footer.checksum});
  Write write;
  write.kind = Write::Kind::summary;
  write.segment = &segment;
  write.offset = segment.bytes - bytes;
  write.bytes = bytes;
  write.oldest = oldest_;
  write.buffer = AlignedBuffer(bytes);
  std::memset(write.buffer.data(), 0, bytes);
  if (!entries.empty()) std::memcpy(write.buffer.data(), entries.data(), entries.size());
  std::memcpy(write.buffer.data() + bytes - sizeof footer, &footer, sizeof footer);
  writes_.push_back(std::move(write));
}

void Log::begin_segment() {
  POSTERN_CHECK(!free_.empty() && !keys_.empty());
  auto segment = std::make_unique<Segment>(keys_.front());
  SegmentHeader header;
  header.key = keys_.front();
  keys_.pop_front();
  header.log = log_;
  header.slot = free_.front().value;
  header.start = counter_ > UINT32_MAX / 2 ? start_ + 1 : start_;
  header.sequence = next_sequence_++;
  if (index_.segment_count() != 0) {
    const Segment& before = index_.segment(index_.segment_count() - 1);
    header.previous = before.sequence;
    header.previous_end = before.end;
  }
  header.oldest = oldest_;
  header.segment_bytes = options_.segment_bytes;
  header.checksum = Checksum().of(
      {reinterpret_cast<const std::byte*>(&header) + sizeof header.checksum, sizeof header - sizeof header.checksum});
  segment->sequence = header.sequence;
  segment->previous = header.previous;
  segment->slot = free_.front();
  free_.pop_front();
  segment->start = header.start;
  segment->bytes = header.segment_bytes;
  active_ = &index_.add_segment(std::move(segment));
  chain_ = header.checksum;
  batch_number_ = 0;

  Write write;
  write.kind = Write::Kind::header;
  write.segment = active_;
  write.bytes = batches_offset;
  write.oldest = oldest_;
  write.buffer = AlignedBuffer(batches_offset);
  std::memset(write.buffer.data(), 0, batches_offset);
  std::memcpy(write.buffer.data(), &header, sizeof header);
  std::memcpy(write.buffer.data() + block_bytes, &header, sizeof header);
  writes_.push_back(std::move(write));
}

// --- segments --------------------------------------------------------------------------------------------------------

void Log::advance_oldest() {
#ifdef POSTERN_PLANTED_BUGS
  for (std::size_t i = 1; POSTERN_PLANTED(settlement_lost_by_recycling) && i + 1 < index_.segment_count(); ++i) {
    const Segment& segment = index_.segment(i);
    if (&segment == active_ || !segment.seal_durable || segment.needed()) continue;
    free_.push_back(index_.planted_remove(i)->slot);
    --i;
  }
#endif
  while (index_.segment_count() > 1) {
    const Segment& front = index_.segment(0);
    if (&front == active_ || !front.seal_durable || front.needed()) break;
    const std::unique_ptr<Segment> gone = index_.remove_oldest();
    for (const Entry& entry : gone->entries) {
      if (entry.moved) forward_.erase(gone->position_of(entry));
    }
    oldest_ = index_.segment(0).sequence;
    if (gone->set_aside) {
      damaged_.emplace_back(gone->slot, gone->sequence);
    } else if (gone->bytes == options_.segment_bytes) {
      retired_.emplace_back(gone->slot, gone->sequence);
    } else {
      misfits_.emplace_back(gone->slot, gone->sequence);
    }
  }
}

void Log::retire() {
  while (!retired_.empty() && retired_.front().second < durable_oldest_) {
    const Slot slot = retired_.front().first;
    retired_.pop_front();
    ++figures_.segments_recycled;
    if (free_.size() < options_.reserved_segments + options_.spare_segments + surplus_segments) {
      free_.push_back(slot);
    } else {
      to_remove_.push_back(slot);
    }
  }
  while (!damaged_.empty() && damaged_.front().second < durable_oldest_) {
    to_set_aside_.push_back(damaged_.front());
    damaged_.pop_front();
  }
  while (!misfits_.empty() && misfits_.front().second < durable_oldest_) {
    to_remove_.push_back(misfits_.front().first);
    misfits_.pop_front();
  }
}

std::optional<SlotRequest> Log::take_slot_request() {
  if (slot_taken_ || failed()) return std::nullopt;
  SlotRequest request;
  if (!to_remove_.empty()) {
    request.kind = SlotRequest::Kind::remove;
    request.slot = to_remove_.front();
    to_remove_.pop_front();
  } else if (!to_set_aside_.empty()) {
    request.kind = SlotRequest::Kind::set_aside;
    request.slot = to_set_aside_.front().first;
    request.new_path = damaged_path(log_, to_set_aside_.front().second);
    to_set_aside_.pop_front();
  } else {
    const std::size_t wanted = options_.reserved_segments + options_.spare_segments + (active_ == nullptr ? 1 : 0);
    if (free_.size() >= wanted || !may_create()) return std::nullopt;
    request.slot = Slot{next_slot_++};
  }
  request.path = slot_path(log_, request.slot);
  request.bytes = options_.segment_bytes;
  slot_taken_ = true;
  slot_kind_ = request.kind;
  return request;
}

void Log::on_slot_done(Slot slot, const Status& status) {
  POSTERN_CHECK(slot_taken_);
  slot_taken_ = false;
  if (slot_kind_ != SlotRequest::Kind::create) return;  // a file that is still there is met at the next start
  if (status.ok()) {
    free_.push_back(slot);
  } else {
    create_failed_ = true;
    to_remove_.push_back(slot);
  }
}

void Log::on_space(std::uint64_t free_bytes) {
  free_bytes_ = free_bytes;
  create_failed_ = false;
}

// --- reclamation -----------------------------------------------------------------------------------------------------

std::optional<ReadIntent> Log::take_compaction_read(Instant now) {
  if (failed() || active_ == nullptr || in_group_ || replay_due_) return std::nullopt;
  return compactor_->take_read(now);
}

void Log::on_compaction_read(const Status& status, Instant now) {
  compactor_->on_read(status, now);
}

std::span<const Moved> Log::take_moved() {
  moved_out_.clear();
  std::swap(moved_out_, moved_);
  for (const Moved& moved : moved_out_) unpin({sequence_of(moved.from.position)});
  figures_.messages_moved += moved_out_.size();
  return moved_out_;
}

}  // namespace postern::spool
