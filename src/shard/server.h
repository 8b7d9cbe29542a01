// All shards of a process: makes them, starts their threads, stops them, and sums their metrics.
//
// Used by the daemon's control thread; metrics() and healthy() by any.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <postern/base/status.h>

#include "io/loop.h"
#include "io/sockets.h"
#include "shard/metrics.h"
#include "shard/operator_log.h"
#include "shard/options.h"
#include "shard/process.h"
#include "shard/shard.h"

namespace postern::shard {

class Server final : public MetricsSource {
 public:
  struct Setup {
    OptionsSnapshot options;
    std::shared_ptr<const policy::RecipientTable> recipients =
        nullptr;       // of options->recipients; null: everyone exists
    OperatorLog& log;  // outlives the server
    // The I/O backend, once per shard.
    std::function<StatusOr<std::unique_ptr<io::Loop>>()> make_loop;
    // The process should end: a disk failed. Called once, from a shard's thread, right after exit_code() became
    // non-zero; must not block. May come before start() has returned.
    std::function<void()> on_failure;
  };
  // Recovers the spool, and returns once all listeners are open. kFailedPrecondition: io_uring; kAlreadyExists: an
  // address is taken; kDataLoss, kUnavailable: the spool cannot be used.
  [[nodiscard]] static StatusOr<std::unique_ptr<Server>> start(Setup setup);
  ~Server();  // stops at once, if it was not stopped
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // Stops accepting, finishes what is in flight for up to `grace`. Again, with a shorter grace: hurries.
  void request_stop(Duration grace);
  [[nodiscard]] bool stopped() const { return running_.load() == 0; }
  void wait();  // until stopped
  // 0, or 74 after a failed disk.
  [[nodiscard]] int exit_code() const { return process_->exit_code.load(); }

  // What can change while running does; what cannot is named in the message (OK all the same).
  [[nodiscard]] Status reload(OptionsSnapshot options, std::shared_ptr<const policy::RecipientTable> recipients);
  // The recipients alone.
  [[nodiscard]] Status set_recipients(std::shared_ptr<const policy::RecipientTable> recipients);

  // Where the shards listen: [shard][listener].
  [[nodiscard]] std::vector<io::Address> addresses() const { return shards_.front()->addresses(); }

  // --- MetricsSource
  [[nodiscard]] MetricsSum metrics() override;
  [[nodiscard]] bool healthy() override;

 private:
  Server() = default;

  OptionsSnapshot options_;  // of the control thread
  std::string data_dir_;     // never changes while running
  OperatorLog* log_ = nullptr;
  std::uint64_t site_seed_ = 0;
  std::vector<io::SocketFile> socket_files_;  // gone as soon as a stop is asked for
  std::unique_ptr<Process> process_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::vector<std::thread> threads_;
  std::atomic<std::uint32_t> running_{0};
  std::atomic<bool> stopping_{false};
};

}  // namespace postern::shard
