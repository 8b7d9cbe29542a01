// Segment headers, batches and summaries as bytes: checking them. Bytes come from the disk and are not trusted.
//
// What Recovery holds for valid stands here, so that the tools that show and check a spool hold the same.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/spool/checksum.h>
#include <postern/spool/format.h>

namespace postern::spool {

// The segment header with which `bytes` begin: magic and checksum hold, the version may be any. nullopt: too few bytes,
// or no header. `checksum` is the format's own, Checksum().
[[nodiscard]] std::optional<SegmentHeader> check_segment_header(const Checksum& checksum, Bytes bytes);

// Whether the numbers in a checked header of this format's version can be, in a file of that size. Log and slot are the
// caller's to compare.
[[nodiscard]] bool sane_segment_header(const SegmentHeader& header, std::uint64_t file_bytes);

// The footer that stands at the end of `bytes`, the last of a segment's, when it seals that segment: checksum, sequence
// and the places it names hold. Its entries are not looked at.
[[nodiscard]] std::optional<SummaryFooter> check_footer(const Checksum& checksum, std::uint64_t sequence,
                                                        std::uint64_t segment_bytes, Bytes bytes);

// Where a batch would stand.
struct BatchPlace {
  std::uint64_t sequence = 0;
  std::uint64_t segment_bytes = 0;
  std::uint64_t offset = 0;
};

// Whether the header could be that of a batch at that place, by its lengths and numbers alone: enough to read
// header.bytes (at most batch_bytes_limit) and ask check_batch().
[[nodiscard]] bool plausible_batch(const BatchHeader& header, const BatchPlace& place);

// Whether a plausible batch is what was written: its records follow each other up to `used`, and the checksums of the
// header and of every record, content included, hold. `batch` holds header.bytes. `scratch` is memory to be reused.
[[nodiscard]] bool check_batch(const Checksum& checksum, const BatchHeader& header, const BatchPlace& place,
                               Bytes batch, std::vector<std::byte>& scratch);

}  // namespace postern::spool
