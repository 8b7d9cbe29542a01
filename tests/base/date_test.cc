#include <gtest/gtest.h>

#include <postern/base/date.h>

namespace postern {
namespace {

WallTime at_milliseconds(std::int64_t milliseconds) {
  return WallTime(std::chrono::milliseconds(milliseconds));
}

TEST(Date, WritesRfc5322AndRfc3339InUtc) {
  EXPECT_EQ(format_rfc5322_date(at_milliseconds(0)), "Thu, 01 Jan 1970 00:00:00 +0000");
  EXPECT_EQ(format_rfc3339(at_milliseconds(0)), "1970-01-01T00:00:00.000Z");
  EXPECT_EQ(format_rfc5322_date(at_milliseconds(1'709'210'096'042)), "Thu, 29 Feb 2024 12:34:56 +0000");
  EXPECT_EQ(format_rfc3339(at_milliseconds(1'709'210'096'042)), "2024-02-29T12:34:56.042Z");
}

TEST(Date, EveryWallTimeHasAText) {
  EXPECT_EQ(format_rfc3339(WallTime::min()), "1677-09-21T00:12:43.145Z");
  EXPECT_EQ(format_rfc3339(WallTime::max()), "2262-04-11T23:47:16.854Z");
  EXPECT_EQ(format_rfc3339(at_milliseconds(-1)), "1969-12-31T23:59:59.999Z");
  EXPECT_EQ(format_rfc5322_date(WallTime::max()).size(), 31u);
}

}  // namespace
}  // namespace postern
