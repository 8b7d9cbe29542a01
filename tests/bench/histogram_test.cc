// Quantiles of the load generator's latencies.
#include "bench/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/random.h>

namespace postern::bench {
namespace {

using std::chrono::nanoseconds;

TEST(Histogram, EmptySaysZero) {
  const Histogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.quantile(0.99), Duration::zero());
  EXPECT_EQ(histogram.mean(), Duration::zero());
}

TEST(Histogram, SmallValuesAreExact) {
  Histogram histogram;
  for (int i = 1; i <= 100; ++i) histogram.add(nanoseconds(i));
  EXPECT_EQ(histogram.quantile(0.5), nanoseconds(50));
  EXPECT_EQ(histogram.quantile(0.9), nanoseconds(90));
  EXPECT_EQ(histogram.quantile(1), nanoseconds(100));
  EXPECT_EQ(histogram.quantile(0), nanoseconds(1));
  EXPECT_EQ(histogram.mean(), nanoseconds(50));
  EXPECT_EQ(histogram.max(), nanoseconds(100));
}

TEST(Histogram, QuantilesAreNeverBelowTheTruthAndAtMostASixtyFourthAbove) {
  Random random(1);
  Histogram histogram;
  std::vector<std::int64_t> values;
  for (int i = 0; i < 20'000; ++i) {
    // From nanoseconds to minutes, all magnitudes alike.
    const auto value = static_cast<std::int64_t>(random() >> (24 + random.below(38)));
    values.push_back(value);
    histogram.add(nanoseconds(value));
  }
  std::ranges::sort(values);
  for (const double share : {0.01, 0.1, 0.5, 0.9, 0.99, 0.999}) {
    const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
    const std::int64_t truth = values[rank - 1];
    const std::int64_t said = histogram.quantile(share).count();
    EXPECT_GE(said, truth) << share;
    EXPECT_LE(static_cast<double>(said), static_cast<double>(truth) * (1 + 1.0 / 64) + 1) << share;
  }
}

TEST(Histogram, NegativeCountsAsZeroAndTheLongestHaveAPlace) {
  Histogram histogram;
  histogram.add(nanoseconds(-5));
  histogram.add(std::chrono::hours(10));
  EXPECT_EQ(histogram.quantile(0.5), Duration::zero());
  EXPECT_EQ(histogram.quantile(1), Histogram::value_max);
  EXPECT_EQ(histogram.max(), std::chrono::hours(10));
}

TEST(Histogram, MergedIsAsIfAllHadBeenAddedToOne) {
  Histogram one, other, both;
  for (int i = 0; i < 1000; ++i) {
    const nanoseconds value(i * i);
    (i % 3 == 0 ? one : other).add(value);
    both.add(value);
  }
  one.merge(other);
  EXPECT_EQ(one.count(), both.count());
  EXPECT_EQ(one.mean(), both.mean());
  EXPECT_EQ(one.max(), both.max());
  for (const double share : {0.1, 0.5, 0.99}) EXPECT_EQ(one.quantile(share), both.quantile(share));
}

}  // namespace
}  // namespace postern::bench
