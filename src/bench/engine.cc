#include "bench/engine.h"

#include <algorithm>
#include <utility>

#include "io/uring/uring_loop.h"

namespace postern::bench {

StatusOr<std::unique_ptr<Engine>> Engine::create() {
  // Large messages come in large pieces: fewer operations than a server with many idle peers would afford.
  StatusOr<std::unique_ptr<io::Loop>> loop =
      io::make_uring_loop({.receive_buffers = 512, .receive_buffer_bytes = 64u << 10});
  if (!loop.ok()) return loop.status();
  return std::make_unique<Engine>(std::move(*loop));
}

Engine::Engine(std::unique_ptr<io::Loop> made)
    : loop(std::move(made)), timers(loop->clocks().monotonic), connections(*loop, dispatcher, timers) {}

void Engine::turn(Instant until) {
  (void)loop->run_once(dispatcher, std::min(timers.next_expiry(), until));
  (void)timers.advance(loop->now());
}

void Engine::end_connections() {
  connections.abort_all();
  const Instant until = loop->clocks().monotonic + std::chrono::seconds(5);
  while (!connections.empty() && loop->now() < until) turn(until);
}

}  // namespace postern::bench
