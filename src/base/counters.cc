#include <postern/base/counters.h>

namespace postern {

void DurationHistogram::Snapshot::add(const Snapshot& other) {
  for (std::size_t i = 0; i < buckets; ++i) counts[i] += other.counts[i];
  sum_ns += other.sum_ns;
}

std::uint64_t DurationHistogram::Snapshot::count() const {
  std::uint64_t count = 0;
  for (const std::uint64_t bucket : counts) count += bucket;
  return count;
}

Duration DurationHistogram::Snapshot::quantile_at_most(double q) const {
  const std::uint64_t total = count();
  if (total == 0) return Duration{0};
  const double rank = q * static_cast<double>(total);
  std::uint64_t below = 0;
  for (std::size_t i = 0; i < bounds_ns.size(); ++i) {
    below += counts[i];
    if (below > 0 && static_cast<double>(below) >= rank) return Duration{bounds_ns[i]};
  }
  return Duration{bounds_ns.back()};
}

DurationHistogram::Snapshot DurationHistogram::snapshot() const {
  Snapshot snapshot;
  for (std::size_t i = 0; i < buckets; ++i) snapshot.counts[i] = counts_[i].value();
  snapshot.sum_ns = sum_ns_.value();
  return snapshot;
}

}  // namespace postern
