// What the containers of the hot path cost. Expected on a 2–3 GHz core: moving an armed timer later ≤ 3 ns, arming and
// cancelling ≤ 20 ns; a slot look-up ≤ 3 ns; a message through the queue between two shards, batched, ≤ 10 ns; a small
// take and give of the budget ≤ 5 ns; a histogram's observation ≤ 10 ns. Build release; pin to one core (taskset).
#include <deque>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <postern/base/chunk_list.h>
#include <postern/base/counters.h>
#include <postern/base/memory_budget.h>
#include <postern/base/random.h>
#include <postern/base/slot_map.h>
#include <postern/base/spsc_queue.h>
#include <postern/base/timer_wheel.h>

namespace postern {
namespace {

struct Nobody final : TimerHandler {
  void on_timer(Timer&, Instant) override {}
};

constexpr Instant start{std::chrono::hours(1)};

void timer_moved_later(benchmark::State& state) {
  Nobody nobody;
  TimerWheel wheel(start);
  Timer timer(nobody);
  Instant deadline = start + std::chrono::minutes(5);
  for (auto _ : state) {
    deadline += std::chrono::microseconds(10);
    wheel.arm(timer, deadline);
    benchmark::DoNotOptimize(timer);
  }
}
BENCHMARK(timer_moved_later);

// 30,000 timers in the wheel, as with as many clients; one of them is cancelled and armed anew.
void timer_armed_and_cancelled(benchmark::State& state) {
  Nobody nobody;
  TimerWheel wheel(start);
  Random random(1);
  std::deque<Timer> timers;
  for (int i = 0; i < 30'000; ++i) {
    wheel.arm(timers.emplace_back(nobody), start + Duration(random.below(300) * 1'000'000'000));
  }
  std::size_t at = 0;
  for (auto _ : state) {
    Timer& timer = timers[at];
    timer.cancel();
    wheel.arm(timer, start + std::chrono::minutes(5));
    at = at + 1 == timers.size() ? 0 : at + 1;
  }
}
BENCHMARK(timer_armed_and_cancelled);

void slot_found(benchmark::State& state) {
  SlotMap<std::uint64_t> map(1000);
  std::vector<SlotId> ids;
  for (std::uint64_t i = 0; i < 1000; ++i) ids.push_back(map.id_of(*map.emplace(i)));
  std::size_t at = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(map.find(ids[at]));
    at = at + 1 == ids.size() ? 0 : at + 1;
  }
}
BENCHMARK(slot_found);

void queue_pushed_and_popped(benchmark::State& state) {
  SpscQueue<std::uint64_t> queue(1024);
  std::uint64_t sum = 0;
  for (auto _ : state) {
    for (std::uint64_t i = 0; i < 32; ++i) benchmark::DoNotOptimize(queue.push(std::uint64_t{i}));
    (void)queue.pop_batch(32, [&](std::uint64_t&& value) { sum += value; });
  }
  benchmark::DoNotOptimize(sum);
  state.SetItemsProcessed(state.iterations() * 32);
}
BENCHMARK(queue_pushed_and_popped);

void budget_taken_and_given(benchmark::State& state) {
  MemoryBudget budget({.total_bytes = 1u << 30});
  BudgetLease lease(budget);
  for (auto _ : state) {
    benchmark::DoNotOptimize(lease.take(BudgetClass::intake, 5000));
    lease.give(BudgetClass::intake, 5000);
  }
}
BENCHMARK(budget_taken_and_given);

void duration_observed(benchmark::State& state) {
  DurationHistogram histogram;
  Duration duration{1};
  for (auto _ : state) {
    histogram.observe(duration);
    duration = Duration(duration.count() * 3 % 1'000'000'007);
  }
}
BENCHMARK(duration_observed);

void small_content_kept(benchmark::State& state) {
  const std::string content(1024, 'x');
  for (auto _ : state) {
    ChunkList list;
    list.expect(content.size());
    list.append(as_bytes(content));
    benchmark::DoNotOptimize(list.size());
  }
}
BENCHMARK(small_content_kept);

}  // namespace
}  // namespace postern

BENCHMARK_MAIN();
