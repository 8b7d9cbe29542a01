#include "shard/waiting_starts.h"

#include <cstdint>
#include <string>

#include <gtest/gtest.h>

namespace postern::shard {
namespace {

WaitingStart start(std::uint32_t site, bool connected) {
  return {.site = mail::SiteId{site}, .connected = connected};
}

TEST(WaitingStarts, OpenConnectionsComeFirstAndTheOthersAreNotForgotten) {
  WaitingStarts waiting;
  EXPECT_TRUE(waiting.empty());
  EXPECT_FALSE(waiting.take());
  for (std::uint32_t i = 0; i < 6; ++i) waiting.push(start(i, true));
  for (std::uint32_t i = 10; i < 13; ++i) waiting.push(start(i, false));
  std::string order;
  while (const auto taken = waiting.take()) order += (order.empty() ? "" : " ") + std::to_string(taken->site.value);
  EXPECT_EQ(order, "0 1 2 10 3 4 5 11 12");
  EXPECT_TRUE(waiting.empty());
}

}  // namespace
}  // namespace postern::shard
