// One shard's metrics, and their sum over all shards: the numbers behind GET /metrics.
//
// A shard adds to its own Metrics (its thread only); the control thread reads them all at any time without disturbing
// anybody, and gets each number whole but not all of one moment. Names and help texts are in admin/exposition.cc.
#pragma once

#include <cstdint>

#include <postern/base/counters.h>

namespace postern::shard {

struct Metrics {
  // Intake.
  Counter connections_accepted;    // from clients
  Counter connections_refused;     // answered 421 at once: too many, from one peer or at all
  Counter messages_received;       // answered 250 after end of data
  Counter message_bytes_received;  // their content
  Counter recipients_received;
  Counter commands_rejected;    // negative replies to clients, 4xx and 5xx
  Counter messages_rejected;    // negative replies to end of data
  Counter tls_handshakes_full;  // with clients; a client came with a ticket in a resumed one
  Counter tls_handshakes_resumed;
  Counter tls_handshakes_failed;
  Counter tls_handshakes_refused;  // not begun: too many
  Counter tls_sessions_1_2;        // by version, of those that succeeded
  Counter tls_sessions_1_3;
  Counter authentications_succeeded;
  Counter authentications_failed;   // wrong, unknown
  Counter authentications_put_off;  // answered 454: too many failures from there, or too many waiting
  Counter stress_begun;             // connections ran short
  Gauge stressed;                   // 1: they do now
  Counter callouts_taken;           // recipients that next hops were asked for, by their answers
  Counter callouts_refused;
  Counter callouts_put_off;
  Counter callouts_unknown;  // asked in vain, or not asked
  Counter callout_cache_hits;
  Gauge callouts_outstanding;        // now
  Gauge connections_in;              // open now
  DurationHistogram accept_seconds;  // from end of data to its 250

  // Delivery: one count per recipient and attempt.
  Counter recipients_relayed;
  Counter recipients_deferred;
  Counter recipients_failed;
  Counter dsns_made;
  Counter deliveries_crossed;       // attempts here for messages that another shard owns
  Counter connections_opened;       // to next hops
  Counter connections_failed;       // attempts that led to no session
  Counter hop_tls_handshakes_full;  // with next hops
  Counter hop_tls_handshakes_resumed;
  Counter hop_tls_handshakes_failed;
  Counter hop_tls_sessions_1_2;  // by version, of those that succeeded
  Counter hop_tls_sessions_1_3;
  Counter hop_authentications_succeeded;  // with next hops
  Counter hop_authentications_refused;    // 5yz
  Counter hop_authentications_unusable;   // not begun: no TLS, no AUTH, no mechanism that may be used
  Counter hop_authentications_broken;     // 4yz, lost, or by a next hop that could not prove itself
  Counter hop_tls_verified;               // of those that succeeded: the certificate was the next hop's
  Gauge connections_out;                  // open now
  DurationHistogram delivery_seconds;     // from acceptance to relayed

  // Queue, now.
  Gauge recipients_scheduled;
  Gauge recipients_ready;
  Gauge recipients_in_flight;

  // Spool.
  Counter spool_batches;
  Counter spool_bytes;   // written, with framing and padding
  Gauge spool_segments;  // in use
  Gauge spool_messages;  // that have an unsettled recipient
  Counter spool_messages_quarantined;
  DurationHistogram spool_write_seconds;

  // DNS.
  Counter dns_queries;  // sent to servers
  Counter dns_cache_hits;
  Counter dns_cache_misses;

  // The machine.
  Gauge memory_bytes;  // of the budget, in use by this shard
  Counter system_calls;
  Counter loop_turns;
};

// What all shards together have counted, and what belongs to no shard.
struct MetricsSum {
  std::uint64_t connections_accepted = 0;
  std::uint64_t connections_refused = 0;
  std::uint64_t messages_received = 0;
  std::uint64_t message_bytes_received = 0;
  std::uint64_t recipients_received = 0;
  std::uint64_t commands_rejected = 0;
  std::uint64_t messages_rejected = 0;
  std::uint64_t tls_handshakes_full = 0;
  std::uint64_t tls_handshakes_resumed = 0;
  std::uint64_t tls_handshakes_failed = 0;
  std::uint64_t tls_handshakes_refused = 0;
  std::uint64_t tls_sessions_1_2 = 0;
  std::uint64_t tls_sessions_1_3 = 0;
  std::uint64_t authentications_succeeded = 0;
  std::uint64_t authentications_failed = 0;
  std::uint64_t authentications_put_off = 0;
  std::uint64_t stress_begun = 0;
  std::int64_t stressed = 0;  // shards
  std::uint64_t callouts_taken = 0;
  std::uint64_t callouts_refused = 0;
  std::uint64_t callouts_put_off = 0;
  std::uint64_t callouts_unknown = 0;
  std::uint64_t callout_cache_hits = 0;
  std::int64_t callouts_outstanding = 0;
  std::int64_t connections_in = 0;
  DurationHistogram::Snapshot accept_seconds;

  std::uint64_t recipients_relayed = 0;
  std::uint64_t recipients_deferred = 0;
  std::uint64_t recipients_failed = 0;
  std::uint64_t dsns_made = 0;
  std::uint64_t deliveries_crossed = 0;
  std::uint64_t connections_opened = 0;
  std::uint64_t connections_failed = 0;
  std::uint64_t hop_tls_handshakes_full = 0;
  std::uint64_t hop_tls_handshakes_resumed = 0;
  std::uint64_t hop_tls_handshakes_failed = 0;
  std::uint64_t hop_tls_sessions_1_2 = 0;
  std::uint64_t hop_tls_sessions_1_3 = 0;
  std::uint64_t hop_tls_verified = 0;
  std::uint64_t hop_authentications_succeeded = 0;
  std::uint64_t hop_authentications_refused = 0;
  std::uint64_t hop_authentications_unusable = 0;
  std::uint64_t hop_authentications_broken = 0;
  std::int64_t connections_out = 0;
  DurationHistogram::Snapshot delivery_seconds;

  std::int64_t recipients_scheduled = 0;
  std::int64_t recipients_ready = 0;
  std::int64_t recipients_in_flight = 0;

  std::uint64_t spool_batches = 0;
  std::uint64_t spool_bytes = 0;
  std::int64_t spool_segments = 0;
  std::int64_t spool_messages = 0;
  std::uint64_t spool_messages_quarantined = 0;
  DurationHistogram::Snapshot spool_write_seconds;

  std::uint64_t dns_queries = 0;
  std::uint64_t dns_cache_hits = 0;
  std::uint64_t dns_cache_misses = 0;

  std::int64_t memory_bytes = 0;
  std::uint64_t system_calls = 0;
  std::uint64_t loop_turns = 0;

  // Set by the source, not by add().
  std::uint64_t memory_limit_bytes = 0;
  std::uint64_t spool_free_bytes = 0;  // of the file system
  std::uint64_t events_dropped = 0;
  std::uint64_t shards = 0;

  // Adds what `shard` counted so far.
  void add(const Metrics& shard);
};

// What the control thread asks; the server answers from any thread.
class MetricsSource {
 public:
  [[nodiscard]] virtual MetricsSum metrics() = 0;
  // True while mail is accepted and delivered; false during start-up and shutdown, and after a failed disk.
  [[nodiscard]] virtual bool healthy() = 0;

 protected:
  ~MetricsSource() = default;
};

}  // namespace postern::shard
