// The relay under test: the objects of a posternd process (shards, budgets, DNS cache, mailboxes) on loops of a
// simulated world. What shard::Server does with threads and the file system, this does with neither.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <postern/base/status.h>

#include "io/sim/world.h"
#include "shard/options.h"
#include "shard/process.h"
#include "shard/shard.h"

namespace postern::sim {

class Relay final : private shard::OperatorLog {
 public:
  // Begins to start; nothing has happened yet when it returns.
  Relay(io::sim::World& world, const shard::OptionsSnapshot& options, const io::sim::LoopOptions& loop,
        std::size_t mailbox_letters);
  ~Relay();
  Relay(const Relay&) = delete;
  Relay& operator=(const Relay&) = delete;

  [[nodiscard]] bool started() const { return started_ == shards_.size(); }
  [[nodiscard]] const Status& start_failure() const { return start_failure_; }
  [[nodiscard]] int exit_code() const { return process_->exit_code.load(); }
  void request_stop(Duration grace);
  // Started and not told to stop: as the daemon, which stops and reloads nothing else.
  [[nodiscard]] bool takes_orders() const { return started() && !stopping_; }
  // `options`: as before but for what a reload may change.
  void reload(const shard::OptionsSnapshot& options);
  [[nodiscard]] bool stopped() const;  // all shards are done
  [[nodiscard]] bool clean() const;

  // Recipients that wait or are being delivered; of them, those in a delivery; attempts that were put off so far.
  [[nodiscard]] std::int64_t waiting() const;
  [[nodiscard]] std::int64_t in_flight() const;
  [[nodiscard]] std::uint64_t deferred() const;
  [[nodiscard]] std::uint64_t quarantined() const;
  [[nodiscard]] const std::vector<std::string>& alarms() const { return alarms_; }

  // --- what must be back at its base line once nothing is to do
  [[nodiscard]] std::int64_t connections_in() const;
  [[nodiscard]] std::int64_t connections_out() const;
  [[nodiscard]] std::uint64_t leased_bytes() const { return process_->memory_budget.leased_bytes(); }
  [[nodiscard]] std::size_t buffers_lent() const;

  // The process's: a run may hold some of it.
  [[nodiscard]] MemoryBudget& memory_budget() { return process_->memory_budget; }

  // After a crash: forgets the shards, which cannot be taken down in the middle of what they were doing.
  void abandon();
  // After a clean stop: takes the shards down.
  void take_down();

 private:
  class Turn;
  void say(shard::Severity severity, std::string_view text) override;

  io::sim::World& world_;
  std::unique_ptr<shard::Process> process_;
  std::vector<std::unique_ptr<shard::Shard>> shards_;
  std::vector<std::unique_ptr<Turn>> turns_;
  std::vector<io::Loop*> loops_;
  std::size_t receive_buffers_;
  std::uint64_t site_seed_;
  bool stopping_ = false;
  std::size_t started_ = 0;
  Status start_failure_;
  std::vector<std::string> alarms_;
};

}  // namespace postern::sim
