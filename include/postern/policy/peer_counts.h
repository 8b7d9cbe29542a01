// How many connections each peer has, over all shards.
//
// Any thread may call at any time; no lock, no allocation, bounded memory whatever peers do. It is a count-min sketch
// whose counters are also decremented: two rows of 65,536 counters (512 KiB), a peer having one in each by keyed hash;
// its count is the smaller of the two. That is never below the truth, so the limit holds strictly; a peer is refused
// wrongly only when both its counters are shared with busy ones: with 300 peers at their limit, about 2 in 100,000
// peers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include <postern/base/ip.h>

namespace postern::policy {

class PeerCounts {
 public:
  static constexpr std::size_t counters_per_row = 1u << 16;

  // `limit` (≥ 1) connections per peer. `seed` is secret: who knows it can choose addresses that share another's
  // counters.
  PeerCounts(std::uint32_t limit, std::uint64_t seed);

  // Counts one more connection of the peer; false, and nothing counted, when it has its limit. IPv4: per address; IPv6:
  // per /64, which is what one customer has. Every true is paired with one release() of the same address. Two shards
  // that take a peer's last place at the same moment may both be refused.
  [[nodiscard]] bool try_acquire(const IpAddress& peer);
  void release(const IpAddress& peer);
  // The estimate (never below the truth).
  [[nodiscard]] std::uint32_t count(const IpAddress& peer) const;

 private:
  using Counter = std::atomic<std::uint32_t>;
  struct Pair {
    Counter& first;
    Counter& second;
  };
  [[nodiscard]] Pair counters_of(const IpAddress& peer) const;

  std::uint32_t limit_;
  std::uint64_t seed_;
  std::unique_ptr<Counter[]> counters_;  // both rows
};

}  // namespace postern::policy
