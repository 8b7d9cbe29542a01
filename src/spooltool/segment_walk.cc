#include "spooltool/segment_walk.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include <postern/spool/batch.h>
#include <postern/spool/record.h>

namespace postern::spooltool {
namespace {

using spool::BatchHeader;
using spool::block_bytes;
using spool::record_alignment;
using spool::RecordHeader;

constexpr std::uint64_t window_bytes_least = 1u << 20;

Found found_at(Found::Kind kind, std::uint64_t offset, std::uint64_t bytes) {
  Found found;
  found.kind = kind;
  found.offset = offset;
  found.bytes = bytes;
  return found;
}

template <class T>
T load(Bytes bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

}  // namespace

StatusOr<spool::SegmentHeader> read_segment_header(const ReadFile& file) {
  const StatusOr<std::uint64_t> bytes = file.bytes();
  if (!bytes.ok()) return bytes.status();
  if (*bytes < spool::batches_offset + block_bytes) {
    return error(StatusCode::kNotFound, file.path() + ": too short for a segment; its making was interrupted");
  }
  std::array<std::byte, spool::batches_offset> blocks;
  const std::uint64_t unreadable = file.read_around(0, blocks);
  const spool::Checksum checksum;
  for (std::size_t copy = 0; copy < 2; ++copy) {
    const auto header = spool::check_segment_header(checksum, Bytes(blocks).subspan(copy * block_bytes, block_bytes));
    if (!header) continue;
    if (header->version != spool::format_version) {
      return error(StatusCode::kFailedPrecondition,
                   file.path() + ": spool format " + std::to_string(header->version) + ", this program knows " +
                       std::to_string(spool::format_version) + ": use the program that wrote it");
    }
    if (spool::sane_segment_header(*header, *bytes)) return *header;
  }
  if (unreadable == 0 && std::all_of(blocks.begin(), blocks.end(), [](std::byte b) { return b == std::byte{0}; })) {
    return error(StatusCode::kNotFound, file.path() + ": prepared, and not used yet");
  }
  return error(StatusCode::kDataLoss, file.path() +
                                          ": both copies of the segment's header are damaged: without the key "
                                          "in it nothing in this file can be told from chance");
}

Reach find_reach(const ReadFile& file, const spool::SegmentHeader& header, const spool::SegmentHeader* next) {
  std::array<std::byte, block_bytes> last;
  (void)file.read_around(header.segment_bytes - block_bytes, last);  // zeros are no footer
  Reach reach{.limit = header.segment_bytes, .certain = false, .footer = std::nullopt};
  reach.footer = spool::check_footer(spool::Checksum(header.key), header.sequence, header.segment_bytes, Bytes(last));
  if (reach.footer) {
    reach.limit = reach.footer->end;
    reach.certain = true;
  } else if (next != nullptr && next->previous == header.sequence && next->previous_end >= spool::batches_offset &&
             next->previous_end % block_bytes == 0 && next->previous_end < header.segment_bytes) {
    reach.limit = next->previous_end;
    reach.certain = true;
  }
  return reach;
}

SegmentWalk::SegmentWalk(const ReadFile& file, const spool::SegmentHeader& header, const Reach& reach)
    : file_(file),
      checksum_(header.key),
      sequence_(header.sequence),
      segment_bytes_(header.segment_bytes),
      limit_(reach.limit),
      certain_(reach.certain),
      chain_(header.checksum) {}

// The range, read if need be; it lies within the segment.
Bytes SegmentWalk::at(std::uint64_t offset, std::uint64_t bytes) {
  if (offset < window_offset_ || offset + bytes > window_offset_ + window_bytes_) {
    const std::uint64_t from = spool::round_down(offset, block_bytes);
    const std::uint64_t least = spool::round_up(offset + bytes, block_bytes) - from;
    const std::uint64_t size = std::min(std::max(least, window_bytes_least), segment_bytes_ - from);
    if (window_.size() < size) window_ = spool::AlignedBuffer(size);
    unreadable_bytes_ += file_.read_around(from, window_.bytes().first(size));
    file_.forget(from, size);
    window_offset_ = from;
    window_bytes_ = size;
  }
  return window_.first(window_bytes_).subspan(offset - window_offset_, bytes);
}

Found SegmentWalk::next() {
  for (;;) {
    if (records_left_ != 0) return take_record();
    const std::optional<Found> found = salvaging_ ? salvage() : offset_ + block_bytes > limit_ ? at_limit() : scan();
    if (found) return *found;
  }
}

// One block on, or one batch.
std::optional<Found> SegmentWalk::scan() {
  const auto header = load<BatchHeader>(at(offset_, sizeof(BatchHeader)));
  const spool::BatchPlace place{sequence_, segment_bytes_, offset_};
  const bool plausible = spool::plausible_batch(header, place) && header.number >= number_;
  if (plausible && spool::check_batch(checksum_, header, place, at(offset_, header.bytes), scratch_)) {
    if (!gap_from_ && header.number == number_ && header.chain == chain_) {
      Found found = found_at(Found::Kind::batch, offset_, header.bytes);
      found.batch = header;
      chain_ = header.checksum;
      ++number_;
      record_at_ = offset_ + sizeof header;
      records_left_ = header.records;
      offset_ += header.bytes;
      return found;
    }
    if (gap_from_ && header.number > number_) {
      // A later batch stands: what is before it had been durable, so this is damage and no torn tail.
      if (begin_salvage(offset_)) {
        number_ = header.number;
        chain_ = header.chain;
      }
      return std::nullopt;
    }
  }
  if (!gap_from_) {
    gap_from_ = offset_;
    gap_bytes_ = plausible ? header.bytes : certain_ ? limit_ - offset_ : 0;
  }
  offset_ += block_bytes;
  return std::nullopt;
}

bool SegmentWalk::begin_salvage(std::uint64_t to) {
  if (reread_ != gap_from_) {
    reread_ = gap_from_;
    offset_ = *gap_from_;
    gap_from_.reset();
    window_bytes_ = 0;
    return false;
  }
  salvaging_ = true;
  salvage_at_ = *gap_from_;
  salvage_to_ = to;
  lost_bytes_ = 0;
  return true;
}

std::optional<Found> SegmentWalk::at_limit() {
  if (gap_from_ && gap_bytes_ != 0) {
    if (certain_) {
      (void)begin_salvage(limit_);
      return std::nullopt;
    }
    const Found found = found_at(Found::Kind::torn, *gap_from_, gap_bytes_);
    gap_from_.reset();
    return found;
  }
  return found_at(Found::Kind::end, offset_, 0);
}

// Of a batch that holds as a whole: it is in the window, and nothing in it needs another look.
Found SegmentWalk::take_record() {
  const auto header = load<RecordHeader>(at(record_at_, sizeof(RecordHeader)));
  Found found = found_at(Found::Kind::record, record_at_, header.bytes);
  found.header = header;
  found.record = at(record_at_, header.bytes);
  record_at_ += spool::round_up(header.bytes, record_alignment);
  --records_left_;
  return found;
}

std::optional<Found> SegmentWalk::salvage() {
  while (salvage_at_ < salvage_to_) {
    const auto header = load<RecordHeader>(at(salvage_at_, sizeof(RecordHeader)));
    const std::uint64_t position = spool::make_position(sequence_, salvage_at_);
    if (header.magic == RecordHeader{}.magic && header.position == position && header.bytes >= sizeof header &&
        header.bytes <= salvage_to_ - salvage_at_ && header.bytes <= spool::batch_bytes_limit) {
      const Bytes record = at(salvage_at_, header.bytes);
      const auto checked = spool::check_record(checksum_, position, record);
      if (checked && spool::check_content(checksum_, *checked, record)) {
        Found found = found_at(Found::Kind::record, salvage_at_, header.bytes);
        found.salvaged = true;
        found.header = *checked;
        found.record = record;
        salvage_at_ += spool::round_up(header.bytes, record_alignment);
        return found;
      }
    }
    lost_bytes_ += record_alignment;
    salvage_at_ += record_alignment;
  }
  Found found = found_at(Found::Kind::damage, *gap_from_, salvage_to_ - *gap_from_);
  found.lost_bytes = lost_bytes_;
  salvaging_ = false;
  gap_from_.reset();
  return found;
}

}  // namespace postern::spooltool
