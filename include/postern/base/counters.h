// Counters that one thread writes and any thread reads: a shard's metrics.
//
// A single writer needs no read-modify-write: add() is a plain load, addition and store, relaxed, without a lock
// prefix. Readers see each number whole, but not all numbers of one moment. Two threads writing one counter lose
// counts.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include <postern/base/time.h>

namespace postern {

// Only grows.
class Counter {
 public:
  void add(std::uint64_t n = 1) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

// Goes up and down.
class Gauge {
 public:
  void set(std::int64_t value) { value_.store(value, std::memory_order_relaxed); }
  void add(std::int64_t n) { value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed); }
  [[nodiscard]] std::int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> value_{0};
};

// Durations in fixed buckets, three a decade from 50 µs to 10 min: fine enough for the percentiles of a disk write and
// of a delivery alike, and the same in every shard, so that shards add up.
class DurationHistogram {
 public:
  // Upper bounds, inclusive, in nanoseconds; one more bucket takes the rest.
  static constexpr std::array<std::int64_t, 23> bounds_ns = {
      50'000,         100'000,         200'000,         500'000,         1'000'000,      2'000'000,
      5'000'000,      10'000'000,      20'000'000,      50'000'000,      100'000'000,    200'000'000,
      500'000'000,    1'000'000'000,   2'000'000'000,   5'000'000'000,   10'000'000'000, 20'000'000'000,
      50'000'000'000, 100'000'000'000, 200'000'000'000, 300'000'000'000, 600'000'000'000};
  static_assert(std::is_sorted(bounds_ns.begin(), bounds_ns.end()));
  static constexpr std::size_t buckets = bounds_ns.size() + 1;

  // What a reader took: counts per bucket (not cumulative), and the sum of all durations.
  struct Snapshot {
    std::array<std::uint64_t, buckets> counts{};
    std::uint64_t sum_ns = 0;
    void add(const Snapshot& other);
    [[nodiscard]] std::uint64_t count() const;
    // The upper bound of the bucket in which the q-quantile (0…1) lies, the last bound for the last bucket; 0 when
    // empty.
    [[nodiscard]] Duration quantile_at_most(double q) const;
  };

  // A negative duration counts as 0.
  void observe(Duration duration) {
    const std::int64_t ns = std::max<std::int64_t>(duration.count(), 0);
    const auto bucket =
        static_cast<std::size_t>(std::lower_bound(bounds_ns.begin(), bounds_ns.end(), ns) - bounds_ns.begin());
    counts_[bucket].add();
    sum_ns_.add(static_cast<std::uint64_t>(ns));
  }
  [[nodiscard]] Snapshot snapshot() const;

 private:
  std::array<Counter, buckets> counts_;
  Counter sum_ns_;
};

}  // namespace postern
