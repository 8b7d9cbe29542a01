// Keyed 64-bit checksums: XXH3 under a secret grown from a segment's key.
//
// They tell what this log wrote, in this use of the segment, from a recycled segment's past and from content that was
// made to look like records. They are no signature: who can read the spool can forge it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <postern/base/bytes.h>
#include <postern/spool/format.h>

namespace postern::spool {

class Checksum {
 public:
  // The fixed secret of the format, for segment headers.
  Checksum();
  explicit Checksum(const SegmentKey& key);

  [[nodiscard]] std::uint64_t of(Bytes bytes) const;

 private:
  std::array<std::byte, 192> secret_;
};

}  // namespace postern::spool
