#include <gtest/gtest.h>

#include <postern/base/counters.h>

namespace postern {
namespace {

TEST(Counters, CountUpAndGaugesBothWays) {
  Counter counter;
  counter.add();
  counter.add(41);
  EXPECT_EQ(counter.value(), 42u);
  Gauge gauge;
  gauge.add(2);
  gauge.add(-5);
  EXPECT_EQ(gauge.value(), -3);
}

TEST(DurationHistogram, ABoundBelongsToItsBucket) {
  DurationHistogram histogram;
  histogram.observe(std::chrono::microseconds(50));
  histogram.observe(std::chrono::nanoseconds(50'001));
  histogram.observe(std::chrono::nanoseconds(-1));
  histogram.observe(std::chrono::hours(1));
  const auto snapshot = histogram.snapshot();
  EXPECT_EQ(snapshot.counts[0], 2u);
  EXPECT_EQ(snapshot.counts[1], 1u);
  EXPECT_EQ(snapshot.counts.back(), 1u);
  EXPECT_EQ(snapshot.count(), 4u);
  EXPECT_EQ(snapshot.sum_ns, 100'001u + 3'600'000'000'000u);
}

TEST(DurationHistogram, ShardsAddUpAndQuantilesAreUpperBounds) {
  DurationHistogram a, b;
  for (int i = 0; i < 98; ++i) a.observe(std::chrono::microseconds(700));
  for (int i = 0; i < 2; ++i) b.observe(std::chrono::milliseconds(30));
  auto sum = a.snapshot();
  sum.add(b.snapshot());
  EXPECT_EQ(sum.count(), 100u);
  EXPECT_EQ(sum.quantile_at_most(0.5), std::chrono::milliseconds(1));
  EXPECT_EQ(sum.quantile_at_most(0.99), std::chrono::milliseconds(50));
  EXPECT_EQ(DurationHistogram::Snapshot{}.quantile_at_most(0.5), Duration{0});
}

}  // namespace
}  // namespace postern
