#include <algorithm>

#include <postern/queue/jitter.h>
#include <postern/queue/path_backoff.h>

namespace postern::queue {

void PathBackoff::on_failure(Instant now, Random& random) {
  if (held(now)) return;
  // 1 s doubled nine times is beyond the 5 minutes.
  const Duration hold = std::min(hold_first * (1u << std::min(failures_, 9u)), Duration(hold_max));
  ++failures_;
  hold_until_ = now + jittered(hold, 10, random);
}

}  // namespace postern::queue
