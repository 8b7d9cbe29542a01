// What the loop costs. Questions, and what is expected on one core of a 2-vCPU virtual machine, Linux 6.18, ext4 on
// virtio:
//
//   echo            CPU of the serving thread per 40-byte echo over loopback?     5–6 µs with one connection, less with
//                   more; one io_uring_enter per turn; no allocation.
//   durable_write   p50 and CPU of a 4 KiB durable write onto zero-written blocks? 100–110 µs, 20 µs with O_DIRECT;
//                   two to three times that where it is refused.
//   idle_turn       a turn with nothing to do?                                     below 100 ns, no system call.
//   wake_awake      wake() on a loop that is awake?                                below 20 ns, no system call.
//   wake_asleep     there and back between two sleeping threads?                   45–50 µs, dominated by the
//   scheduler.
//
//   build/release/io_bench --benchmark_min_time=0.5
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fcntl.h>
#include <filesystem>
#include <future>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <sys/resource.h>

#include <postern/base/check.h>

#include "io/uring/uring_loop.h"

namespace {
std::atomic<std::uint64_t> allocations{0};
}

// Not inlined: GCC 12 would take malloc() and delete for a mismatch.
[[gnu::noinline]] void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* const memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace postern::io {
namespace {

using namespace std::chrono_literals;

std::unique_ptr<Loop> make_loop(const UringOptions& options = {}) {
  auto made = make_uring_loop(options);
  if (!made.ok()) {
    std::fprintf(stderr, "%s\n", std::string(message_of(made.status())).c_str());
    std::exit(1);
  }
  return *std::move(made);
}

double cpu_us(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

constexpr std::uint8_t kind_accept = 1;
constexpr std::uint8_t kind_connect = 2;
constexpr std::uint8_t kind_receive = 3;
constexpr std::uint8_t kind_send = 4;

// One end of an echo connection: receives 40 bytes and sends them on.
class EchoEnd {
 public:
  explicit EchoEnd(Loop& loop) : loop_(loop) {}

  void add(Descriptor descriptor) {
    lines_.push_back({.descriptor = descriptor, .buffer = {}, .slice = {}});
    receive(static_cast<std::uint32_t>(lines_.size() - 1), true);
  }
  [[nodiscard]] std::size_t size() const { return lines_.size(); }
  // True: a whole echo passed.
  bool on(const Completion& completion, bool answer) {
    Line& line = lines_[completion.token.slot];
    if (completion.token.kind == kind_send) {
      if (line.buffer.held()) loop_.release(std::exchange(line.buffer, {}));
      return false;
    }
    if (completion.result <= 0) return false;
    if (answer) {
      line.buffer = completion.buffer;
      line.slice = {.data = completion.bytes.data(), .size = completion.bytes.size()};
      loop_.send(line.descriptor, {&line.slice, 1}, {.slot = completion.token.slot, .kind = kind_send});
    } else {
      loop_.release(completion.buffer);
    }
    receive(completion.token.slot, !completion.more_in_socket);
    return true;
  }
  void send(std::size_t index, Bytes text) {
    Line& line = lines_[index];
    line.slice = {.data = text.data(), .size = text.size()};
    loop_.send(line.descriptor, {&line.slice, 1}, {.slot = static_cast<std::uint32_t>(index), .kind = kind_send});
  }
  void shutdown() {
    for (const Line& line : lines_) loop_.shutdown(line.descriptor);
  }
  void close() {
    for (const Line& line : lines_) loop_.close(line.descriptor);
  }

 private:
  struct Line {
    Descriptor descriptor;
    BufferId buffer;
    Slice slice;
  };
  void receive(std::uint32_t index, bool poll_first) {
    loop_.recv(lines_[index].descriptor, poll_first, {.slot = index, .kind = kind_receive});
  }
  Loop& loop_;
  std::vector<Line> lines_;
};

struct Server final : Sink {
  explicit Server(Loop& loop) : end(loop) {}
  void on_completion(const Completion& completion) override {
    if (completion.token.kind == kind_accept) {
      if (completion.result >= 0) end.add(completion.result);
    } else if (end.on(completion, true)) {
      ++echoes;
    } else if (completion.token.kind == kind_receive) {
      ++ended;
    }
  }
  EchoEnd end;
  std::uint64_t echoes = 0;
  std::size_t ended = 0;
};

struct Client final : Sink {
  explicit Client(Loop& loop) : end(loop) {}
  void on_completion(const Completion& completion) override {
    if (completion.token.kind == kind_connect) {
      ++connects;
    } else if (end.on(completion, false)) {
      ++replies;
    }
  }
  EchoEnd end;
  std::size_t connects = 0;
  std::size_t replies = 0;
};

void echo(benchmark::State& state) {
  const auto connections = static_cast<std::size_t>(state.range(0));
  std::promise<Address> listening;
  double server_cpu = 0;
  std::uint64_t server_echoes = 0;
  std::uint64_t server_calls = 0;
  std::thread serving([&] {
    const std::unique_ptr<Loop> loop = make_loop();
    Server server(*loop);
    const Descriptor listener = *loop->listen(*Address::parse("127.0.0.1:0"), {});
    loop->accept(listener, {.kind = kind_accept});
    listening.set_value(*loop->local_address(listener));
    while (server.end.size() < connections) (void)loop->run_once(server, never);
    const double before = cpu_us(CLOCK_THREAD_CPUTIME_ID);
    const std::uint64_t calls_before = loop->system_calls();
    while (server.ended < connections) (void)loop->run_once(server, never);
    server_cpu = cpu_us(CLOCK_THREAD_CPUTIME_ID) - before;
    server_calls = loop->system_calls() - calls_before;
    server_echoes = server.echoes;
    server.end.close();
    loop->close(listener);
  });

  const std::unique_ptr<Loop> loop = make_loop();
  Client client(*loop);
  const Address address = listening.get_future().get();
  for (std::size_t i = 0; i < connections; ++i) {
    const Descriptor descriptor = *loop->open_stream(address, Address());
    loop->connect(descriptor, address, {.kind = kind_connect});
    while (client.connects <= i) (void)loop->run_once(client, never);
    client.end.add(descriptor);
  }
  const std::string text(40, 'x');
  const auto round = [&] {
    client.replies = 0;
    for (std::size_t i = 0; i < connections; ++i) client.end.send(i, as_bytes(text));
    while (client.replies < connections) (void)loop->run_once(client, never);
  };
  for (int i = 0; i < 100; ++i) round();
  const std::uint64_t allocations_before = allocations.load();
  for (auto _ : state) round();
  const std::uint64_t allocated = allocations.load() - allocations_before;
  client.end.shutdown();
  serving.join();
  client.end.close();
  const auto echoes = static_cast<double>(server_echoes);
  state.counters["server_cpu_us"] = server_cpu / echoes;
  state.counters["server_calls"] = static_cast<double>(server_calls) / echoes;
  state.counters["allocations"] =
      static_cast<double>(allocated) / (static_cast<double>(state.iterations()) * static_cast<double>(connections));
  state.SetItemsProcessed(state.iterations() * state.range(0));
}
BENCHMARK(echo)->Arg(1)->Arg(10)->Arg(50)->UseRealTime()->Unit(benchmark::kMicrosecond);

struct Last final : Sink {
  void on_completion(const Completion& completion) override {
    result = completion.result;
    ++count;
  }
  std::int32_t result = 0;
  std::size_t count = 0;
};

void durable_write(benchmark::State& state) {
  constexpr std::size_t file_bytes = 16u << 20;
  constexpr std::size_t write_bytes = 4096;
  const std::string path = "io_bench.log";
  const std::unique_ptr<Loop> loop = make_loop({.refuse_direct = state.range(0) == 0});
  {
    const std::vector<char> zeroes(file_bytes);
    const int file = ::open(path.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600);
    POSTERN_CHECK(file >= 0 && ::write(file, zeroes.data(), zeroes.size()) == ssize_t{file_bytes} && fsync(file) == 0);
    ::close(file);
  }
  const auto log = loop->open_log(path.c_str(), true);
  POSTERN_CHECK(log.ok());
  auto* const data = static_cast<std::byte*>(std::aligned_alloc(Loop::log_alignment, write_bytes));
  std::fill_n(data, write_bytes, std::byte{1});
  Last sink;
  std::uint64_t offset = 0;
  std::vector<double> times;
  const auto cpu_before = cpu_us(CLOCK_PROCESS_CPUTIME_ID);
  for (auto _ : state) {
    const double before = cpu_us(CLOCK_MONOTONIC);
    const std::size_t count = sink.count;
    loop->durable_write(*log, {data, write_bytes}, offset, {});
    while (sink.count == count) (void)loop->run_once(sink, never);
    times.push_back(cpu_us(CLOCK_MONOTONIC) - before);
    POSTERN_CHECK(sink.result == std::int32_t{write_bytes});
    offset = (offset + write_bytes) % file_bytes;
  }
  std::sort(times.begin(), times.end());
  state.counters["p50_us"] = times[times.size() / 2];
  state.counters["p99_us"] = times[times.size() * 99 / 100];
  state.counters["cpu_us"] = (cpu_us(CLOCK_PROCESS_CPUTIME_ID) - cpu_before) / static_cast<double>(times.size());
  state.SetLabel(log->direct ? "O_DIRECT|O_DSYNC" : "buffered, then fdatasync");
  loop->close(log->descriptor);
  std::free(data);
  std::filesystem::remove(path);
}
BENCHMARK(durable_write)->Arg(1)->Arg(0)->UseRealTime()->Unit(benchmark::kMicrosecond);

void idle_turn(benchmark::State& state) {
  const std::unique_ptr<Loop> loop = make_loop();
  Last sink;
  (void)loop->run_once(sink, Instant::min());
  const std::uint64_t before = loop->system_calls();
  for (auto _ : state) benchmark::DoNotOptimize(loop->run_once(sink, Instant::min()));
  state.counters["calls"] = static_cast<double>(loop->system_calls() - before);
}
BENCHMARK(idle_turn);

void wake_awake(benchmark::State& state) {
  const std::unique_ptr<Loop> loop = make_loop();
  Waker& waker = loop->waker();
  for (auto _ : state) waker.wake();
}
BENCHMARK(wake_awake);

void wake_asleep(benchmark::State& state) {
  const std::unique_ptr<Loop> loop = make_loop();
  std::atomic<std::uint64_t> ball{0};
  std::atomic<bool> over{false};
  std::promise<Waker*> their_waker;
  std::promise<void> may_end;
  std::thread other([&] {
    const std::unique_ptr<Loop> theirs = make_loop();
    Last sink;
    their_waker.set_value(&theirs->waker());
    while (!over) {
      (void)theirs->run_once(sink, never);
      if (ball.load() % 2 == 0) continue;
      ball.fetch_add(1);
      loop->waker().wake();
    }
    may_end.get_future().wait();
  });
  Waker* const theirs = their_waker.get_future().get();
  Last sink;
  for (auto _ : state) {
    const std::uint64_t sent = ball.fetch_add(1) + 1;
    theirs->wake();
    while (ball.load() == sent) (void)loop->run_once(sink, never);
  }
  over = true;
  theirs->wake();
  may_end.set_value();
  other.join();
}
BENCHMARK(wake_asleep)->UseRealTime()->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace postern::io

BENCHMARK_MAIN();
