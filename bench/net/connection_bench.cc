// What one echo round trip of 40 bytes costs in CPU on a net::Connection, client and server in one thread on one loop:
// two sends and two receives, four completions, and the kernel's loopback between. Expected: about 2 × 5.3 µs, the bare
// ring's cost of each half's round trip (io_uring with DEFER_TASKRUN, one-shot receives with POLL_FIRST), and not more
// than 0.3 µs for what net adds. `connections` are served at once, so that completions come in batches.
#include <cstdlib>
#include <deque>
#include <string>

#include <benchmark/benchmark.h>

#include <postern/base/timer_wheel.h>

#include "io/uring/uring_loop.h"
#include "net/connection.h"
#include "net/dispatcher.h"
#include "net/listener.h"

namespace postern::net {
namespace {

struct Echo final : ConnectionUser {
  Connection* connection = nullptr;
  std::string text;
  std::uint64_t rounds = 0;
  bool connected = false;

  void say(std::string_view what) {
    text.assign(what);
    connection->send(as_bytes(text));
  }
  void on_connected() override { connected = true; }
  std::size_t on_received(MutableBytes bytes) override {
    ++rounds;
    say(as_text(bytes));
    return bytes.size();
  }
  void on_end_of_stream() override {}
  void on_sent() override {}
  void on_lost(const Status&) override {}
  void on_closed() override {}
};

struct Bench final : ListenerUser {
  std::unique_ptr<io::Loop> loop = *io::make_uring_loop();
  Dispatcher dispatcher;
  TimerWheel wheel{loop->clocks().monotonic};
  ConnectionTable table{*loop, dispatcher, wheel};
  Listener listener{*loop, dispatcher, wheel, table.descriptor_waiters(), *this, {}};
  std::deque<Echo> servers, clients;

  void on_connection(Listener&, io::Descriptor descriptor, const io::Address&) override {
    Echo& echo = servers.emplace_back();
    echo.connection = table.adopt(descriptor, echo);
  }
  void turn() {
    (void)loop->run_once(dispatcher, wheel.next_expiry());
    (void)wheel.advance(loop->now());
  }
};

void echo_round_trip(benchmark::State& state) {
  Bench bench;
  if (!bench.listener.open(io::Address::ip(IpAddress::v4({127, 0, 0, 1}), 0)).ok()) std::abort();
  const auto count = static_cast<std::size_t>(state.range(0));
  for (std::size_t i = 0; i < count; ++i) {
    Echo& client = bench.clients.emplace_back();
    client.connection = *bench.table.connect(*bench.listener.local_address(), {}, std::chrono::seconds(5), client);
    while (!client.connected || bench.servers.size() <= i) bench.turn();
  }
  for (Echo& client : bench.clients) client.say(std::string(40, 'x'));
  const auto rounds = [&] {
    std::uint64_t sum = 0;
    for (const Echo& client : bench.clients) sum += client.rounds;
    return sum;
  };
  const std::uint64_t calls_before = bench.loop->system_calls();
  std::uint64_t done = rounds();
  const std::uint64_t first = done;
  for (auto _ : state) {
    const std::uint64_t goal = done + 100;
    while (done < goal) {
      bench.turn();
      done = rounds();
    }
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(done - first));
  state.counters["system_calls_per_round"] =
      static_cast<double>(bench.loop->system_calls() - calls_before) / static_cast<double>(done - first);
  state.counters["bytes_per_idle_connection"] = sizeof(Connection) + 8;
}
BENCHMARK(echo_round_trip)->ArgName("connections")->Arg(1)->Arg(16);

}  // namespace
}  // namespace postern::net

BENCHMARK_MAIN();
