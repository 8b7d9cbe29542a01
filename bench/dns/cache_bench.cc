// Question: what does a cache hit cost, and does it scale with threads?
// Expectation: at most 100 ns, and the same per thread with two threads as with one, for a hit writes nothing shared.
// Surroundings to state with a figure: CPU, number of cores, commit. Run with an optimised build:
//   dns_bench --benchmark_filter=Hit
#include <memory>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <postern/dns/cache.h>
#include <postern/dns/message.h>

namespace postern::dns {
namespace {

const Instant now{std::chrono::seconds(1000)};

struct Filled {
  explicit Filled(std::size_t names) : cache({.shards = 64, .bytes_max = std::size_t{256} << 20, .seed = 5}) {
    Cache::Reader writer(cache, 63);
    writer.online();
    for (std::size_t i = 0; i < names; ++i) {
      questions.push_back({*Name::parse("mx" + std::to_string(i) + ".mail.example.net"), RecordType::mx});
      Answer answer;
      answer.kind = Answer::Kind::records;
      answer.ttl = std::chrono::hours(1);
      answer.mx.push_back({10, *Name::parse("mx.example.net")});
      if (writer.begin(questions.back(), now).ask != Cache::Reader::Ask::flight) std::abort();
      (void)writer.publish(questions.back(), std::move(answer), now);
    }
  }
  Cache cache;
  std::vector<Question> questions;
};

void Hit(benchmark::State& state) {
  static const auto few = std::make_unique<Filled>(100);
  static const auto many = std::make_unique<Filled>(100'000);
  Filled& filled = state.range(0) == 100 ? *few : *many;
  Cache::Reader reader(filled.cache, static_cast<std::uint16_t>(state.thread_index()));
  reader.online();
  Random random(static_cast<std::uint64_t>(state.thread_index()) + 1);
  std::uint64_t found = 0;
  for (auto _ : state) {
    const Question& question = filled.questions[random.below(filled.questions.size())];
    found += reader.find(question, now).answer->mx.size();
    reader.quiescent();
  }
  benchmark::DoNotOptimize(found);
}
BENCHMARK(Hit)->Arg(100)->Arg(100'000)->ThreadRange(1, 2)->UseRealTime();

void Miss(benchmark::State& state) {
  Filled filled(1000);
  Cache::Reader reader(filled.cache, 0);
  reader.online();
  const Question question{*Name::parse("not.there.example"), RecordType::mx};
  for (auto _ : state) benchmark::DoNotOptimize(reader.find(question, now).answer);
}
BENCHMARK(Miss);

// A miss with all that follows but the network: query, response, publishing.
void Publish(benchmark::State& state) {
  Filled filled(1000);
  Cache::Reader reader(filled.cache, 0);
  reader.online();
  std::size_t i = 0;
  for (auto _ : state) {
    const Question& question = filled.questions[i++ % filled.questions.size()];
    Answer answer;
    answer.kind = Answer::Kind::records;
    answer.mx.push_back({10, *Name::parse("mx.example.net")});
    if (!reader.begin_refresh(question)) std::abort();
    benchmark::DoNotOptimize(reader.publish(question, std::move(answer), now).answer);
    reader.quiescent();
  }
}
BENCHMARK(Publish);

}  // namespace
}  // namespace postern::dns

BENCHMARK_MAIN();
