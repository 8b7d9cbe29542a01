#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include <postern/base/date.h>
#include <postern/base/text.h>

namespace postern {
namespace {

constexpr std::array<std::string_view, 7> weekdays = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
constexpr std::array<std::string_view, 12> months = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                     "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};

// WallTime's 64 bits of nanoseconds reach from 1677 to 2262, so that a year always has four digits.
struct Fields {
  unsigned year, month, day, weekday, hour, minute, second, millisecond;
};

Fields fields_of(WallTime at) {
  const auto since_epoch = std::chrono::floor<std::chrono::milliseconds>(at.time_since_epoch());
  const std::chrono::sys_days day{std::chrono::floor<std::chrono::days>(since_epoch)};
  const std::chrono::year_month_day date{day};
  const auto rest = since_epoch - day.time_since_epoch();
  const auto milliseconds = static_cast<unsigned>(rest.count());
  return {.year = static_cast<unsigned>(static_cast<int>(date.year())),
          .month = static_cast<unsigned>(date.month()),
          .day = static_cast<unsigned>(date.day()),
          .weekday = std::chrono::weekday(day).c_encoding(),
          .hour = milliseconds / 3'600'000,
          .minute = milliseconds / 60'000 % 60,
          .second = milliseconds / 1000 % 60,
          .millisecond = milliseconds % 1000};
}

void put(std::string& out, unsigned value, unsigned digits) {
  for (unsigned power = digits == 4 ? 1000 : digits == 3 ? 100 : 10; power > 0; power /= 10) {
    out += static_cast<char>('0' + value / power % 10);
  }
}

void put_time(std::string& out, const Fields& fields) {
  put(out, fields.hour, 2);
  out += ':';
  put(out, fields.minute, 2);
  out += ':';
  put(out, fields.second, 2);
}

}  // namespace

void append_rfc5322_date(std::string& out, WallTime at) {
  const Fields fields = fields_of(at);
  out += weekdays[fields.weekday];
  out += ", ";
  put(out, fields.day, 2);
  out += ' ';
  out += months[fields.month - 1];
  out += ' ';
  put(out, fields.year, 4);
  out += ' ';
  put_time(out, fields);
  out += " +0000";
}

std::string format_rfc5322_date(WallTime at) {
  std::string out;
  out.reserve(31);
  append_rfc5322_date(out, at);
  return out;
}

void append_rfc3339(std::string& out, WallTime at) {
  const Fields fields = fields_of(at);
  put(out, fields.year, 4);
  out += '-';
  put(out, fields.month, 2);
  out += '-';
  put(out, fields.day, 2);
  out += 'T';
  put_time(out, fields);
  out += '.';
  put(out, fields.millisecond, 3);
  out += 'Z';
}

void append_rfc3339_seconds(std::string& out, WallTime at) {
  const std::size_t start = out.size();
  append_rfc3339(out, at);
  out.erase(start + 19, 4);  // ".042"
}

std::optional<WallTime> parse_rfc3339(std::string_view text) {
  // "2026-11-22T06:07:13", and behind it [.digits] and Z or ±hh:mm.
  constexpr std::string_view pattern = "0000-00-00T00:00:00";
  if (text.size() <= pattern.size()) return std::nullopt;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = text[i];
    if (pattern[i] == '0' ? !is_ascii_digit(c) : to_ascii_upper(c) != pattern[i]) return std::nullopt;
  }
  const auto number = [text](std::size_t at, std::size_t digits) {
    return *parse_uint<std::uint32_t>(text.substr(at, digits));
  };
  const std::chrono::year_month_day date{std::chrono::year(static_cast<int>(number(0, 4))),
                                         std::chrono::month(number(5, 2)), std::chrono::day(number(8, 2))};
  const std::uint32_t hour = number(11, 2);
  const std::uint32_t minute = number(14, 2);
  const std::uint32_t second = number(17, 2);
  if (!date.ok() || date.year() < std::chrono::year(1970) || date.year() > std::chrono::year(2200)) return std::nullopt;
  if (hour > 23 || minute > 59 || second > 60) return std::nullopt;
  Duration at = std::chrono::sys_days(date).time_since_epoch() + std::chrono::hours(hour) +
                std::chrono::minutes(minute) + std::chrono::seconds(second);

  text.remove_prefix(pattern.size());
  if (text.starts_with('.')) {
    std::size_t digits = 1;
    Duration unit = std::chrono::seconds(1);
    for (; digits < text.size() && is_ascii_digit(text[digits]); ++digits) {
      unit /= 10;
      at += unit * (text[digits] - '0');
    }
    if (digits == 1) return std::nullopt;
    text.remove_prefix(digits);
  }
  if (text == "Z" || text == "z") return WallTime(at);
  if (text.size() != 6 || (text[0] != '+' && text[0] != '-') || text[3] != ':') return std::nullopt;
  const std::optional<std::uint32_t> hours = parse_uint<std::uint32_t>(text.substr(1, 2));
  const std::optional<std::uint32_t> minutes = parse_uint<std::uint32_t>(text.substr(4, 2));
  if (!hours || !minutes || *hours > 23 || *minutes > 59) return std::nullopt;
  const Duration offset = std::chrono::hours(*hours) + std::chrono::minutes(*minutes);
  return WallTime(text[0] == '+' ? at - offset : at + offset);
}

std::string format_rfc3339(WallTime at) {
  std::string out;
  out.reserve(24);
  append_rfc3339(out, at);
  return out;
}

}  // namespace postern
