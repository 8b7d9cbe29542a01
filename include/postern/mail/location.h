// Where a record lies in the spool. Opaque to everyone but the spool.
#pragma once

#include <compare>
#include <cstdint>

namespace postern::mail {

struct Location {
  std::uint16_t log = 0;       // log id, see QueueId
  std::uint16_t reserved = 0;  // zero
  std::uint32_t length = 0;    // bytes of the record; 0: nowhere
  std::uint64_t position = 0;  // segment sequence number (40 bits) << 24 | offset in 64-byte units within the segment

  [[nodiscard]] constexpr bool empty() const { return length == 0; }
  friend constexpr auto operator<=>(const Location&, const Location&) = default;
};
static_assert(sizeof(Location) == 16);

}  // namespace postern::mail
