// Durations, sizes and shares as operators write them: "30s", "50MiB", "50%".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <postern/base/status.h>
#include <postern/base/time.h>

namespace postern {

// A number and its unit without a space: ms, s, m, h, d, w; several may follow each other, largest first ("1h30m").
// "0" needs no unit. kInvalidArgument says what is wrong; the bound is 100 years.
[[nodiscard]] StatusOr<Duration> parse_duration(std::string_view text);
// The shortest form that parse_duration() takes back: "90s" becomes "1m30s". Below 1 ms is cut off.
[[nodiscard]] std::string format_duration(Duration duration);

// A number and its unit: B, KiB, MiB, GiB, TiB; without a unit it is bytes. KB and the like are refused, as one half of
// the world takes them for 1,000. kInvalidArgument says what is wrong; the bound is 2^62 bytes.
[[nodiscard]] StatusOr<std::uint64_t> parse_size(std::string_view text);
// In the largest unit that needs no fraction: "50MiB", "1000B".
[[nodiscard]] std::string format_size(std::uint64_t bytes);

// A size, or a share of something that is known later.
struct SizeOrShare {
  std::uint64_t bytes = 0;
  std::uint8_t percent = 0;  // 1…100; 0: `bytes` counts

  [[nodiscard]] constexpr std::uint64_t of(std::uint64_t whole) const {
    return percent == 0 ? bytes : whole / 100 * percent + whole % 100 * percent / 100;
  }
};
[[nodiscard]] StatusOr<SizeOrShare> parse_size_or_share(std::string_view text);  // "50%" or as parse_size()

}  // namespace postern
