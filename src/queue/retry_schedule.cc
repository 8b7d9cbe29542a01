#include <algorithm>
#include <utility>

#include <postern/base/check.h>
#include <postern/queue/jitter.h>
#include <postern/queue/retry_schedule.h>

namespace postern::queue {

using std::chrono::hours;
using std::chrono::minutes;

RetrySchedule::RetrySchedule() : RetrySchedule({minutes(1), minutes(5), minutes(15), minutes(30), hours(1)}) {}

RetrySchedule::RetrySchedule(std::vector<Duration> waits) : waits_(std::move(waits)) {
  POSTERN_CHECK(!waits_.empty());
  for (const Duration wait : waits_) {
    POSTERN_CHECK(wait > Duration::zero());
    longest_ = std::max(longest_, wait);
  }
  longest_ += longest_ / 100 * jitter_percent;
}

Duration RetrySchedule::wait_after(std::uint32_t attempts, Random& random) const {
  const std::size_t index = std::min<std::size_t>(attempts == 0 ? 0 : attempts - 1, waits_.size() - 1);
  return jittered(waits_[index], jitter_percent, random);
}

}  // namespace postern::queue
