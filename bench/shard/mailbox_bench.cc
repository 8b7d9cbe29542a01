// Question: what does a letter from shard to shard cost, without the kernel?
//
//   letters/N       N letters sent, flushed and received in one turn each, by one thread: the code's own cost a letter
//   across_threads  the same between two threads that both run all the time: cache lines travel; a letter's share
//
// Expected: at most 15 ns a letter in one thread with 16 of them a turn, 60 ns across two cores. A doorbell to a shard
// that sleeps costs a system call beside it (io_bench, wake_asleep) and is not rung here.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

#include <benchmark/benchmark.h>

#include "shard/mailbox.h"

namespace postern::shard {
namespace {

struct Silent final : io::Waker {
  void wake() override {}
};

struct Pair {
  explicit Pair(Silent& silent) : mailboxes(2), here(mailboxes, 0), there(mailboxes, 1) {
    mailboxes.set_waker(0, silent);
    mailboxes.set_waker(1, silent);
  }
  Mailboxes mailboxes;
  MailboxEnd here, there;
};

void letters(benchmark::State& state) {
  Silent silent;
  Pair pair(silent);
  const auto count = static_cast<std::size_t>(state.range(0));
  std::uint64_t sum = 0;
  for (auto _ : state) {
    for (std::size_t i = 0; i < count; ++i) {
      pair.here.send(1, PieceRequest{.index = static_cast<std::uint32_t>(i)});
    }
    (void)pair.here.flush();
    (void)pair.there.receive(count, [&](Letter&& letter) { sum += std::get<PieceRequest>(letter).index + 1; });
  }
  benchmark::DoNotOptimize(sum);
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(letters)->Arg(1)->Arg(16);

void across_threads(benchmark::State& state) {
  constexpr std::uint64_t per_turn = 16;
  Silent silent;
  Pair pair(silent);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> received{0};
  std::thread receiver([&] {
    std::uint64_t count = 0;
    while (!stop.load(std::memory_order_relaxed)) {
      count += pair.there.receive(64, [](Letter&& letter) { benchmark::DoNotOptimize(letter); });
      received.store(count, std::memory_order_release);
    }
  });
  std::uint64_t sent = 0;
  for (auto _ : state) {
    for (std::uint64_t i = 0; i < per_turn; ++i) pair.here.send(1, PieceRequest{.index = 1});
    sent += per_turn;
    // As a shard does: what found no room is tried again in the next turn.
    while (pair.here.flush()) {
    }
  }
  while (received.load(std::memory_order_acquire) < sent) std::this_thread::yield();
  stop = true;
  receiver.join();
  state.SetItemsProcessed(static_cast<std::int64_t>(sent));
}
BENCHMARK(across_threads)->UseRealTime();

}  // namespace
}  // namespace postern::shard
