// Random shares of durations.
#pragma once

#include <cstdint>

#include <postern/base/random.h>
#include <postern/base/time.h>

namespace postern::queue {

// Nearly uniform in [0, bound).
[[nodiscard]] inline Duration random_below(Duration bound, Random& random) {
  // Of 53 bits every double is exact, so that all machines agree.
  const double share = static_cast<double>(random() >> 11) * 0x1p-53;
  return Duration(static_cast<Duration::rep>(share * static_cast<double>(bound.count())));
}

// `wait` ± `percent`.
[[nodiscard]] inline Duration jittered(Duration wait, unsigned percent, Random& random) {
  const Duration span = wait / 100 * percent;
  return wait - span + random_below(2 * span, random);
}

}  // namespace postern::queue
