#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/planted.h>
#include <postern/spool/batch.h>
#include <postern/spool/record.h>
#include <postern/spool/recovery.h>

namespace postern::spool {
namespace {

constexpr std::size_t scan_window_bytes = 1u << 20;

template <class T>
T load(Bytes bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

bool all_zero(Bytes bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; });
}

std::vector<ChunkUse> chunk_uses(const ExtentList& extents) {
  std::vector<ChunkUse> uses;
  for (std::size_t i = 0; i < extents.size(); ++i) {
    const Extent extent = extents[i];
    const std::uint64_t sequence = sequence_of(extent.position);
    auto at =
        std::find_if(uses.begin(), uses.end(), [sequence](const ChunkUse& use) { return use.sequence == sequence; });
    if (at == uses.end()) at = uses.insert(uses.end(), ChunkUse{sequence, 0, 0});
    ++at->chunks;
    at->bytes += extent.bytes;
  }
  return uses;
}

std::string place_text(std::uint16_t log, const Segment& segment, std::uint64_t offset) {
  return "segment " + std::to_string(segment.sequence) + " (" + slot_path(log, segment.slot) + ") at offset " +
         std::to_string(offset);
}

}  // namespace

void RecoveryReport::alarm(std::string text) {
  if (alarms.size() < alarms_max) alarms.push_back(std::move(text));
}

Recovery::Recovery(std::uint16_t log, const Options& options, std::vector<SlotFile> files)
    : options_(options), files_(std::move(files)) {
  result_.log = log;
  std::sort(files_.begin(), files_.end(), [](const SlotFile& a, const SlotFile& b) { return a.slot < b.slot; });
  for (const SlotFile& file : files_) result_.next_slot = std::max(result_.next_slot, file.slot.value + 1);
  next_file();
}

// --- reads -----------------------------------------------------------------------------------------------------------

void Recovery::begin_read(Slot slot, std::uint64_t offset, std::size_t bytes) {
  if (window_.size() < bytes) window_ = AlignedBuffer(bytes);
  window_slot_ = slot;
  window_offset_ = offset;
  window_bytes_ = bytes;
  filled_ = 0;
  piece_ = bytes;
  pending_ = true;
}

std::optional<ReadIntent> Recovery::take_read() {
  if (!pending_ || reading_) return std::nullopt;
  reading_ = true;
  piece_ = std::min<std::size_t>(piece_, window_bytes_ - filled_);
  return ReadIntent{window_slot_, window_offset_ + filled_, window_.bytes().subspan(filled_, piece_)};
}

void Recovery::on_read(const Status& status) {
  POSTERN_CHECK(reading_);
  reading_ = false;
  if (status.ok()) {
    result_.report.bytes_read += piece_;
    filled_ += piece_;
    piece_ *= 2;
  } else if (piece_ > block_bytes) {
    piece_ = std::max<std::size_t>(block_bytes, round_down(piece_ / 2, block_bytes));
  } else {
    // One block that cannot be read: zeros validate as nothing.
    std::memset(window_.data() + filled_, 0, piece_);
    result_.report.unreadable_bytes += piece_;
    filled_ += piece_;
  }
  if (filled_ < window_bytes_) return;
  pending_ = false;
  switch (step_) {
    case Step::headers:
      on_header();
      break;
    case Step::footer:
      on_footer();
      break;
    case Step::entries:
      on_entries();
      break;
    case Step::scan:
      on_scan();
      break;
    case Step::done:
      break;
  }
}

bool Recovery::want(std::uint64_t offset, std::uint64_t bytes) {
  if (window_slot_ == segment_->slot && offset >= window_offset_ && offset + bytes <= window_offset_ + filled_)
    return true;
  const std::uint64_t from = round_down(offset, block_bytes);
  const std::uint64_t least = round_up(offset + bytes, block_bytes) - from;
  const std::uint64_t most = segment_->bytes - from;
  begin_read(segment_->slot, from, std::min(std::max<std::uint64_t>(least, scan_window_bytes), most));
  return false;
}

Bytes Recovery::window_at(std::uint64_t offset, std::uint64_t bytes) const {
  return window_.first(window_bytes_).subspan(offset - window_offset_, bytes);
}

void Recovery::fail(Status status) {
  status_ = std::move(status);
  step_ = Step::done;
}

// --- headers ---------------------------------------------------------------------------------------------------------

void Recovery::next_file() {
  for (; file_ < files_.size(); ++file_) {
    if (files_[file_].bytes >= batches_offset + block_bytes) {
      begin_read(files_[file_].slot, 0, batches_offset);
      return;
    }
    result_.stale_slots.push_back(files_[file_].slot);  // its making was interrupted
  }
  begin_segments();
}

void Recovery::on_header() {
  const SlotFile& file = files_[file_];
  const Checksum checksum;
  std::optional<SegmentHeader> found;
  for (std::size_t copy = 0; copy < 2 && !found; ++copy) {
    const auto header = check_segment_header(checksum, window_at(copy * block_bytes, sizeof(SegmentHeader)));
    if (!header) continue;
    if (header->version != format_version) {
      fail(error(StatusCode::kFailedPrecondition,
                 slot_path(result_.log, file.slot) + ": spool format " + std::to_string(header->version) +
                     ", this program knows " + std::to_string(format_version) + ": use the program that wrote it"));
      return;
    }
    if (header->log == result_.log && header->slot == file.slot.value && sane_segment_header(*header, file.bytes)) {
      found = *header;
    }
  }
  if (found) {
    candidates_.push_back({*found, file.slot});
  } else if (all_zero(window_at(0, batches_offset)) && result_.report.unreadable_bytes == unreadable_before_) {
    // Prepared and never used; or not quite prepared, which cannot be told.
    result_.stale_slots.push_back(file.slot);
  } else {
    ++result_.report.segments_set_aside;
    result_.report.alarm(
        slot_path(result_.log, file.slot) +
        ": both copies of the segment's header are damaged; the file is left alone. Mail in it is lost "
        "to this log unless the file is restored");
  }
  unreadable_before_ = result_.report.unreadable_bytes;
  ++file_;
  next_file();
}

void Recovery::begin_segments() {
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.header.sequence != b.header.sequence ? a.header.sequence < b.header.sequence : a.slot < b.slot;
  });
  for (std::size_t i = 1; i < candidates_.size();) {
    if (candidates_[i].header.sequence != candidates_[i - 1].header.sequence) {
      ++i;
      continue;
    }
    ++result_.report.segments_set_aside;
    result_.report.alarm(slot_path(result_.log, candidates_[i].slot) + ": a second file claims segment " +
                         std::to_string(candidates_[i].header.sequence) + "; it is left alone");
    candidates_.erase(candidates_.begin() + static_cast<std::ptrdiff_t>(i));
  }
  for (const Candidate& candidate : candidates_) result_.oldest = std::max(result_.oldest, candidate.header.oldest);
  candidate_ = 0;
  begin_segment();
}

void Recovery::begin_segment() {
  for (; candidate_ < candidates_.size(); ++candidate_) {
    const SegmentHeader& header = candidates_[candidate_].header;
    if (header.sequence < result_.oldest) {
      free_slot(candidates_[candidate_].slot, header.segment_bytes);
      continue;
    }
    auto segment = std::make_unique<Segment>(header.key);
    segment->sequence = header.sequence;
    segment->previous = header.previous;
    segment->slot = candidates_[candidate_].slot;
    segment->start = header.start;
    segment->bytes = header.segment_bytes;
    segment_ = &result_.index.add_segment(std::move(segment));
    step_ = Step::footer;
    begin_read(segment_->slot, segment_->bytes - block_bytes, block_bytes);
    return;
  }
  finish();
}

void Recovery::free_slot(Slot slot, std::uint64_t bytes) {
  if (bytes == options_.segment_bytes) {
    result_.free_slots.push_back(slot);
  } else {
    result_.stale_slots.push_back(slot);
  }
}

// --- sealed segments -------------------------------------------------------------------------------------------------

void Recovery::on_footer() {
  const auto footer = check_footer(segment_->checksum, segment_->sequence, segment_->bytes,
                                   window_at(segment_->bytes - block_bytes, block_bytes));
  if (!footer) {
    begin_scan();
    return;
  }
  footer_ = *footer;
  const std::uint64_t entry_bytes = round_up(footer_.entries_bytes, block_bytes);
  segment_->end = footer_.end;
  if (entry_bytes == 0) {
    filled_ = window_bytes_ = 0;
    on_entries();
    return;
  }
  step_ = Step::entries;
  begin_read(segment_->slot, segment_->bytes - block_bytes - entry_bytes, entry_bytes);
}

void Recovery::on_entries() {
  const Bytes entries = window_.first(footer_.entries_bytes);
  if (segment_->checksum.of(entries) != footer_.entries_checksum ||
      !result_.index.apply_summary(*segment_, entries, footer_.entries).ok()) {
    result_.index.clear_messages(*segment_);
    begin_scan();
    return;
  }
  result_.oldest = std::max(result_.oldest, footer_.oldest);
  segment_->set_aside = (footer_.flags & SummaryFooter::set_aside) != 0;
  segment_->sealed = segment_->seal_durable = true;
  segment_->notes = {};
  end_segment();
}

void Recovery::end_segment() {
  segment_->durable_end = segment_->end;
  segment_->entries.shrink_to_fit();
  ++candidate_;
  begin_segment();
}

// --- the segment that was not sealed ---------------------------------------------------------------------------------

void Recovery::begin_scan() {
  const bool newest = candidate_ + 1 == candidates_.size();
  if (!newest) {
    result_.report.alarm(place_text(result_.log, *segment_, segment_->bytes - block_bytes) +
                         ": its summary is damaged; all of it is read instead");
  }
  ++result_.report.segments_scanned;
  result_.unsealed.push_back(segment_->sequence);
  segment_->end = batches_offset;
  step_ = Step::scan;
  scan_offset_ = batches_offset;
  chain_ = candidates_[candidate_].header.checksum;
  number_ = 0;
  gap_from_.reset();
  gap_bytes_ = 0;
  salvaging_ = false;
  scan_limit_ = segment_->bytes;
  limited_ = false;
  if (!newest) {
    const SegmentHeader& next = candidates_[candidate_ + 1].header;
    limited_ = next.previous == segment_->sequence && next.previous_end >= batches_offset &&
               next.previous_end % block_bytes == 0 && next.previous_end < segment_->bytes;
    if (limited_) scan_limit_ = next.previous_end;
  }
  filled_ = 0;  // nothing of this segment is in the window
  on_scan();
}

// Reads on from scan_offset_ until a read is needed or the segment is through.
void Recovery::on_scan() {
  while (step_ == Step::scan) {
    if (salvaging_) {
      if (!salvage()) return;
      continue;
    }
    if (scan_offset_ + block_bytes > scan_limit_) {
      end_scan();
      continue;
    }
    if (!want(scan_offset_, sizeof(BatchHeader))) return;
    const auto header = load<BatchHeader>(window_at(scan_offset_, sizeof(BatchHeader)));
    const BatchPlace place{segment_->sequence, segment_->bytes, scan_offset_};
    const bool plausible = plausible_batch(header, place) && header.number >= number_;
    bool taken = false;
    if (plausible) {
      if (!want(scan_offset_, header.bytes)) return;
      const Bytes batch = window_at(scan_offset_, header.bytes);
      if (check_batch(segment_->checksum, header, place, batch, scratch_)) {
        if (header.number == number_ && (header.chain == chain_ || POSTERN_PLANTED(old_batch_validated)) &&
            !gap_from_) {
          take_batch(header, batch);
          taken = true;
        } else if (gap_from_ && header.number > number_) {
          // A later batch stands: what is before it had been durable, so this is damage and no torn tail.
          salvaging_ = true;
          salvage_at_ = *gap_from_;
          salvage_to_ = scan_offset_;
          number_ = header.number;  // taken when what lies before it is through
          chain_ = header.chain;
          taken = true;
        }
      }
    }
    if (taken) continue;
    if (!gap_from_) {
      gap_from_ = scan_offset_;
      gap_bytes_ = plausible ? header.bytes : limited_ ? scan_limit_ - scan_offset_ : 0;
    }
    scan_offset_ += block_bytes;
  }
}

void Recovery::take_batch(const BatchHeader& header, Bytes batch) {
  std::size_t offset = sizeof header;
  for (std::uint32_t i = 0; i < header.records && status_.ok(); ++i) {
    const auto record = load<RecordHeader>(batch.subspan(offset, sizeof(RecordHeader)));
    take_record(record, batch.subspan(offset, record.bytes));
    offset += round_up(record.bytes, record_alignment);
  }
  result_.oldest = std::max(result_.oldest, header.oldest);
  chain_ = header.checksum;
  number_ = header.number + 1;
  scan_offset_ += header.bytes;
  segment_->end = scan_offset_;
}

void Recovery::take_record(const RecordHeader& header, Bytes record) {
  Index& index = result_.index;
  const mail::QueueId id{header.queue_id};
  switch (header.kind) {
    case RecordKind::message: {
      const auto view = read_message(header, record);
      const std::uint64_t offset = offset_of(header.position);
      const bool ascends = segment_->entries.empty() || segment_->entries.back().units < offset / record_alignment;
      if (!view || !ascends) {
        ++result_.report.damaged_bytes;
        result_.report.alarm(place_text(result_.log, *segment_, offset) + ": a message's record makes no sense");
        return;
      }
      if (header.subject != 0) index.replace(segment_, header.subject, id);
      index.add_message(*segment_, id, offset, header.bytes, header.recipient, view->settled,
                        chunk_uses(view->extents));
      return;
    }
    case RecordKind::chunk:
      return;  // counted by the message that lists it
    case RecordKind::settled:
      index.settle(*segment_, header.subject, id, header.recipient);
      return;
    case RecordKind::retry_state:
      if (header.bytes <= sizeof header + opaque_bytes_limit) {
        index.set_state(*segment_, header.position, header.bytes, header.subject, id, header.recipient);
      }
      return;
  }
  if ((header.flags & RecordHeader::ignorable) != 0) return;
  fail(error(StatusCode::kFailedPrecondition, place_text(result_.log, *segment_, offset_of(header.position)) +
                                                  ": a record of kind " +
                                                  std::to_string(static_cast<unsigned>(header.kind)) +
                                                  ", which this program does not know: use the program that wrote it"));
}

// Looks for messages that validate by themselves in a damaged range. Settlements there are not taken: the DSN that
// belongs to one may be lost. False: a read is needed.
bool Recovery::salvage() {
  while (salvage_at_ < salvage_to_) {
    if (!want(salvage_at_, sizeof(RecordHeader))) return false;
    const auto header = load<RecordHeader>(window_at(salvage_at_, sizeof(RecordHeader)));
    const std::uint64_t position = make_position(segment_->sequence, salvage_at_);
    std::uint64_t step = record_alignment;
    if (header.magic == RecordHeader{}.magic && header.position == position && header.bytes >= sizeof header &&
        header.bytes <= salvage_to_ - salvage_at_) {
      if (!want(salvage_at_, header.bytes)) return false;
      const Bytes record = window_at(salvage_at_, header.bytes);
      const auto checked = check_record(segment_->checksum, position, record);
      if (checked && check_content(segment_->checksum, *checked, record)) {
        step = round_up(header.bytes, record_alignment);
        if (checked->kind == RecordKind::message) {
          take_record(*checked, record);
          ++result_.report.salvaged_messages;
        }
      }
    }
    if (step == record_alignment) result_.report.damaged_bytes += step;
    salvage_at_ += step;
  }
  result_.report.alarm(place_text(result_.log, *segment_, *gap_from_) + ": " +
                       std::to_string(salvage_to_ - *gap_from_) +
                       " bytes of the log are damaged; messages in them that are whole were kept");
  segment_->set_aside = true;
  segment_->end = std::max(segment_->end, salvage_to_);
  salvaging_ = false;
  gap_from_.reset();
  return true;
}

void Recovery::end_scan() {
  if (gap_from_ && gap_bytes_ != 0) {
    if (limited_) {
      // The segment behind it says that batches went on to here.
      salvaging_ = true;
      salvage_at_ = *gap_from_;
      salvage_to_ = scan_limit_;
      gap_bytes_ = 0;
      return;
    }
    result_.report.torn_bytes += gap_bytes_;
  }
  end_segment();
}

// --- the end ---------------------------------------------------------------------------------------------------------

void Recovery::finish() {
  step_ = Step::done;
  Index& index = result_.index;
  while (index.segment_count() != 0 && index.segment(0).sequence < result_.oldest) {
    const std::unique_ptr<Segment> dead = index.remove_oldest();
    std::erase(result_.unsealed, dead->sequence);
    free_slot(dead->slot, dead->bytes);
  }
  for (std::size_t i = 0; i < index.segment_count(); ++i) {
    const Segment& segment = index.segment(i);
    if (segment.previous >= result_.oldest && index.find_segment(segment.previous) == nullptr) {
      ++result_.report.segments_set_aside;
      result_.report.alarm(log_directory(result_.log) + ": segment " + std::to_string(segment.previous) +
                           " is missing; mail in it is lost to this log");
    }
  }
  // Each start begins a segment, so a damaged header hides at most one start and one sequence number.
  const std::uint64_t hidden = result_.report.segments_set_aside;
  std::uint64_t start = 0;
  if (!candidates_.empty()) {
    result_.next_sequence = candidates_.back().header.sequence + 1;
    for (const Candidate& candidate : candidates_) start = std::max<std::uint64_t>(start, candidate.header.start);
  }
  result_.next_sequence += hidden;
  start += hidden + 1;
  if (start > mail::QueueId::start_max || result_.next_sequence + 1 >= sequence_limit) {
    fail(error(StatusCode::kResourceExhausted,
               log_directory(result_.log) + ": the log has been started too often to name more messages; let it drain, "
                                            "then remove its directory"));
    return;
  }
  result_.next_start = static_cast<std::uint32_t>(start);
  result_.report.segments = index.segment_count();
  result_.report.messages = index.live_messages();
  window_ = AlignedBuffer();
}

Recovered Recovery::take_result() {
  POSTERN_CHECK(done() && status_.ok());
  return std::move(result_);
}

}  // namespace postern::spool
