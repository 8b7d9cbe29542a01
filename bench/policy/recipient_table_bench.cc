// Question: what does a look-up among a million recipients cost, and how much memory does each take?
// Expectation: two cache misses, about 150 ns; at most 48 bytes for an address of 24 bytes.
// Surroundings to state with a figure: CPU, cache sizes, commit. Run with an optimised build:
//   policy_bench --benchmark_filter=Find
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <benchmark/benchmark.h>

#include <postern/base/random.h>
#include <postern/policy/recipient_table.h>

namespace postern::policy {
namespace {

std::string address(std::size_t number) {
  return "first.last" + std::to_string(number) + "@example.net";
}

std::string file(std::size_t entries) {
  std::string text;
  for (std::size_t i = 0; i < entries; ++i) {
    text += address(i);
    text += i % 100 == 99 ? ": " + address(i - 1) + ", elsewhere@example.com\n" : "\n";
  }
  return text;
}

RecipientTable make(std::string_view text) {
  RecipientTableBuilder builder('+', 5);
  if (!builder.add_lines(text, "file").ok()) std::abort();
  StatusOr<RecipientTable> table = std::move(builder).finish();
  if (!table.ok()) std::abort();
  return *std::move(table);
}

void find(benchmark::State& state, std::string_view prefix) {
  const auto entries = static_cast<std::size_t>(state.range(0));
  const RecipientTable table = make(file(entries));
  std::vector<std::string> asked;
  Random random(3);
  for (int i = 0; i < 1 << 16; ++i) asked.push_back(std::string(prefix) + address(random.below(entries) / 100 * 100));
  std::vector<std::string_view> targets;
  std::size_t at = 0;
  for (auto _ : state) {
    const std::string& text = asked[at++ % asked.size()];
    benchmark::DoNotOptimize(table.find({text, static_cast<std::uint16_t>(text.find('@') + 1)}, targets));
  }
  state.counters["bytes_per_entry"] = static_cast<double>(table.memory_bytes()) / static_cast<double>(table.size());
}

void FindKnown(benchmark::State& state) {
  find(state, "");
}
BENCHMARK(FindKnown)->Arg(1'000)->Arg(1'000'000);

void FindUnknown(benchmark::State& state) {
  find(state, "x");
}
BENCHMARK(FindUnknown)->Arg(1'000)->Arg(1'000'000);

void Load(benchmark::State& state) {
  const std::string text = file(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(make(text).size());
}
BENCHMARK(Load)->Arg(1'000'000)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace postern::policy

BENCHMARK_MAIN();
