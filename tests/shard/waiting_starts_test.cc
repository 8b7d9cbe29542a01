#include "shard/waiting_starts.h"

#include <cstdint>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace postern::shard {
namespace {

WaitingStart start(std::uint32_t site, bool connected) {
  return {.site = mail::SiteId{site}, .connected = connected};
}

TEST(WaitingStarts, OpenConnectionsComeFirstAndTheOthersAreNotForgotten) {
  WaitingStarts waiting;
  EXPECT_TRUE(waiting.empty());
  EXPECT_FALSE(waiting.take(true));
  constexpr std::uint32_t connected = WaitingStarts::enough_connected + 2 * WaitingStarts::turn;
  for (std::uint32_t i = 0; i < connected; ++i) waiting.push(start(i, true));
  for (std::uint32_t i = 1000; i < 1004; ++i) waiting.push(start(i, false));
  std::vector<std::uint32_t> others;  // when each had its turn
  std::uint32_t next = 0, turns = 0;
  for (; const auto taken = waiting.take(true); ++turns) {
    if (taken->connected) {
      EXPECT_EQ(taken->site.value, next++);
    } else {
      EXPECT_EQ(taken->site.value, 1000 + others.size());
      others.push_back(turns);
    }
  }
  // Two in their turn; the rest as soon as fewer than enough connections wait.
  EXPECT_THAT(others, testing::ElementsAre(31, 63, 67, 68));
  EXPECT_EQ(next, connected);
  EXPECT_TRUE(waiting.empty());
}

TEST(WaitingStarts, WhileFewConnectionsWaitTheOthersGoOn) {
  WaitingStarts waiting;
  waiting.push(start(1, true));
  waiting.push(start(2, false));
  EXPECT_EQ(waiting.take(true)->site.value, 2u);
  EXPECT_EQ(waiting.take(true)->site.value, 1u);
  EXPECT_FALSE(waiting.take(true));
}

TEST(WaitingStarts, AConnectionThatBecomesIdleTakesTheStartOfItsSite) {
  WaitingStarts waiting;
  for (std::uint32_t i = 0; i < 5; ++i) waiting.push(start(i, false));
  waiting.push({.site = mail::SiteId{3}, .recipients_max = 1, .home = 1, .pulled = true, .connected = false});
  for (std::uint32_t i = 0; i < WaitingStarts::enough_connected; ++i) waiting.push(start(1000, true));
  waiting.on_connection_idle(mail::SiteId{3});
  waiting.on_connection_idle(mail::SiteId{3});
  waiting.on_connection_idle(mail::SiteId{7});
  std::vector<std::uint64_t> connected, others;
  while (const auto taken = waiting.take(true)) {
    if (taken->site.value < 1000) (taken->connected ? connected : others).push_back(taken->site.value);
  }
  EXPECT_THAT(connected, testing::ElementsAre(3));
  EXPECT_THAT(others, testing::ElementsAre(0, 1, 2, 4, 3));
  EXPECT_TRUE(waiting.empty());
  // It is forgotten with the start.
  waiting.on_connection_idle(mail::SiteId{3});
  EXPECT_TRUE(waiting.empty());
}

}  // namespace
}  // namespace postern::shard
