#include "shard/metrics.h"

namespace postern::shard {

void MetricsSum::add(const Metrics& shard) {
  connections_accepted += shard.connections_accepted.value();
  connections_refused += shard.connections_refused.value();
  messages_received += shard.messages_received.value();
  message_bytes_received += shard.message_bytes_received.value();
  recipients_received += shard.recipients_received.value();
  commands_rejected += shard.commands_rejected.value();
  messages_rejected += shard.messages_rejected.value();
  connections_in += shard.connections_in.value();
  accept_seconds.add(shard.accept_seconds.snapshot());

  recipients_relayed += shard.recipients_relayed.value();
  recipients_deferred += shard.recipients_deferred.value();
  recipients_failed += shard.recipients_failed.value();
  dsns_made += shard.dsns_made.value();
  deliveries_crossed += shard.deliveries_crossed.value();
  connections_opened += shard.connections_opened.value();
  connections_failed += shard.connections_failed.value();
  connections_out += shard.connections_out.value();
  delivery_seconds.add(shard.delivery_seconds.snapshot());

  recipients_scheduled += shard.recipients_scheduled.value();
  recipients_ready += shard.recipients_ready.value();
  recipients_in_flight += shard.recipients_in_flight.value();

  spool_batches += shard.spool_batches.value();
  spool_bytes += shard.spool_bytes.value();
  spool_segments += shard.spool_segments.value();
  spool_messages += shard.spool_messages.value();
  spool_messages_quarantined += shard.spool_messages_quarantined.value();
  spool_write_seconds.add(shard.spool_write_seconds.snapshot());

  dns_queries += shard.dns_queries.value();
  dns_cache_hits += shard.dns_cache_hits.value();
  dns_cache_misses += shard.dns_cache_misses.value();

  memory_bytes += shard.memory_bytes.value();
  system_calls += shard.system_calls.value();
  loop_turns += shard.loop_turns.value();
}

}  // namespace postern::shard
