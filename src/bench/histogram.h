// Durations, counted in buckets: quantiles without keeping every value, in 23 KiB whatever comes.
//
// A bucket is at most 1/64 of its values wide, and no wider than 1 ns below 128 ns: quantiles are right to 1.6 %.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include <postern/base/time.h>

namespace postern::bench {

struct HistogramBuckets {
  static constexpr unsigned fine_bits = 6, value_bits = 42;
  static constexpr std::size_t count = (std::size_t{value_bits - fine_bits} << fine_bits) + (1u << fine_bits);

  // Values below 2^(fine_bits+1) have a bucket each; above, the leading fine_bits+1 bits name the bucket.
  [[nodiscard]] static constexpr std::size_t of(std::uint64_t value) {
    const auto width = static_cast<unsigned>(std::bit_width(value));
    const unsigned shift = width > fine_bits + 1 ? width - (fine_bits + 1) : 0;
    return (std::size_t{shift} << fine_bits) + static_cast<std::size_t>(value >> shift);
  }
  [[nodiscard]] static constexpr std::uint64_t last_of(std::size_t bucket) {
    const std::size_t shift = bucket < (2u << fine_bits) ? 0 : (bucket >> fine_bits) - 1;
    return ((static_cast<std::uint64_t>(bucket - (shift << fine_bits)) + 1) << shift) - 1;
  }
};
static_assert(HistogramBuckets::of(0) == 0 && HistogramBuckets::of(127) == 127 && HistogramBuckets::of(128) == 128 &&
              HistogramBuckets::of(129) == 128);
static_assert(HistogramBuckets::last_of(127) == 127 && HistogramBuckets::last_of(128) == 129 &&
              HistogramBuckets::last_of(HistogramBuckets::of(1'000'000)) >= 1'000'000);
static_assert(HistogramBuckets::of((std::uint64_t{1} << HistogramBuckets::value_bits) - 1) ==
              HistogramBuckets::count - 1);

class Histogram {
 public:
  // Longer durations (73 minutes) count as this one in quantiles; max() and mean() are exact.
  static constexpr Duration value_max{(std::int64_t{1} << 42) - 1};

  void add(Duration value);  // below zero counts as zero
  void merge(const Histogram& other);

  [[nodiscard]] std::uint64_t count() const { return count_; }
  // The least value with at least `share` (0 … 1) of all values at or below it, rounded up to its bucket's end but
  // never above max(). Zero when empty.
  [[nodiscard]] Duration quantile(double share) const;
  [[nodiscard]] Duration max() const { return max_; }
  [[nodiscard]] Duration mean() const;

 private:
  static constexpr std::size_t buckets = HistogramBuckets::count;

  std::array<std::uint64_t, buckets> counts_{};
  std::uint64_t count_ = 0;
  std::uint64_t sum_ns_ = 0;
  Duration max_{};
};

}  // namespace postern::bench
