// How often a peer may fail to authenticate.
#include <chrono>

#include <gtest/gtest.h>

#include <postern/policy/failure_limit.h>

namespace postern::policy {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

const IpAddress one = *IpAddress::parse("192.0.2.1");
const IpAddress other = *IpAddress::parse("192.0.2.2");
constexpr FailureLimit::Limit limit{.failures_max = 5, .forget_after = minutes(10)};
constexpr Instant start{std::chrono::hours(1)};

TEST(FailureLimit, LetsSoManyPass) {
  FailureLimit failures(1);
  for (int i = 0; i < 5; ++i) {
    EXPECT_FALSE(failures.is_over(one, limit, start)) << i;
    failures.add(one, limit, start);
  }
  EXPECT_TRUE(failures.is_over(one, limit, start));
  EXPECT_FALSE(failures.is_over(other, limit, start));
}

TEST(FailureLimit, ForgetsOneAfterTheOther) {
  FailureLimit failures(1);
  for (int i = 0; i < 5; ++i) failures.add(one, limit, start);
  EXPECT_TRUE(failures.is_over(one, limit, start + minutes(2) - seconds(1)));
  EXPECT_FALSE(failures.is_over(one, limit, start + minutes(2)));
  failures.add(one, limit, start + minutes(2));
  EXPECT_TRUE(failures.is_over(one, limit, start + minutes(2)));
  EXPECT_FALSE(failures.is_over(one, limit, start + minutes(12)));
}

TEST(FailureLimit, IsNeverFarAway) {
  FailureLimit failures(1);
  for (int i = 0; i < 100'000; ++i) failures.add(one, limit, start);
  EXPECT_TRUE(failures.is_over(one, limit, start + minutes(11)));
  EXPECT_FALSE(failures.is_over(one, limit, start + minutes(20)));
}

TEST(FailureLimit, OfZeroIsNone) {
  FailureLimit failures(1);
  constexpr FailureLimit::Limit none{.failures_max = 0};
  for (int i = 0; i < 1000; ++i) failures.add(one, none, start);
  EXPECT_FALSE(failures.is_over(one, none, start));
}

TEST(FailureLimit, CountsACustomersNetworkAsOne) {
  FailureLimit failures(1);
  for (int i = 0; i < 5; ++i) failures.add(*IpAddress::parse("2001:db8::1"), limit, start);
  EXPECT_TRUE(failures.is_over(*IpAddress::parse("2001:db8::ffff:1"), limit, start));
  EXPECT_FALSE(failures.is_over(*IpAddress::parse("2001:db8:0:1::1"), limit, start));
}

}  // namespace
}  // namespace postern::policy
