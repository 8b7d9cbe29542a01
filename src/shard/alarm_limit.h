// Keeps alarms that come once per message from flooding the operator: the first few of a period are told in full, the
// others are counted and told together when it ends, with the reason of the last. A dead disk under ten million waiting
// messages costs a dozen lines a minute.
//
// It says nothing itself; the shard asks, and gives the time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/time.h>

namespace postern::shard {

class AlarmLimit {
 public:
  static constexpr std::uint32_t in_full_max = 10;  // of one period
  static constexpr Duration period = std::chrono::minutes(1);

  // One more alarm. True: tell it in full. False: it is counted, and take_rest() will tell of it.
  [[nodiscard]] bool admit(Instant now, std::string_view reason) {
    if (rest_.count == 0 && now >= period_end_) {
      period_end_ = now + period;
      told_ = 0;
    }
    if (told_ < in_full_max) {
      ++told_;
      return true;
    }
    ++rest_.count;
    rest_.reason = reason;
    return false;
  }

  struct Rest {
    std::uint64_t count = 0;
    std::string reason;  // of the last
  };
  // What was counted, once its period is over; `never` as the time: whatever was counted, for an end.
  [[nodiscard]] std::optional<Rest> take_rest(Instant now) {
    if (rest_.count == 0 || now < period_end_) return std::nullopt;
    return std::exchange(rest_, {});
  }
  [[nodiscard]] Instant next_deadline() const { return rest_.count == 0 ? never : period_end_; }

 private:
  Instant period_end_{};
  std::uint32_t told_ = 0;
  Rest rest_;
};

}  // namespace postern::shard
