// How often each peer did something in this minute, over all shards.
//
// Any thread may call at any time; no lock, no allocation, bounded memory whatever peers do. It is a count-min sketch:
// two rows of 16,384 counters (256 KiB), a peer having one in each by keyed hash, which begin anew with every minute;
// its count is the smaller of the two. That is never below the truth, so a limit holds within a minute but for what
// threads do at the same moment (over the border of two minutes, twice); a peer is refused wrongly only when both its
// counters are shared with busy ones.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include <postern/base/ip.h>
#include <postern/base/time.h>

namespace postern::policy {

class PeerRates {
 public:
  static constexpr std::size_t counters_per_row = 1u << 14;

  // `seed` is secret: who knows it can choose addresses that share another's counters.
  explicit PeerRates(std::uint64_t seed);

  // Counts once more for the peer; false, and nothing counted, when it has `limit` in this minute. IPv4: per address;
  // IPv6: per /64, which is what one customer has.
  [[nodiscard]] bool try_count(const IpAddress& peer, std::uint32_t limit, Instant now);

 private:
  // The minute in the upper half, the count within it in the lower one.
  using Counter = std::atomic<std::uint64_t>;

  std::uint64_t seed_;
  std::unique_ptr<std::array<Counter, 2 * counters_per_row>> counters_;
};

}  // namespace postern::policy
