// Time as a value. Nothing in the pure part reads a clock: the driver passes `now` in.
//
// Instant counts on the monotonic clock and is what deadlines are made of. WallTime counts from the Unix epoch and is
// what is stored and shown. A step of the wall clock must move no deadline, so the two do not convert into each other;
// ClockPair carries one reading of both for the places that store a deadline (retry due times).
#pragma once

#include <chrono>
#include <cstdint>

namespace postern {

using Duration = std::chrono::nanoseconds;

struct MonotonicClock {
  using duration = Duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<MonotonicClock>;
  static constexpr bool is_steady = true;
};

struct WallClock {
  using duration = Duration;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<WallClock>;
  static constexpr bool is_steady = false;
};

using Instant = MonotonicClock::time_point;
using WallTime = WallClock::time_point;

// Later than every real deadline: "none".
inline constexpr Instant never = Instant::max();

// One reading of both clocks, taken together.
struct ClockPair {
  Instant monotonic{};
  WallTime wall{};

  [[nodiscard]] constexpr WallTime to_wall(Instant at) const { return wall + (at - monotonic); }
  [[nodiscard]] constexpr Instant to_monotonic(WallTime at) const { return monotonic + (at - wall); }
};

}  // namespace postern
