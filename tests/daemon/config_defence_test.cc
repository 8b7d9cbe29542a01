#include "daemon/config_defence.h"

#include <optional>
#include <string_view>

#include <gtest/gtest.h>

namespace postern::daemon {
namespace {

TEST(Rates, AreCountsInAMinute) {
  EXPECT_EQ(parse_rate("30/min"), 30u);
  EXPECT_EQ(parse_rate("1/min"), 1u);
  EXPECT_EQ(parse_rate("1000000/min"), 1'000'000u);
  EXPECT_EQ(parse_rate("unlimited"), 0u);
  for (const std::string_view bad : {"", "30", "/min", "0/min", "-1/min", "30/s", "30 /min", "30/minute", "1000001/min",
                                     "99999999999/min", "never", "Unlimited"}) {
    EXPECT_EQ(parse_rate(bad), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace postern::daemon
