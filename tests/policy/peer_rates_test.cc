#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <postern/policy/peer_rates.h>

namespace postern::policy {
namespace {

using namespace std::chrono_literals;

TEST(PeerRates, APeerHasItsLimitInAMinuteAndAgainInTheNext) {
  PeerRates rates(1);
  const IpAddress peer = *IpAddress::parse("192.0.2.1");
  for (const Instant minute : {Instant{} + 0min, Instant{} + 1min, Instant{} + 5min}) {
    EXPECT_TRUE(rates.try_count(peer, 2, minute));
    EXPECT_TRUE(rates.try_count(peer, 2, minute + 30s));
    EXPECT_FALSE(rates.try_count(peer, 2, minute + 31s));
    EXPECT_FALSE(rates.try_count(peer, 2, minute + 59s));
    EXPECT_TRUE(rates.try_count(peer, 3, minute + 59s)) << "a limit that was raised";
    EXPECT_TRUE(rates.try_count(*IpAddress::parse("192.0.2.2"), 2, minute)) << "another peer";
  }
}

TEST(PeerRates, IpV6PeersCountByTheir64) {
  PeerRates rates(2);
  EXPECT_TRUE(rates.try_count(*IpAddress::parse("2001:db8:0:1::1"), 1, Instant{}));
  EXPECT_FALSE(rates.try_count(*IpAddress::parse("2001:db8:0:1:ffff::2"), 1, Instant{}));
  EXPECT_TRUE(rates.try_count(*IpAddress::parse("2001:db8:0:2::1"), 1, Instant{}));
}

// Several threads of one peer may go beyond the limit by as many as they are, and lose no count.
TEST(PeerRates, CountsOfAllThreadsAddUp) {
  PeerRates rates(3);
  constexpr std::uint32_t limit = 10'000;
  const IpAddress peer = *IpAddress::parse("192.0.2.1");
  std::atomic<std::uint32_t> taken{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (std::uint32_t n = 0; n < limit; ++n) taken += rates.try_count(peer, limit, Instant{}) ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_GE(taken, limit);
  EXPECT_LE(taken, limit + 3);
}

}  // namespace
}  // namespace postern::policy
