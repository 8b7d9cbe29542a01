// Small helpers on text: ASCII case, strict numbers, and escaping of what peers wrote before it is shown.
// Nothing here knows a locale.
#pragma once

#include <cstddef>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

namespace postern {

[[nodiscard]] constexpr bool is_ascii_digit(char c) {
  return c >= '0' && c <= '9';
}
[[nodiscard]] constexpr bool is_ascii_alpha(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
[[nodiscard]] constexpr char to_ascii_lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}
[[nodiscard]] constexpr char to_ascii_upper(char c) {
  return c >= 'a' && c <= 'z' ? static_cast<char>(c - ('a' - 'A')) : c;
}

// Equal but for the case of ASCII letters.
[[nodiscard]] constexpr bool equal_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (to_ascii_lower(a[i]) != to_ascii_lower(b[i])) return false;
  }
  return true;
}

[[nodiscard]] constexpr bool starts_with_ignoring_case(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && equal_ignoring_case(text.substr(0, prefix.size()), prefix);
}

[[nodiscard]] constexpr bool ends_with_ignoring_case(std::string_view text, std::string_view suffix) {
  return text.size() >= suffix.size() && equal_ignoring_case(text.substr(text.size() - suffix.size()), suffix);
}

// ASCII letters to lower case; all other bytes stay.
void make_lower(std::string& text);
[[nodiscard]] std::string to_lower(std::string_view text);

// Without leading and trailing spaces and tabs.
[[nodiscard]] std::string_view trim(std::string_view text);

// One or more decimal digits and nothing else (leading zeros are fine), within 0…max; nullopt otherwise.
template <class Unsigned>
[[nodiscard]] constexpr std::optional<Unsigned> parse_uint(std::string_view text,
                                                           Unsigned max = std::numeric_limits<Unsigned>::max()) {
  static_assert(std::is_unsigned_v<Unsigned>);
  if (text.empty()) return std::nullopt;
  Unsigned value = 0;
  for (const char c : text) {
    if (!is_ascii_digit(c)) return std::nullopt;
    const Unsigned digit = static_cast<Unsigned>(c - '0');
    if (value > max / 10 || static_cast<Unsigned>(value * 10) > max - digit || digit > max) return std::nullopt;
    value = static_cast<Unsigned>(value * 10 + digit);
  }
  return value;
}

// Well-formed UTF-8 [RFC 3629]: no overlong form, no surrogate, nothing beyond U+10FFFF.
[[nodiscard]] bool is_utf8(std::string_view text);

// Printable ASCII as it stands but '\' as "\\"; every other byte as "\xNN". Appends at most `size_max` bytes to `out`
// and never half an escape; when that cut something off, the last three of them are "...".
void append_log_escaped(std::string& out, std::string_view text, std::size_t size_max);
[[nodiscard]] std::string log_escaped(std::string_view text, std::size_t size_max = 512);

// The inside of a JSON string [RFC 8259 §7], without the quotes: UTF-8 stays, each byte that belongs to no well-formed
// sequence becomes U+FFFD, so that the output is always valid JSON in valid UTF-8.
void append_json_escaped(std::string& out, std::string_view text);

}  // namespace postern
