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
  tls_handshakes_full += shard.tls_handshakes_full.value();
  tls_handshakes_resumed += shard.tls_handshakes_resumed.value();
  tls_handshakes_failed += shard.tls_handshakes_failed.value();
  tls_handshakes_refused += shard.tls_handshakes_refused.value();
  tls_sessions_1_2 += shard.tls_sessions_1_2.value();
  tls_sessions_1_3 += shard.tls_sessions_1_3.value();
  authentications_succeeded += shard.authentications_succeeded.value();
  authentications_failed += shard.authentications_failed.value();
  authentications_put_off += shard.authentications_put_off.value();
  stress_begun += shard.stress_begun.value();
  stressed += shard.stressed.value();
  callouts_taken += shard.callouts_taken.value();
  callouts_refused += shard.callouts_refused.value();
  callouts_put_off += shard.callouts_put_off.value();
  callouts_unknown += shard.callouts_unknown.value();
  callout_cache_hits += shard.callout_cache_hits.value();
  callouts_outstanding += shard.callouts_outstanding.value();
  connections_in += shard.connections_in.value();
  accept_seconds.add(shard.accept_seconds.snapshot());

  recipients_relayed += shard.recipients_relayed.value();
  recipients_deferred += shard.recipients_deferred.value();
  recipients_failed += shard.recipients_failed.value();
  dsns_made += shard.dsns_made.value();
  deliveries_crossed += shard.deliveries_crossed.value();
  connections_opened += shard.connections_opened.value();
  connections_failed += shard.connections_failed.value();
  hop_tls_handshakes_full += shard.hop_tls_handshakes_full.value();
  hop_tls_handshakes_resumed += shard.hop_tls_handshakes_resumed.value();
  hop_tls_handshakes_failed += shard.hop_tls_handshakes_failed.value();
  hop_tls_sessions_1_2 += shard.hop_tls_sessions_1_2.value();
  hop_tls_sessions_1_3 += shard.hop_tls_sessions_1_3.value();
  hop_tls_verified += shard.hop_tls_verified.value();
  hop_authentications_succeeded += shard.hop_authentications_succeeded.value();
  hop_authentications_refused += shard.hop_authentications_refused.value();
  hop_authentications_unusable += shard.hop_authentications_unusable.value();
  hop_authentications_broken += shard.hop_authentications_broken.value();
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
