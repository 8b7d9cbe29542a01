#include "admin/exposition.h"

#include <set>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace postern::admin {
namespace {

using testing::HasSubstr;

TEST(Exposition, EverySeriesIsThereFromTheStartWithZero) {
  const std::string text = exposition({});
  for (const char* series : {
           "postern_messages_received_total 0\n",
           "postern_recipients_total{outcome=\"relayed\"} 0\n",
           "postern_recipients_total{outcome=\"deferred\"} 0\n",
           "postern_recipients_total{outcome=\"failed\"} 0\n",
           "postern_queue_recipients{state=\"scheduled\"} 0\n",
           "postern_queue_recipients{state=\"ready\"} 0\n",
           "postern_queue_recipients{state=\"in_flight\"} 0\n",
           "postern_connections{direction=\"in\"} 0\n",
           "postern_connections{direction=\"out\"} 0\n",
           "postern_spool_batches_total 0\n",
           "postern_spool_bytes_total 0\n",
           "postern_dns_queries_total 0\n",
           "postern_dns_cache_hits_total 0\n",
           "postern_accept_seconds_count 0\n",
           "postern_accept_seconds_bucket{le=\"+Inf\"} 0\n",
           "postern_delivery_seconds_count 0\n",
           "postern_spool_write_seconds_count 0\n",
           "postern_events_dropped_total 0\n",
       }) {
    EXPECT_THAT(text, HasSubstr(series));
  }
}

TEST(Exposition, NamesFollowTheConvention) {
  std::set<std::string> names;
  for (const auto& family : metric_families({})) {
    EXPECT_TRUE(family.name.starts_with("postern_")) << family.name;
    EXPECT_EQ(family.name.ends_with("_total"), family.type == prometheus::MetricType::Counter) << family.name;
    EXPECT_FALSE(family.help.empty()) << family.name;
    EXPECT_TRUE(names.insert(family.name).second) << family.name << " twice";
    EXPECT_FALSE(family.metric.empty()) << family.name;
  }
}

TEST(Exposition, ShardsAddUp) {
  shard::Metrics one;
  shard::Metrics two;
  one.messages_received.add(3);
  two.messages_received.add(4);
  one.connections_in.add(5);
  two.connections_in.add(-2);
  one.accept_seconds.observe(std::chrono::microseconds(40));
  two.accept_seconds.observe(std::chrono::milliseconds(3));
  two.accept_seconds.observe(std::chrono::hours(1));
  shard::MetricsSum sum;
  sum.add(one);
  sum.add(two);
  const std::string text = exposition(sum);
  EXPECT_THAT(text, HasSubstr("postern_messages_received_total 7\n"));
  EXPECT_THAT(text, HasSubstr("postern_connections{direction=\"in\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("postern_accept_seconds_count 3\n"));
  EXPECT_THAT(text, HasSubstr("postern_accept_seconds_bucket{le=\"5e-05\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("postern_accept_seconds_bucket{le=\"0.005\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("postern_accept_seconds_bucket{le=\"600\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("postern_accept_seconds_bucket{le=\"+Inf\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("postern_accept_seconds_sum 3600.00304\n"));
}

}  // namespace
}  // namespace postern::admin
