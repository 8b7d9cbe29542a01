// The words of SCRAM's messages [RFC 5802 §7], as both sides read and write them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace postern::sasl {

inline constexpr std::size_t nonce_bytes_max = 512;

// The value of the attribute `key` that `text` begins with, up to a comma or the end; both are removed.
inline std::optional<std::string_view> take_attribute(std::string_view& text, char key) {
  if (text.size() < 2 || text[0] != key || text[1] != '=') return std::nullopt;
  const std::size_t end = std::min(text.find(','), text.size());
  const std::string_view value = text.substr(2, end - 2);
  text.remove_prefix(std::min(end + 1, text.size()));
  return value;
}

// [RFC 5802 §7] "printable"
inline bool is_nonce(std::string_view text) {
  return !text.empty() && text.size() <= nonce_bytes_max &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 0x7F && c != ','; });
}

// "=2C" is a comma and "=3D" an equals sign [RFC 5802 §5.1].
inline std::string to_saslname(std::string_view name) {
  std::string text;
  for (const char c : name) {
    if (c == ',') {
      text += "=2C";
    } else if (c == '=') {
      text += "=3D";
    } else {
      text += c;
    }
  }
  return text;
}

}  // namespace postern::sasl
