// The control thread's part of a running daemon: the order of the start, signals, reload, the orderly stop.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include <postern/base/status.h>

#include "daemon/system.h"
#include "io/loop.h"
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

// The I/O backend, made once per shard.
using MakeLoop = std::function<StatusOr<std::unique_ptr<io::Loop>>()>;
// io_uring, with its defaults.
[[nodiscard]] StatusOr<std::unique_ptr<io::Loop>> make_usual_loop();

// Runs the daemon until it is told to stop, and returns the exit code. All signals that it handles are blocked before
// the first thread is started, by block_signals(). `make_loop`: another one for test programs that look on.
[[nodiscard]] int run(const std::string& config_path, const System& system, shard::OptionsSnapshot options,
                      shard::OperatorLog& log, const MakeLoop& make_loop = make_usual_loop);

// SIGTERM, SIGINT and SIGHUP are read by run(); SIGPIPE is ignored: a lost peer is a result of send, not a signal.
void block_signals();

}  // namespace postern::daemon
