// The control thread's part of a running daemon: the order of the start, signals, reload, the orderly stop.
#pragma once

#include <string>

#include "daemon/system.h"
#include "shard/operator_log.h"
#include "shard/options.h"

namespace postern::daemon {

// Exit codes of sysexits(3), which supervisors know not to treat alike.
enum ExitCode : int {
  exit_ok = 0,
  exit_usage = 64,   // the command line
  exit_system = 71,  // io_uring forbidden, data_dir in use, port taken: starting again soon will not help
  exit_disk = 74,    // a disk failed: recover from it by starting again
  exit_config = 78,
};

// Runs the daemon until it is told to stop, and returns the exit code. All signals that it handles are blocked before
// the first thread is started, by block_signals().
[[nodiscard]] int run(const std::string& config_path, const System& system, shard::OptionsSnapshot options,
                      shard::OperatorLog& log);

// SIGTERM, SIGINT and SIGHUP are read by run(); SIGPIPE is ignored: a lost peer is a result of send, not a signal.
void block_signals();

}  // namespace postern::daemon
