// postern-sim: runs of the simulator by hand.
//
//   postern-sim --seed N [--trace]     one run: its scenario, its outcome, the trace's hash
//   postern-sim --seeds A..B           searches; stops at the first bad seed, and shows it and a simpler version of it
//   postern-sim --minutes M            the same from a seed of the clock's choosing
//   … --keep-going                     does not stop at the first
//   … --plant NAME                     with a planted bug; in builds with -Dplanted_bugs=true
//   postern-sim --planted N            how many seeds it takes to find each planted bug, at most N
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/planted.h>

#include "tests/sim/isolated.h"
#include "tests/sim/scenario.h"

namespace postern::sim {
namespace {

using Clock = std::chrono::steady_clock;

int usage() {
  std::fprintf(stderr, "postern-sim --seed N [--trace] | --seeds A..B | --minutes M [--keep-going]\n");
  return 2;
}

void print(const Outcome& outcome) {
  const Oracle::Counts& counts = outcome.counts;
  std::printf(
      "accepted %zu, refused %zu, unknown %zu, unsent %zu messages; recipients delivered %zu (more than once "
      "%zu), reported %zu, success told %zu, neither %zu, lost to flipped bits %zu\n%u crashes, %.0f s simulated, %llu "
      "events, "
      "trace %016llx\n",
      counts.accepted, counts.refused, counts.unknown, counts.unsent, counts.delivered, counts.doubled, counts.reported,
      counts.successes, counts.silent, counts.lost_to_flips, outcome.crashes, outcome.simulated_seconds,
      static_cast<unsigned long long>(outcome.lines), static_cast<unsigned long long>(outcome.hash));
}

int one(std::uint64_t seed, bool trace) {
  const Scenario scenario = Scenario::of_seed(seed);
  std::printf("seed %llu: %s\n", static_cast<unsigned long long>(seed), scenario.to_text().c_str());
  std::fflush(stdout);
  Outcome outcome;
  if (trace) {
    outcome = run(scenario, [](std::string_view line) {
      std::fwrite(line.data(), 1, line.size(), stdout);
      std::fputc('\n', stdout);
      std::fflush(stdout);
    });
  } else {
    outcome = run(scenario);
  }
  print(outcome);
  for (const std::string& violation : outcome.violations) std::printf("VIOLATION %s\n", violation.c_str());
  std::fflush(stdout);
  std::_Exit(outcome.violations.empty() ? 0 : 1);  // what crashes left behind is not taken down
}

// True: nothing bad was found.
bool search(std::uint64_t from, std::uint64_t to, Clock::time_point end, bool keep_going) {
  const auto begin = Clock::now();
  auto next_word = begin + std::chrono::seconds(10);
  std::uint64_t bad = 0;
  std::uint64_t seed = from;
  for (; seed <= to && Clock::now() < end; ++seed) {
    const Scenario scenario = Scenario::of_seed(seed);
    const Verdict verdict = run_isolated(scenario);
    if (!verdict.good) {
      ++bad;
      std::printf("seed %llu is bad: %s\n%s", static_cast<unsigned long long>(seed), scenario.to_text().c_str(),
                  verdict.text.c_str());
      if (!keep_going) {
        std::printf("looking for a simpler one …\n");
        std::fflush(stdout);
        const Scenario simple = shrink(scenario, 100);
        std::printf("the simplest: %s\n%s", simple.to_text().c_str(), run_isolated(simple).text.c_str());
        return false;
      }
      std::fflush(stdout);
    }
    if (Clock::now() >= next_word) {
      next_word += std::chrono::seconds(10);
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      std::printf("%llu seeds, %.1f a second, %llu bad\n", static_cast<unsigned long long>(seed - from + 1),
                  static_cast<double>(seed - from + 1) / seconds, static_cast<unsigned long long>(bad));
      std::fflush(stdout);
    }
  }
  std::printf("seeds %llu to %llu: %llu bad\n", static_cast<unsigned long long>(from),
              static_cast<unsigned long long>(seed - 1), static_cast<unsigned long long>(bad));
  return bad == 0;
}

#ifdef POSTERN_PLANTED_BUGS
constexpr std::pair<Planted, const char*> plants[] = {
    {Planted::ack_before_sync, "ack_before_sync"},
    {Planted::settlement_lost_by_recycling, "settlement_lost_by_recycling"},
    {Planted::torn_tail_accepted, "torn_tail_accepted"},
    {Planted::old_batch_validated, "old_batch_validated"},
    {Planted::retry_forgotten, "retry_forgotten"},
    {Planted::evicted_under_lease, "evicted_under_lease"},
    {Planted::buffer_reused_early, "buffer_reused_early"},
    {Planted::mailbox_full, "mailbox_full"},
    {Planted::limit_ignored_by_one_shard, "limit_ignored_by_one_shard"},
    {Planted::lost_doorbell, "lost_doorbell"},
    {Planted::dsn_for_dsn, "dsn_for_dsn"},
    {Planted::dot_at_chunk_border, "dot_at_chunk_border"},
    {Planted::timeout_never_fired, "timeout_never_fired"},
    {Planted::reply_out_of_order, "reply_out_of_order"},
    {Planted::clock_step, "clock_step"},
    {Planted::chunk_leak, "chunk_leak"},
    {Planted::failure_without_dsn, "failure_without_dsn"},
};

bool plant(const char* name) {
  for (const auto& [bug, its_name] : plants) {
    if (std::strcmp(name, its_name) == 0) planted_bug = bug;
  }
  return planted_bug != Planted::none;
}

// One line per bug: the first seed that finds it, and how.
int find_planted(std::uint64_t seeds_max) {
  bool all = true;
  for (const auto& [bug, name] : plants) {
    planted_bug = bug;
    std::uint64_t seed = 1;
    Verdict verdict;
    for (; seed <= seeds_max; ++seed) {
      verdict = run_isolated(Scenario::of_seed(seed));
      if (!verdict.good) break;
    }
    all = all && seed <= seeds_max;
    const std::string first = verdict.text.substr(0, verdict.text.find('\n'));
    std::printf("| `%s` | %s | %s |\n", name, seed <= seeds_max ? std::to_string(seed).c_str() : "not found",
                seed <= seeds_max ? first.c_str() : "");
    std::fflush(stdout);
  }
  return all ? 0 : 1;
}
#else
bool plant(const char*) {
  return false;
}

int find_planted(std::uint64_t) {
  std::fprintf(stderr, "this build has no planted bugs; configure it with -Dplanted_bugs=true\n");
  return 2;
}
#endif

int main(int count, char** words) {
  bool trace = false;
  bool keep_going = false;
  const char* seed = nullptr;
  const char* seeds = nullptr;
  const char* minutes = nullptr;
  const char* bug = nullptr;
  const char* planted = nullptr;
  for (int i = 1; i < count; ++i) {
    const std::string_view word = words[i];
    const auto value = [&](const char*& into) {
      if (i + 1 < count) into = words[++i];
      return into != nullptr;
    };
    if (word == "--trace") {
      trace = true;
    } else if (word == "--keep-going") {
      keep_going = true;
    } else if (!((word == "--seed" && value(seed)) || (word == "--seeds" && value(seeds)) ||
                 (word == "--minutes" && value(minutes)) || (word == "--plant" && value(bug)) ||
                 (word == "--planted" && value(planted)))) {
      return usage();
    }
  }
  if (bug != nullptr && !plant(bug)) {
    std::fprintf(stderr, "no planted bug of that name in this build\n");
    return 2;
  }
  if (planted != nullptr) return find_planted(std::strtoull(planted, nullptr, 10));
  if (seed != nullptr) return one(std::strtoull(seed, nullptr, 10), trace);
  if (seeds != nullptr) {
    const char* const dots = std::strstr(seeds, "..");
    if (dots == nullptr) return usage();
    return search(std::strtoull(seeds, nullptr, 10), std::strtoull(dots + 2, nullptr, 10), Clock::time_point::max(),
                  keep_going)
               ? 0
               : 1;
  }
  if (minutes == nullptr) return usage();
  const auto from = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count());
  return search(from * 1000, UINT64_MAX, Clock::now() + std::chrono::seconds(std::strtol(minutes, nullptr, 10) * 60),
                keep_going)
             ? 0
             : 1;
}

}  // namespace
}  // namespace postern::sim

int main(int count, char** words) {
  return postern::sim::main(count, words);
}
