#include "bench/drive.h"

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>

#include <sys/random.h>

#include "bench/commands.h"
#include "bench/interrupt.h"
#include "io/descriptors.h"

namespace postern::bench {

StatusOr<std::unique_ptr<Engine>> start_engine(std::size_t connections) {
  constexpr std::size_t others = 64;
  if (const auto limit = io::reserve_descriptors(connections + others); !limit.ok()) {
    return limit.status();
  } else if (*limit < connections + others) {
    return error(StatusCode::kResourceExhausted, std::to_string(connections) +
                                                     " connections need more descriptors than " + "the limit of " +
                                                     std::to_string(*limit) + ": raise `ulimit -Hn`");
  }
  catch_interrupts();
  return Engine::create();
}

std::uint64_t new_run() {
  std::uint64_t run = 0;
  // Eight bytes never come short or late once the system has started.
  (void)::getrandom(&run, sizeof run, 0);
  return run;
}

WallTime wall_now() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return WallTime(std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec));
}

int complain(const Status& status) {
  std::fprintf(stderr, "postern-bench: %s\n", std::string(message_of(status)).c_str());
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
      return exit_usage;
    case StatusCode::kUnavailable:
      return exit_bad;
    default:
      return exit_system;
  }
}

void drive(Engine& engine, Source& source, Progress& progress, const std::function<void()>& check) {
  Instant give_up_at = never;
  std::uint64_t accepted_before = 0;
  Instant shown_at = engine.loop->now();
  while (!source.done()) {
    engine.turn(std::min({source.next_due(), progress.next(), give_up_at}));
    source.on_turn();
    if (check) check();
    const Instant now = engine.loop->now();
    if (interrupts() > 0) source.stop();
    if (give_up_at == never && source.all_begun()) give_up_at = now + answer_patience;
    if (interrupts() > 1 || now >= give_up_at) return;
    if (progress.due(now)) {
      const Source::Counts& counts = source.counts();
      const double seconds = std::max(0.001, std::chrono::duration<double>(now - shown_at).count());
      std::string line =
          std::to_string(counts.accepted) + " accepted, " +
          std::to_string(static_cast<std::uint64_t>(static_cast<double>(counts.accepted - accepted_before) / seconds)) +
          "/s, " + std::to_string(counts.refused) + " refused";
      if (const std::uint64_t overdue = source.overdue(now); overdue > 0) {
        line += ", " + std::to_string(overdue) + " overdue";
      }
      progress.show(line, now);
      accepted_before = counts.accepted;
      shown_at = now;
    }
  }
}

void finish(Engine& engine, Sink& sink) {
  sink.stop();
  const Instant until = engine.loop->clocks().monotonic + std::chrono::seconds(2);
  while (!sink.stopped() && engine.loop->now() < until) engine.turn(until);
  engine.end_connections();
}

}  // namespace postern::bench
