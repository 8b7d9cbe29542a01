#include <array>

#include <postern/base/text.h>
#include <postern/base/units.h>

namespace postern {
namespace {

struct DurationUnit {
  std::string_view name;
  std::uint64_t milliseconds;
};
constexpr std::array<DurationUnit, 6> duration_units = {{{"w", 7ull * 24 * 3600 * 1000},
                                                         {"d", 24ull * 3600 * 1000},
                                                         {"h", 3600ull * 1000},
                                                         {"m", 60ull * 1000},
                                                         {"s", 1000},
                                                         {"ms", 1}}};
constexpr std::uint64_t milliseconds_max = 36525ull * 24 * 3600 * 1000;  // 100 years; fits Duration

struct SizeUnit {
  std::string_view name;
  unsigned shift;
};
constexpr std::array<SizeUnit, 5> size_units = {{{"TiB", 40}, {"GiB", 30}, {"MiB", 20}, {"KiB", 10}, {"B", 0}}};
constexpr std::uint64_t size_max = 1ull << 62;

Status invalid(std::string_view text, std::string_view what) {
  std::string message = "\"";
  append_log_escaped(message, text, 64);
  message += "\" ";
  message += what;
  return error(StatusCode::kInvalidArgument, message);
}

std::size_t digits_at_start(std::string_view text) {
  std::size_t size = 0;
  while (size < text.size() && is_ascii_digit(text[size])) ++size;
  return size;
}

}  // namespace

StatusOr<Duration> parse_duration(std::string_view text) {
  constexpr std::string_view expected = "is no duration; write a number with ms, s, m, h, d or w, such as 30s";
  if (text == "0") return Duration{0};
  if (text.empty()) return invalid(text, expected);
  std::uint64_t total = 0;
  std::size_t next_unit = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t digits = digits_at_start(rest);
    const auto number = parse_uint<std::uint64_t>(rest.substr(0, digits), milliseconds_max);
    if (!number) return invalid(text, digits == 0 ? expected : "is longer than 100 years");
    rest.remove_prefix(digits);
    std::size_t unit_size = 0;
    while (unit_size < rest.size() && is_ascii_alpha(rest[unit_size])) ++unit_size;
    std::size_t unit = next_unit;
    while (unit < duration_units.size() && duration_units[unit].name != rest.substr(0, unit_size)) ++unit;
    if (unit == duration_units.size()) return invalid(text, expected);
    next_unit = unit + 1;
    rest.remove_prefix(unit_size);
    const std::uint64_t milliseconds = duration_units[unit].milliseconds;
    if (*number > (milliseconds_max - total) / milliseconds) return invalid(text, "is longer than 100 years");
    total += *number * milliseconds;
  }
  return std::chrono::milliseconds(total);
}

std::string format_duration(Duration duration) {
  auto rest = static_cast<std::uint64_t>(
      std::max<std::int64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(duration).count(), 0));
  if (rest == 0) return "0";
  std::string text;
  for (const DurationUnit& unit : duration_units) {
    if (const std::uint64_t number = rest / unit.milliseconds; number > 0) {
      text += std::to_string(number);
      text += unit.name;
      rest %= unit.milliseconds;
    }
  }
  return text;
}

StatusOr<std::uint64_t> parse_size(std::string_view text) {
  const std::size_t digits = digits_at_start(text);
  if (digits == 0) return invalid(text, "is no size; write a number with B, KiB, MiB, GiB or TiB, such as 50MiB");
  const auto number = parse_uint<std::uint64_t>(text.substr(0, digits), size_max);
  if (!number) return invalid(text, "is too large");
  const std::string_view name = text.substr(digits);
  if (name.empty()) return *number;
  for (const SizeUnit& unit : size_units) {
    if (unit.name != name) continue;
    if (*number > size_max >> unit.shift) return invalid(text, "is too large");
    return *number << unit.shift;
  }
  return invalid(text, "has an unknown unit; use B, KiB, MiB, GiB or TiB");
}

std::string format_size(std::uint64_t bytes) {
  for (const SizeUnit& unit : size_units) {
    const std::uint64_t number = bytes >> unit.shift;
    if (number > 0 && number << unit.shift == bytes) return std::to_string(number) + std::string(unit.name);
  }
  return "0B";
}

StatusOr<SizeOrShare> parse_size_or_share(std::string_view text) {
  if (!text.empty() && text.back() == '%') {
    const auto percent = parse_uint<std::uint8_t>(text.substr(0, text.size() - 1), 100);
    if (!percent || *percent == 0) return invalid(text, "is no share; write 1% to 100%");
    return SizeOrShare{.bytes = 0, .percent = *percent};
  }
  const StatusOr<std::uint64_t> bytes = parse_size(text);
  if (!bytes.ok()) return bytes.status();
  return SizeOrShare{.bytes = *bytes, .percent = 0};
}

}  // namespace postern
