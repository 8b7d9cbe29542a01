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

std::optional<mail::DeliverBy> parse_deliver_by(std::string_view value) {
  const std::size_t semicolon = std::min(value.find(';'), value.size());
  std::string_view digits = value.substr(0, semicolon);
  std::string_view mode = value.substr(std::min(semicolon + 1, value.size()));
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.remove_prefix(1);
  if (digits.empty() || digits.size() > 9 || !std::ranges::all_of(digits, is_ascii_digit)) return std::nullopt;
  mail::DeliverBy by;
  by.seconds = static_cast<std::int32_t>(*parse_uint<std::uint32_t>(digits)) * (negative ? -1 : 1);
  by.returns = starts_with_ignoring_case(mode, "R");
  if (!by.returns && !starts_with_ignoring_case(mode, "N")) return std::nullopt;
  mode.remove_prefix(1);
  by.trace = equal_ignoring_case(mode, "T");
  if ((!by.trace && !mode.empty()) || (by.returns && by.seconds <= 0)) return std::nullopt;
  return by;
}

}  // namespace postern::smtp
