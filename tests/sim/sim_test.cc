// The whole relay in the simulator: some hundred seeds, each one run with its own weather, and the promise that a seed
// is a run. What is checked in each run says tests/sim/oracle.h; tests/sim/README.md has more.
#include <cstdint>
#include <string>

#include <gtest/gtest.h>

#include "tests/sim/isolated.h"

namespace postern::sim {
namespace {

constexpr std::uint64_t seeds_per_part = 25;

// A sanitized run takes several times as long; the plain build looks at all parts.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::uint64_t parts = 2;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr std::uint64_t parts = 2;
#else
constexpr std::uint64_t parts = 8;
#endif
#else
constexpr std::uint64_t parts = 8;
#endif

class Seeds : public testing::TestWithParam<std::uint64_t> {};

TEST_P(Seeds, KeepWhatWasAccepted) {
  const std::uint64_t first = GetParam() * seeds_per_part + 1;
  std::size_t accepted = 0;
  std::size_t delivered = 0;
  for (std::uint64_t seed = first; seed < first + seeds_per_part; ++seed) {
    const Scenario scenario = Scenario::of_seed(seed);
    const Verdict verdict = run_isolated(scenario);
    EXPECT_TRUE(verdict.good) << "postern-sim --seed " << seed << "\n" << scenario.to_text() << "\n" << verdict.text;
    accepted += verdict.outcome.counts.accepted;
    delivered += verdict.outcome.counts.delivered;
  }
  // A run in which nothing happens proves nothing.
  EXPECT_GT(accepted, seeds_per_part * 5);
  EXPECT_GT(delivered, seeds_per_part * 5);
}

INSTANTIATE_TEST_SUITE_P(all, Seeds, testing::Range<std::uint64_t>(0, parts));

TEST(Seed, IsOneRunInAnyProcess) {
  for (const std::uint64_t seed : {3, 7, 11, 19, 42}) {
    const Verdict first = run_isolated(Scenario::of_seed(seed));
    const Verdict second = run_isolated(Scenario::of_seed(seed));
    EXPECT_EQ(first.hash, second.hash) << "seed " << seed;
    EXPECT_NE(first.hash, 0u);
  }
  EXPECT_NE(run_isolated(Scenario::of_seed(3)).hash, run_isolated(Scenario::of_seed(4)).hash);
}

}  // namespace
}  // namespace postern::sim
