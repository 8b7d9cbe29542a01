// What the shards of one process share beside configuration snapshots: budgets, counts, the DNS cache, the mailboxes,
// and how far start and stop have come.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include <postern/base/memory_budget.h>
#include <postern/dns/cache.h>
#include <postern/policy/failure_limit.h>
#include <postern/policy/peer_counts.h>
#include <postern/policy/peer_rates.h>

#include "ingress/ingress.h"
#include "shard/event_log.h"
#include "shard/mailbox.h"
#include "shard/operator_log.h"

namespace postern::shard {

struct Process {
  Process(const MemoryBudget::Options& memory, std::uint32_t connections, std::uint32_t connections_per_peer,
          std::uint64_t seed, const dns::CacheOptions& cache, queue::ShardIndex shards, OperatorLog& log,
          std::size_t mailbox_capacity = Mailboxes::capacity_default)
      : memory_budget(memory),
        connection_count(connections),
        peer_counts(connections_per_peer, seed),
        handshake_rates(seed),
        connection_rates(seed + 1),
        message_rates(seed + 2),
        auth_failures(~seed),
        dns_cache(cache),
        mailboxes(shards, mailbox_capacity),
        operator_log(log) {}

  MemoryBudget memory_budget;
  ingress::ConnectionCount connection_count;
  policy::PeerCounts peer_counts;
  policy::PeerRates handshake_rates;
  policy::PeerRates connection_rates;
  policy::PeerRates message_rates;
  policy::FailureLimit auth_failures;
  dns::Cache dns_cache;
  Mailboxes mailboxes;
  std::unique_ptr<EventLog> event_log;
  OperatorLog& operator_log;

  // Start: shards whose logs are all recovered. Mail moves once that is all of them.
  std::atomic<std::uint32_t> recovered{0};
  // Stop: shards that have nothing in flight any more. Each counts itself once.
  std::atomic<std::uint32_t> quiet{0};
  // The operator has been told that the file system refuses O_DIRECT: once is enough for all logs.
  std::atomic<bool> said_buffered{false};
  // The process must end with this code: 74 after a failed disk. 0: it need not. Whoever sets it calls on_failure().
  std::atomic<int> exit_code{0};
  std::function<void()> on_failure;  // from any shard's thread; does not block
};

}  // namespace postern::shard
