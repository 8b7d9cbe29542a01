// How often each peer has failed to authenticate of late, over all shards.
//
// Any thread may call at any time; no lock, no allocation, bounded memory whatever peers do. A peer has an account in
// each of two rows, found by keyed hash; a failure books `forget_after` / `failures_max` of time on both, and time
// pays it back. Who owes more than `forget_after` is over the limit. Sharing an account with another peer in one row
// does no harm, in both it does: with 1,000 peers over the limit, to 2 in 10,000.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include <postern/base/ip.h>
#include <postern/base/time.h>

namespace postern::policy {

class FailureLimit {
 public:
  static constexpr std::size_t accounts_per_row = 1u << 16;  // 1 MiB for both

  // `seed` is secret: who knows it can choose addresses that share another's accounts.
  explicit FailureLimit(std::uint64_t seed);

  // `failures_max` failures in one moment, and as many in each `forget_after`; 0: no limit, and nothing is booked.
  struct Limit {
    std::uint32_t failures_max = 20;
    Duration forget_after = std::chrono::minutes(10);
  };

  // IPv4: per address; IPv6: per /64, which is what one customer has. `now` is one clock's for all callers.
  void add(const IpAddress& peer, const Limit& limit, Instant now);
  [[nodiscard]] bool is_over(const IpAddress& peer, const Limit& limit, Instant now) const;

 private:
  using Account = std::atomic<std::int64_t>;  // until when it is owed, in ns
  [[nodiscard]] std::array<Account*, 2> accounts_of(const IpAddress& peer) const;

  std::uint64_t seed_;
  std::unique_ptr<Account[]> accounts_;  // both rows
};

}  // namespace postern::policy
