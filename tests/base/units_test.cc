#include <gtest/gtest.h>

#include <postern/base/units.h>

namespace postern {
namespace {

using namespace std::chrono_literals;

TEST(Units, ReadsDurations) {
  EXPECT_EQ(*parse_duration("30s"), 30s);
  EXPECT_EQ(*parse_duration("1m"), 1min);
  EXPECT_EQ(*parse_duration("4d"), 96h);
  EXPECT_EQ(*parse_duration("250ms"), 250ms);
  EXPECT_EQ(*parse_duration("1h30m"), 90min);
  EXPECT_EQ(*parse_duration("1w"), 168h);
  EXPECT_EQ(*parse_duration("0"), 0s);
  EXPECT_EQ(*parse_duration("0s"), 0s);
  for (const char* text : {"", "30", "s", "-1s", "1.5h", "30 s", "30S", "1m1h", "1s1s", "1y", "40000d", "1000000w",
                           "99999999999999999999s", "1h30"}) {
    EXPECT_EQ(parse_duration(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST(Units, ReadsSizesAndShares) {
  EXPECT_EQ(*parse_size("50MiB"), 50u << 20);
  EXPECT_EQ(*parse_size("1GiB"), 1u << 30);
  EXPECT_EQ(*parse_size("512"), 512u);
  EXPECT_EQ(*parse_size("512B"), 512u);
  EXPECT_EQ(*parse_size("4194304TiB"), 1ull << 62);
  for (const char* text : {"", "MiB", "1MB", "1 MiB", "1mib", "-1", "4194305TiB", "99999999999999999999"}) {
    EXPECT_EQ(parse_size(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
  EXPECT_EQ(parse_size_or_share("50%")->of(1001), 500u);
  EXPECT_EQ(parse_size_or_share("100%")->of(UINT64_MAX), UINT64_MAX);
  EXPECT_EQ(parse_size_or_share("8KiB")->of(1000), 8192u);
  for (const char* text : {"%", "0%", "101%", "5.5%", "50 %"}) {
    EXPECT_EQ(parse_size_or_share(text).status().code(), StatusCode::kInvalidArgument) << text;
  }
}

TEST(Units, WritesWhatItReads) {
  for (const Duration duration :
       {Duration{0}, Duration{1ms}, Duration{90s}, Duration{96h}, Duration{8 * 24h + 1s + 5ms}}) {
    EXPECT_EQ(*parse_duration(format_duration(duration)), duration);
  }
  EXPECT_EQ(format_duration(90s), "1m30s");
  for (const std::uint64_t size : {0ull, 1ull, 1000ull, 1024ull, 50ull << 20, 3ull << 40}) {
    EXPECT_EQ(*parse_size(format_size(size)), size);
  }
  EXPECT_EQ(format_size(50u << 20), "50MiB");
}

}  // namespace
}  // namespace postern
