// When to try again [RFC 5321 §4.5.4.1].
#pragma once

#include <cstdint>
#include <vector>

#include <postern/base/random.h>
#include <postern/base/time.h>

namespace postern::queue {

// A list of waits: the first after the first failed attempt, and so on; the last one repeats.
class RetrySchedule {
 public:
  static constexpr unsigned jitter_percent = 10;

  // 1 min, 5 min, 15 min, 30 min, then every hour.
  RetrySchedule();
  // `waits` is not empty and all are positive (the configuration has been checked).
  explicit RetrySchedule(std::vector<Duration> waits);

  // The wait after attempt number `attempts` (1: the first one) failed for now, ±10 %: what was deferred together, as
  // by a dead next hop, must not come back together.
  [[nodiscard]] Duration wait_after(std::uint32_t attempts, Random& random) const;
  // No wait_after() is longer.
  [[nodiscard]] Duration longest() const { return longest_; }

 private:
  std::vector<Duration> waits_;
  Duration longest_{};
};

}  // namespace postern::queue
