#include "bench/histogram.h"

#include <algorithm>
#include <cmath>

namespace postern::bench {

void Histogram::add(Duration value) {
  value = std::max(value, Duration::zero());
  ++count_;
  sum_ns_ += static_cast<std::uint64_t>(value.count());
  max_ = std::max(max_, value);
  ++counts_[HistogramBuckets::of(static_cast<std::uint64_t>(std::min(value, value_max).count()))];
}

void Histogram::merge(const Histogram& other) {
  for (std::size_t i = 0; i < buckets; ++i) counts_[i] += other.counts_[i];
  count_ += other.count_;
  sum_ns_ += other.sum_ns_;
  max_ = std::max(max_, other.max_);
}

Duration Histogram::quantile(double share) const {
  if (count_ == 0) return Duration::zero();
  const auto wanted =
      std::clamp<std::uint64_t>(static_cast<std::uint64_t>(std::ceil(share * static_cast<double>(count_))), 1, count_);
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i < buckets; ++i) {
    seen += counts_[i];
    if (seen >= wanted) return std::min(Duration(static_cast<std::int64_t>(HistogramBuckets::last_of(i))), max_);
  }
  return max_;
}

Duration Histogram::mean() const {
  return count_ == 0 ? Duration::zero() : Duration(static_cast<std::int64_t>(sum_ns_ / count_));
}

}  // namespace postern::bench
