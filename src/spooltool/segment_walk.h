// Reads one segment from its first batch to its last, record by record, with the judgement that spool/recovery has of
// what is valid, torn or damaged. Recovery reads summaries where it can; this reads all content and tells every record.
//
// The file may be written to meanwhile: before anything is called damaged it is read once more. Whether the file is
// still that segment's (see read_segment_header()) is for the caller to ask when damage was told.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/spool/aligned_buffer.h>
#include <postern/spool/checksum.h>
#include <postern/spool/format.h>

#include "spooltool/files.h"

namespace postern::spooltool {

// The first of the two copies that holds and makes sense in this file. kDataLoss: none does; kNotFound: the file is all
// zeros there or shorter (prepared and not yet used); kFailedPrecondition: a newer format.
[[nodiscard]] StatusOr<spool::SegmentHeader> read_segment_header(const ReadFile& file);

// Where the batches of a segment end.
struct Reach {
  std::uint64_t limit = 0;  // nothing is looked for behind it
  bool certain = false;     // they are known to go on to there: what misses before it is damage, no torn tail
  std::optional<spool::SummaryFooter> footer;  // it is sealed
};
// By its own summary; else by the header of the segment behind it (`next`, may be null); else the whole file counts.
[[nodiscard]] Reach find_reach(const ReadFile& file, const spool::SegmentHeader& header,
                               const spool::SegmentHeader* next);

struct Found {
  enum class Kind : std::uint8_t {
    batch,   // its records follow
    record,  // valid; `bytes` without padding
    damage,  // `bytes` of the log; what was whole in it came before, as salvaged records
    torn,    // a batch was begun and not finished: never acknowledged, and no harm
    end,     // of the segment; again with every further call
  };
  Kind kind = Kind::end;
  std::uint64_t offset = 0;  // in the segment
  std::uint64_t bytes = 0;
  std::uint64_t lost_bytes = 0;  // damage: of `bytes`, those in no salvaged record
  bool salvaged = false;         // record: valid by itself, in a batch that is not
  spool::BatchHeader batch;      // batch
  spool::RecordHeader header;    // record
  Bytes record;                  // record: all of it, valid until the next call
};

class SegmentWalk {
 public:
  // `file` outlives it. Memory: one window of at most 4 MiB.
  SegmentWalk(const ReadFile& file, const spool::SegmentHeader& header, const Reach& reach);

  [[nodiscard]] Found next();

  [[nodiscard]] const spool::Checksum& checksum() const { return checksum_; }
  [[nodiscard]] std::uint64_t unreadable_bytes() const { return unreadable_bytes_; }

 private:
  [[nodiscard]] std::optional<Found> scan();
  [[nodiscard]] std::optional<Found> salvage();
  [[nodiscard]] std::optional<Found> at_limit();
  // False: the gap is read once more from its beginning, in case it was only being written.
  [[nodiscard]] bool begin_salvage(std::uint64_t to);
  [[nodiscard]] Found take_record();
  [[nodiscard]] Bytes at(std::uint64_t offset, std::uint64_t bytes);

  const ReadFile& file_;
  const spool::Checksum checksum_;
  const std::uint64_t sequence_;
  const std::uint64_t segment_bytes_;
  const std::uint64_t limit_;
  const bool certain_;

  spool::AlignedBuffer window_;
  std::uint64_t window_offset_ = 0;
  std::uint64_t window_bytes_ = 0;
  std::uint64_t unreadable_bytes_ = 0;
  std::vector<std::byte> scratch_;

  std::uint64_t offset_ = spool::batches_offset;  // of the next batch
  std::uint64_t chain_;
  std::uint32_t number_ = 0;
  std::uint64_t record_at_ = 0;  // within the batch just told
  std::uint32_t records_left_ = 0;
  std::optional<std::uint64_t> gap_from_;  // a batch there did not validate; looking for a valid one behind it
  std::uint64_t gap_bytes_ = 0;            // of the batch that seems to stand there
  std::optional<std::uint64_t> reread_;    // the gap that was read once more
  bool salvaging_ = false;
  std::uint64_t salvage_at_ = 0;
  std::uint64_t salvage_to_ = 0;
  std::uint64_t lost_bytes_ = 0;
};

}  // namespace postern::spooltool
