#include <array>
#include <cstddef>
#include <string_view>

#include <postern/base/date.h>

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

std::string format_rfc3339(WallTime at) {
  std::string out;
  out.reserve(24);
  append_rfc3339(out, at);
  return out;
}

}  // namespace postern
