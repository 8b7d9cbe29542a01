// The one thread of postern-bench: a loop, its connections and timers, and the round that drives them.
#pragma once

#include <functional>
#include <memory>

#include <postern/base/status.h>
#include <postern/base/timer_wheel.h>

#include "io/loop.h"
#include "net/connection.h"
#include "net/dispatcher.h"

namespace postern::bench {

struct Engine {
  // kFailedPrecondition: io_uring cannot be used, with cause and cure.
  [[nodiscard]] static StatusOr<std::unique_ptr<Engine>> create();
  explicit Engine(std::unique_ptr<io::Loop> made);

  // One round: waits until something completes, a timer is due, or `until`.
  void turn(Instant until);
  // All connections are gone when it returns, or 5 s have passed. Users of connections must live until then.
  void end_connections();

  std::unique_ptr<io::Loop> loop;
  net::Dispatcher dispatcher;
  TimerWheel timers;
  net::ConnectionTable connections;
};

}  // namespace postern::bench
