#include "admin/exposition.h"

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string_view>
#include <utility>

#include <prometheus/client_metric.h>
#include <prometheus/metric_type.h>
#include <prometheus/text_serializer.h>

namespace postern::admin {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

// Prometheus' numbers are doubles: exact up to 2^53, which a counter of bytes reaches after 9 PB.
template <class Number>
double to_double(Number value) {
  return static_cast<double>(value);
}

class Families {
 public:
  void counter(std::string_view name, std::string_view help, std::uint64_t value) {
    add(name, help, MetricType::Counter).counter.value = to_double(value);
  }

  void gauge(std::string_view name, std::string_view help, std::int64_t value) {
    add(name, help, MetricType::Gauge).gauge.value = to_double(value);
  }

  // One series per value of the label.
  void counters(std::string_view name, std::string_view help, std::string_view label,
                std::initializer_list<std::pair<std::string_view, std::uint64_t>> values) {
    family(name, help, MetricType::Counter);
    for (const auto& [word, value] : values) labelled(label, word).counter.value = to_double(value);
  }

  void gauges(std::string_view name, std::string_view help, std::string_view label,
              std::initializer_list<std::pair<std::string_view, std::int64_t>> values) {
    family(name, help, MetricType::Gauge);
    for (const auto& [word, value] : values) labelled(label, word).gauge.value = to_double(value);
  }

  void histogram(std::string_view name, std::string_view help, const DurationHistogram::Snapshot& snapshot) {
    ClientMetric::Histogram& histogram = add(name, help, MetricType::Histogram).histogram;
    constexpr double second = 1e9;
    std::uint64_t cumulative = 0;
    for (std::size_t i = 0; i < DurationHistogram::buckets; ++i) {
      cumulative += snapshot.counts[i];
      ClientMetric::Bucket bucket;
      bucket.cumulative_count = cumulative;
      bucket.upper_bound = i < DurationHistogram::bounds_ns.size() ? to_double(DurationHistogram::bounds_ns[i]) / second
                                                                   : std::numeric_limits<double>::infinity();
      histogram.bucket.push_back(bucket);
    }
    histogram.sample_count = cumulative;
    histogram.sample_sum = to_double(snapshot.sum_ns) / second;
  }

  ClientMetric& labelled(std::string_view label, std::string_view value) {
    ClientMetric& metric = families_.back().metric.emplace_back();
    metric.label.push_back({std::string(label), std::string(value)});
    return metric;
  }

  void family(std::string_view name, std::string_view help, MetricType type) {
    MetricFamily& family = families_.emplace_back();
    family.name = name;
    family.help = help;
    family.type = type;
  }

  [[nodiscard]] std::vector<MetricFamily> take() { return std::move(families_); }

 private:
  ClientMetric& add(std::string_view name, std::string_view help, MetricType type) {
    family(name, help, type);
    return families_.back().metric.emplace_back();
  }

  std::vector<MetricFamily> families_;
};

void add_intake(Families& families, const shard::MetricsSum& sum) {
  families.counter("postern_connections_accepted_total", "Connections of clients.", sum.connections_accepted);
  families.counter("postern_connections_refused_total", "Connections of clients answered 421 at once.",
                   sum.connections_refused);
  families.counter("postern_stress_total", "Times at which connections of clients ran short.", sum.stress_begun);
  families.gauge("postern_stressed_shards", "Shards that close idle clients sooner, as connections are short.",
                 sum.stressed);
  families.counter("postern_messages_received_total", "Messages answered 250 after end of data.",
                   sum.messages_received);
  families.counter("postern_message_bytes_received_total", "Content of the messages received.",
                   sum.message_bytes_received);
  families.counter("postern_recipients_received_total", "Recipients of the messages received.",
                   sum.recipients_received);
  families.counter("postern_commands_rejected_total", "Negative replies to clients.", sum.commands_rejected);
  families.counter("postern_messages_rejected_total", "Negative replies to end of data.", sum.messages_rejected);
  families.counters("postern_tls_handshakes_total", "TLS handshakes with clients.", "result",
                    {{"full", sum.tls_handshakes_full},
                     {"resumed", sum.tls_handshakes_resumed},
                     {"failed", sum.tls_handshakes_failed},
                     {"refused", sum.tls_handshakes_refused}});
  families.counters("postern_tls_sessions_total", "TLS handshakes with clients that succeeded.", "version",
                    {{"TLSv1.2", sum.tls_sessions_1_2}, {"TLSv1.3", sum.tls_sessions_1_3}});
  families.counters("postern_authentications_total", "Authentications of clients by AUTH.", "outcome",
                    {{"succeeded", sum.authentications_succeeded},
                     {"failed", sum.authentications_failed},
                     {"put_off", sum.authentications_put_off}});
  families.counters("postern_callouts_total", "Recipients that next hops were asked for, by what came of it.", "answer",
                    {{"taken", sum.callouts_taken},
                     {"refused", sum.callouts_refused},
                     {"put_off", sum.callouts_put_off},
                     {"unknown", sum.callouts_unknown}});
  families.counter("postern_callout_cache_hits_total", "Recipients that next hops need not be asked for again.",
                   sum.callout_cache_hits);
  families.gauge("postern_callouts_outstanding", "Recipients that next hops are being asked for now.",
                 sum.callouts_outstanding);
  families.histogram("postern_accept_seconds", "From end of data to its 250.", sum.accept_seconds);
}

void add_delivery(Families& families, const shard::MetricsSum& sum) {
  families.gauges("postern_connections", "Connections open now, from clients (in) and to next hops (out).", "direction",
                  {{"in", sum.connections_in}, {"out", sum.connections_out}});
  families.counters(
      "postern_recipients_total", "Outcomes of attempts to deliver, one per recipient and attempt.", "outcome",
      {{"relayed", sum.recipients_relayed}, {"deferred", sum.recipients_deferred}, {"failed", sum.recipients_failed}});
  families.counter("postern_dsns_total", "Delivery status notifications made.", sum.dsns_made);
  families.counter("postern_deliveries_crossed_total",
                   "Deliveries by another shard than the one that keeps the message.", sum.deliveries_crossed);
  families.counter("postern_connections_opened_total", "Connections opened to next hops.", sum.connections_opened);
  families.counter("postern_connections_failed_total", "Attempts to connect that led to no session.",
                   sum.connections_failed);
  families.counters("postern_next_hop_tls_handshakes_total", "TLS handshakes with next hops.", "result",
                    {{"full", sum.hop_tls_handshakes_full},
                     {"resumed", sum.hop_tls_handshakes_resumed},
                     {"failed", sum.hop_tls_handshakes_failed}});
  families.counters("postern_next_hop_tls_sessions_total", "TLS handshakes with next hops that succeeded.", "version",
                    {{"TLSv1.2", sum.hop_tls_sessions_1_2}, {"TLSv1.3", sum.hop_tls_sessions_1_3}});
  families.counter("postern_next_hop_tls_verified_total",
                   "TLS handshakes with next hops whose certificate was for them, by an authority that is trusted.",
                   sum.hop_tls_verified);
  families.counters("postern_next_hop_authentications_total", "AUTH with next hops.", "result",
                    {{"succeeded", sum.hop_authentications_succeeded},
                     {"refused", sum.hop_authentications_refused},
                     {"unusable", sum.hop_authentications_unusable},
                     {"broken", sum.hop_authentications_broken}});
  families.histogram("postern_delivery_seconds", "From acceptance of a message to a recipient relayed.",
                     sum.delivery_seconds);
  families.gauges("postern_queue_recipients", "Recipients in the queue now.", "state",
                  {{"scheduled", sum.recipients_scheduled},
                   {"ready", sum.recipients_ready},
                   {"in_flight", sum.recipients_in_flight}});
}

void add_spool(Families& families, const shard::MetricsSum& sum) {
  families.counter("postern_spool_batches_total", "Durable writes, each of one batch of records.", sum.spool_batches);
  families.counter("postern_spool_bytes_total", "Bytes written to the spool.", sum.spool_bytes);
  families.gauge("postern_spool_segments", "Log segments in use.", sum.spool_segments);
  families.gauge("postern_spool_messages", "Messages with a recipient that is not settled.", sum.spool_messages);
  families.gauge("postern_spool_free_bytes", "Free space of the spool's file system.",
                 static_cast<std::int64_t>(sum.spool_free_bytes));
  families.counter("postern_spool_messages_quarantined_total", "Messages that could not be read back.",
                   sum.spool_messages_quarantined);
  families.histogram("postern_spool_write_seconds", "One durable write.", sum.spool_write_seconds);
}

void add_dns(Families& families, const shard::MetricsSum& sum) {
  families.counter("postern_dns_queries_total", "Questions sent to DNS servers.", sum.dns_queries);
  families.counter("postern_dns_cache_hits_total", "Questions answered from the cache.", sum.dns_cache_hits);
  families.counter("postern_dns_cache_misses_total", "Questions that the cache could not answer.",
                   sum.dns_cache_misses);
}

void add_machine(Families& families, const shard::MetricsSum& sum) {
  families.gauge("postern_memory_bytes", "Of the memory budget, in use.", sum.memory_bytes);
  families.gauge("postern_memory_limit_bytes", "The memory budget.", static_cast<std::int64_t>(sum.memory_limit_bytes));
  families.counter("postern_system_calls_total", "System calls made by the shards' loops.", sum.system_calls);
  families.counter("postern_loop_turns_total", "Turns of the shards' loops.", sum.loop_turns);
  families.counter("postern_events_dropped_total", "Events that the event log could not keep.", sum.events_dropped);
  families.gauge("postern_shards", "Shards running.", static_cast<std::int64_t>(sum.shards));
  families.family("postern_build_info", "Always 1; the version is in the label.", MetricType::Gauge);
  families.labelled("version", POSTERN_VERSION).gauge.value = 1;
}

}  // namespace

std::vector<MetricFamily> metric_families(const shard::MetricsSum& sum) {
  Families families;
  add_intake(families, sum);
  add_delivery(families, sum);
  add_spool(families, sum);
  add_dns(families, sum);
  add_machine(families, sum);
  return families.take();
}

std::string exposition(const shard::MetricsSum& sum) {
  return prometheus::TextSerializer().Serialize(metric_families(sum));
}

}  // namespace postern::admin
