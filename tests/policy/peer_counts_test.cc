#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <postern/policy/peer_counts.h>

namespace postern::policy {
namespace {

TEST(PeerCounts, APeerHasItsLimitAndNoMore) {
  PeerCounts counts(2, 1);
  const IpAddress peer = *IpAddress::parse("192.0.2.1");
  EXPECT_TRUE(counts.try_acquire(peer));
  EXPECT_TRUE(counts.try_acquire(peer));
  EXPECT_FALSE(counts.try_acquire(peer));
  EXPECT_EQ(counts.count(peer), 2u);
  EXPECT_TRUE(counts.try_acquire(*IpAddress::parse("192.0.2.2")));
  counts.release(peer);
  EXPECT_TRUE(counts.try_acquire(peer));
}

TEST(PeerCounts, IpV6PeersCountByTheir64) {
  PeerCounts counts(1, 2);
  EXPECT_TRUE(counts.try_acquire(*IpAddress::parse("2001:db8:0:1::1")));
  EXPECT_FALSE(counts.try_acquire(*IpAddress::parse("2001:db8:0:1:ffff::2")));
  EXPECT_TRUE(counts.try_acquire(*IpAddress::parse("2001:db8:0:2::1")));
}

TEST(PeerCounts, ManyPeersHardlyEverShareACount) {
  PeerCounts counts(1, 3);
  int refused = 0;
  for (std::uint32_t i = 0; i < 10'000; ++i) {
    const auto byte = [&](unsigned shift) { return static_cast<std::uint8_t>(i >> shift); };
    refused += !counts.try_acquire(IpAddress::v4({10, byte(16), byte(8), byte(0)}));
  }
  // A share of 10,000 / 65,536 of each row is taken in the end: (0.15 / 2)² or so of them meet two others.
  EXPECT_LT(refused, 200);
}

TEST(PeerCounts, TheLimitHoldsOverThreads) {
  constexpr std::uint32_t limit = 5;
  PeerCounts counts(limit, 4);
  const IpAddress peer = *IpAddress::parse("192.0.2.9");
  std::atomic<std::uint32_t> held = 0;
  std::atomic<bool> broken = false;
  const auto run = [&] {
    for (int i = 0; i < 20'000; ++i) {
      if (!counts.try_acquire(peer)) continue;
      if (held.fetch_add(1) >= limit) broken = true;
      held.fetch_sub(1);
      counts.release(peer);
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) threads.emplace_back(run);
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(broken);
  EXPECT_EQ(counts.count(peer), 0u);
}

}  // namespace
}  // namespace postern::policy
