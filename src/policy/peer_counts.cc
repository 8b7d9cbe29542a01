#include <algorithm>
#include <span>

#include <postern/base/check.h>
#include <postern/base/hash.h>
#include <postern/policy/peer_counts.h>

namespace postern::policy {

PeerCounts::PeerCounts(std::uint32_t limit, std::uint64_t seed)
    : limit_(limit), seed_(seed), counters_(std::make_unique<Counter[]>(2 * counters_per_row)) {
  POSTERN_CHECK(limit > 0);
}

PeerCounts::Pair PeerCounts::counters_of(const IpAddress& peer) const {
  const Bytes address = std::as_bytes(std::span(peer.bytes()));
  const std::uint64_t hash = hash_bytes(peer.is_v4() ? address : address.first(8), seed_);
  return {.first = counters_[hash % counters_per_row],
          .second = counters_[counters_per_row + (hash >> 32) % counters_per_row]};
}

// Relaxed: each counter is exact by itself, and nothing else is published through it.
bool PeerCounts::try_acquire(const IpAddress& peer) {
  const Pair pair = counters_of(peer);
  const std::uint32_t before =
      std::min(pair.first.fetch_add(1, std::memory_order_relaxed), pair.second.fetch_add(1, std::memory_order_relaxed));
  if (before < limit_) return true;
  pair.first.fetch_sub(1, std::memory_order_relaxed);
  pair.second.fetch_sub(1, std::memory_order_relaxed);
  return false;
}

void PeerCounts::release(const IpAddress& peer) {
  const Pair pair = counters_of(peer);
  const std::uint32_t first = pair.first.fetch_sub(1, std::memory_order_relaxed);
  const std::uint32_t second = pair.second.fetch_sub(1, std::memory_order_relaxed);
  POSTERN_CHECK(first > 0 && second > 0, "released more often than acquired");
}

std::uint32_t PeerCounts::count(const IpAddress& peer) const {
  const Pair pair = counters_of(peer);
  return std::min(pair.first.load(std::memory_order_relaxed), pair.second.load(std::memory_order_relaxed));
}

}  // namespace postern::policy
