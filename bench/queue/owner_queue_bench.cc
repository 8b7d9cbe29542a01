// What the queue costs a relayed message, and what a waiting recipient takes in memory.
//
// Expected: below 1 µs for add → pull → result of a message with one recipient (its share of the relay's budget is 1–2
// µs with timers), and at most 128 bytes per deferred recipient, all in, at a million of them.
#include <array>
#include <fstream>
#include <string>
#include <unistd.h>
#include <vector>

#include <benchmark/benchmark.h>

#include <postern/queue/owner_queue.h>

namespace postern::queue {
namespace {

using std::chrono::hours;
using std::chrono::minutes;

constexpr ClockPair start{Instant(hours(10)), WallTime(hours(500'000))};

std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t total = 0;
  std::size_t resident = 0;
  statm >> total >> resident;
  return resident * static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
}

void answer_routes(OwnerQueue& queue) {
  while (const auto destination = queue.take_destination_to_route()) {
    queue.on_routed(destination->id, SiteId{7}, never, start);
  }
}

void drop_outputs(OwnerQueue& queue) {
  while (auto settlement = queue.take_settlement()) benchmark::DoNotOptimize(*settlement);
  while (auto update = queue.take_retry_update()) benchmark::DoNotOptimize(*update);
  while (queue.take_notice()) continue;
}

// One message in and out, with `range(0)` others waiting for a retry.
void add_pull_result(benchmark::State& state) {
  OwnerQueue queue({}, Random(1));
  std::uint32_t next = 1;
  const std::array<NewRecipient, 1> waiting{
      NewRecipient{.destination = "waiting.test", .retry = RetryPoint{.attempts = 1, .due = start.wall + hours(1)}}};
  for (std::int64_t i = 0; i < state.range(0); ++i) {
    queue.add({.queue_id = mail::QueueId::from_parts(0, 1, next++), .give_up_at = start.wall + hours(96)}, waiting,
              start);
  }
  const std::array<NewRecipient, 1> fresh{NewRecipient{.destination = "example.test"}};
  std::vector<RecipientOutcome> outcomes(1);
  for (auto _ : state) {
    queue.add({.queue_id = mail::QueueId::from_parts(0, 1, next++), .give_up_at = start.wall + hours(96)}, fresh,
              start);
    answer_routes(queue);
    const auto work = queue.pull(SiteId{7}, 100);
    outcomes[0] = {
        .recipient = 0,
        .result = {.outcome = mail::Outcome::relayed, .reply = {.code = 250, .status = {2, 0, 0}, .text = "Ok"}}};
    if (!queue.on_results(work->delivery, outcomes, start)) state.SkipWithError("no such delivery");
    drop_outputs(queue);
  }
  state.SetItemsProcessed(state.iterations());
}
BENCHMARK(add_pull_result)->Arg(0)->Arg(1'000'000);

// A million recipients that were tried once and wait: time per recipient to get there, and bytes as counted and as
// resident.
void million_deferred(benchmark::State& state) {
  constexpr std::uint32_t count = 1'000'000;
  for (auto _ : state) {
    const std::size_t resident_before = resident_bytes();
    OwnerQueue queue({}, Random(1));
    std::array<std::string, 1000> domains;
    for (std::size_t i = 0; i < domains.size(); ++i) domains[i] = "domain" + std::to_string(i) + ".example.test";
    std::vector<RecipientOutcome> outcomes(1);
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::array<NewRecipient, 1> recipient{NewRecipient{.destination = domains[i % domains.size()]}};
      queue.add({.queue_id = mail::QueueId::from_parts(0, 1, i + 1), .give_up_at = start.wall + hours(96)}, recipient,
                start);
      answer_routes(queue);
      const auto work = queue.pull(SiteId{7}, 100);
      outcomes[0] = {
          .recipient = 0,
          .result = {.outcome = mail::Outcome::deferred, .reply = {.code = 450, .status = {4, 2, 0}, .text = "later"}}};
      if (!queue.on_results(work->delivery, outcomes, start)) state.SkipWithError("no such delivery");
      drop_outputs(queue);
    }
    state.counters["counted_bytes_each"] = static_cast<double>(queue.memory_bytes()) / count;
    state.counters["resident_bytes_each"] = static_cast<double>(resident_bytes() - resident_before) / count;
    state.SetItemsProcessed(state.items_processed() + count);
  }
}
BENCHMARK(million_deferred)->Iterations(1)->Unit(benchmark::kMillisecond);

// All of them become due again: the wheel's cost per recipient.
void million_due(benchmark::State& state) {
  constexpr std::uint32_t count = 1'000'000;
  for (auto _ : state) {
    state.PauseTiming();
    OwnerQueue queue({}, Random(1));
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::array<NewRecipient, 1> recipient{NewRecipient{
          .destination = "example.test",
          .retry = RetryPoint{.attempts = 1, .due = start.wall + Duration(std::chrono::microseconds(i * 1000ull))}}};
      queue.add({.queue_id = mail::QueueId::from_parts(0, 1, i + 1), .give_up_at = start.wall + hours(96)}, recipient,
                start);
    }
    ClockPair now = start;
    state.ResumeTiming();
    while (queue.counts().scheduled > 0) {
      now.monotonic = std::max(queue.next_deadline(), now.monotonic);
      now.wall = start.to_wall(now.monotonic);
      queue.on_deadline(now);
    }
    state.SetItemsProcessed(state.items_processed() + count);
  }
}
BENCHMARK(million_due)->Iterations(1)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace postern::queue

BENCHMARK_MAIN();
