#include <algorithm>
#include <chrono>
#include <span>

#include <postern/base/bytes.h>
#include <postern/base/hash.h>
#include <postern/policy/peer_rates.h>

namespace postern::policy {
namespace {

constexpr std::uint64_t count_mask = 0xFFFF'FFFF;

}  // namespace

PeerRates::PeerRates(std::uint64_t seed)
    : seed_(seed), counters_(std::make_unique<std::array<Counter, 2 * counters_per_row>>()) {}

bool PeerRates::try_count(const IpAddress& peer, std::uint32_t limit, Instant now) {
  // From 1 on, so that a counter never used is one of an earlier minute.
  const auto minute =
      static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::minutes>(now.time_since_epoch()).count()) + 1;
  const Bytes address = std::as_bytes(std::span(peer.bytes()));
  const std::uint64_t hash = hash_bytes(peer.is_v4() ? address : address.first(8), seed_);
  const std::array pair = {&(*counters_)[hash % counters_per_row],
                           &(*counters_)[counters_per_row + (hash >> 32) % counters_per_row]};
  // Relaxed: each counter is exact by itself, and nothing else is published through it.
  const auto count_of = [&](std::uint64_t value) { return value >> 32 == minute ? value & count_mask : 0; };
  std::uint64_t least = count_mask;
  for (const Counter* const counter : pair) {
    least = std::min(least, count_of(counter->load(std::memory_order_relaxed)));
  }
  if (least >= limit) return false;
  for (Counter* const counter : pair) {
    std::uint64_t before = counter->load(std::memory_order_relaxed);
    while (!counter->compare_exchange_weak(before, minute << 32 | std::min(count_of(before) + 1, count_mask),
                                           std::memory_order_relaxed)) {
    }
  }
  return true;
}

}  // namespace postern::policy
