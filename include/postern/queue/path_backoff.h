// How one shard treats an egress path after connections to it failed: it waits, then probes with a single connection.
#pragma once

#include <cstdint>

#include <postern/base/random.h>
#include <postern/base/time.h>

namespace postern::queue {

// A value of 16 bytes per path. "Failed" means that no next hop of the path gave a usable session; a session that gave
// any reply to MAIL is a success, whatever it said of the recipients.
class PathBackoff {
 public:
  static constexpr Duration hold_first = std::chrono::seconds(1);
  static constexpr Duration hold_max = std::chrono::minutes(5);

  // Holds the path for 1 s, doubled with every failure in a row up to 5 min, ±10 %. Failures while it is held (of
  // connections begun before) count as one with the first.
  void on_failure(Instant now, Random& random);
  void on_success() { *this = PathBackoff(); }

  [[nodiscard]] Instant hold_until() const { return hold_until_; }
  [[nodiscard]] bool held(Instant now) const { return now < hold_until_; }
  // Between a failure and the next success one connection at a time is tried.
  [[nodiscard]] bool probing() const { return failures_ != 0; }

 private:
  Instant hold_until_ = Instant::min();
  std::uint32_t failures_ = 0;  // in a row
};
static_assert(sizeof(PathBackoff) == 16);

}  // namespace postern::queue
