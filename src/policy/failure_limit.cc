#include <algorithm>
#include <span>

#include <postern/base/hash.h>
#include <postern/policy/failure_limit.h>

namespace postern::policy {

FailureLimit::FailureLimit(std::uint64_t seed)
    : seed_(seed), accounts_(std::make_unique<Account[]>(2 * accounts_per_row)) {}

std::array<FailureLimit::Account*, 2> FailureLimit::accounts_of(const IpAddress& peer) const {
  const Bytes address = std::as_bytes(std::span(peer.bytes()));
  const std::uint64_t hash = hash_bytes(peer.is_v4() ? address : address.first(8), seed_);
  return {&accounts_[hash % accounts_per_row], &accounts_[accounts_per_row + (hash >> 32) % accounts_per_row]};
}

// Relaxed: each account is exact by itself, and nothing else is published through it.
void FailureLimit::add(const IpAddress& peer, const Limit& limit, Instant now) {
  if (limit.failures_max == 0) return;
  const std::int64_t cost = (limit.forget_after / limit.failures_max).count();
  const std::int64_t moment = now.time_since_epoch().count();
  for (Account* const account : accounts_of(peer)) {
    std::int64_t owed = account->load(std::memory_order_relaxed);
    // No deeper than twice the limit: whoever goes on trying for a day need not wait for a day.
    while (!account->compare_exchange_weak(
        owed, std::min(std::max(owed, moment) + cost, moment + 2 * limit.forget_after.count()),
        std::memory_order_relaxed)) {
    }
  }
}

bool FailureLimit::is_over(const IpAddress& peer, const Limit& limit, Instant now) const {
  if (limit.failures_max == 0) return false;
  const std::int64_t cost = (limit.forget_after / limit.failures_max).count();
  std::int64_t owed = INT64_MAX;
  for (const Account* const account : accounts_of(peer)) {
    owed = std::min(owed, account->load(std::memory_order_relaxed));
  }
  return owed - now.time_since_epoch().count() > limit.forget_after.count() - cost;
}

}  // namespace postern::policy
