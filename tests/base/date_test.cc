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

TEST(Date, Rfc3339IsReadAsItIsWritten) {
  const WallTime at{std::chrono::seconds(1'795'327'633)};
  std::string text;
  append_rfc3339_seconds(text, at);
  EXPECT_EQ(text, format_rfc3339(at).substr(0, 19) + "Z");
  EXPECT_EQ(parse_rfc3339(text), at);
  EXPECT_EQ(parse_rfc3339(format_rfc3339(at + std::chrono::milliseconds(42))), at + std::chrono::milliseconds(42));
  EXPECT_EQ(parse_rfc3339("1970-01-01T00:00:00z"), WallTime{});
  EXPECT_EQ(parse_rfc3339("2026-11-22T08:07:13+02:00"), parse_rfc3339("2026-11-22T06:07:13Z"));
  EXPECT_EQ(parse_rfc3339("2026-11-22t05:37:13-00:30"), parse_rfc3339("2026-11-22T06:07:13Z"));
  EXPECT_EQ(parse_rfc3339("2016-12-31T23:59:60Z"), parse_rfc3339("2017-01-01T00:00:00Z"));
  EXPECT_TRUE(parse_rfc3339("2024-02-29T00:00:00.123456789012345Z"));
}

TEST(Date, WhatIsNoRfc3339IsRefused) {
  for (const char* bad : {"",
                          "2026-11-22",
                          "2026-11-22T06:07:13",
                          "2026-11-22 06:07:13Z",
                          "2026-13-22T06:07:13Z",
                          "2026-02-30T06:07:13Z",
                          "2025-02-29T06:07:13Z",
                          "1969-12-31T23:59:59Z",
                          "2201-01-01T00:00:00Z",
                          "2026-11-22T24:00:00Z",
                          "2026-11-22T06:60:13Z",
                          "2026-11-22T06:07:61Z",
                          "2026-11-22T06:07:13.Z",
                          "2026-11-22T06:07:13X",
                          "2026-11-22T06:07:13+2:00",
                          "2026-11-22T06:07:13+24:00",
                          "2026-11-22T06:07:13+02:60",
                          "2026-11-22T06:07:13+02:00x",
                          "2026-11-22T06:07:13ZZ",
                          "x026-11-22T06:07:13Z"}) {
    EXPECT_FALSE(parse_rfc3339(bad)) << bad;
  }
}

}  // namespace
}  // namespace postern
