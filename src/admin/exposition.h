// GET /metrics: the sum of all shards as Prometheus text [Prometheus exposition format 0.0.4].
#pragma once

#include <string>
#include <vector>

#include <prometheus/metric_family.h>

#include "shard/metrics.h"

namespace postern::admin {

// Every series there is, also those that are still 0. Names begin with postern_, counters end in _total, base units.
[[nodiscard]] std::vector<prometheus::MetricFamily> metric_families(const shard::MetricsSum& sum);

[[nodiscard]] std::string exposition(const shard::MetricsSum& sum);

inline constexpr const char* exposition_content_type = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace postern::admin
