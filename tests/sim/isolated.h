// A run in a process of its own, so that a bug which stops the process, or loops for ever, is an outcome like others.
#pragma once

#include <chrono>
#include <string>

#include "tests/sim/scenario.h"

namespace postern::sim {

struct Verdict {
  bool good = false;
  std::string text;        // the violations, a line each; or how the process died
  std::uint64_t hash = 0;  // of the trace; 0 when the process died
  Outcome outcome;         // counts, when it did not
};

// Real time that one run may take. A run takes about a tenth of a second.
inline constexpr auto run_patience = std::chrono::seconds(60);

[[nodiscard]] Verdict run_isolated(const Scenario& scenario);

// The simplest scenario that still fails, by leaving out one thing after the other; at most `runs_max` runs.
[[nodiscard]] Scenario shrink(Scenario failing, unsigned runs_max);

}  // namespace postern::sim
