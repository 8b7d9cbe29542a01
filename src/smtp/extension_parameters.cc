#include "extension_parameters.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>

#include <postern/base/text.h>

namespace postern::smtp {

mail::DsnReturn parse_dsn_return(std::string_view value) {
  if (equal_ignoring_case(value, "FULL")) return mail::DsnReturn::full;
  return equal_ignoring_case(value, "HDRS") ? mail::DsnReturn::headers : mail::DsnReturn::unspecified;
}

mail::Notify parse_notify(std::string_view value) {
  if (equal_ignoring_case(value, "NEVER")) return {mail::Notify::never};
  std::uint8_t bits = 0;
  for (bool more = true; more;) {
    const std::size_t comma = value.find(',');
    const std::string_view word = value.substr(0, comma);
    more = comma != std::string_view::npos;
    if (more) value.remove_prefix(comma + 1);
    std::uint8_t bit = 0;
    if (equal_ignoring_case(word, "SUCCESS")) bit = mail::Notify::success;
    if (equal_ignoring_case(word, "FAILURE")) bit = mail::Notify::failure;
    if (equal_ignoring_case(word, "DELAY")) bit = mail::Notify::delay;
    if (bit == 0) return {};
    bits |= bit;
  }
  return {bits};
}

std::optional<std::int8_t> parse_priority(std::string_view value) {
  const bool negative = value.starts_with('-');
  if (negative) value.remove_prefix(1);
  if (value.size() != 1 || !is_ascii_digit(value[0]) || (negative && value[0] == '0')) return std::nullopt;
  const int digit = value[0] - '0';
  return static_cast<std::int8_t>(negative ? -digit : digit);
}

std::optional<Duration> parse_hold_for(std::string_view value) {
  if (value.empty() || value.size() > 9 || !std::ranges::all_of(value, is_ascii_digit)) return std::nullopt;
  return std::chrono::seconds(*parse_uint<std::uint32_t>(value));
}

}  // namespace postern::smtp
