#include <algorithm>
#include <cstdint>

#include <postern/base/text.h>
#include <postern/mail/xtext.h>

namespace postern::mail {
namespace {

constexpr std::string_view upper_hex = "0123456789ABCDEF";

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;  // [RFC 3461 §4]: upper case alone
}

constexpr bool is_xchar(char c) {
  return c > 0x20 && c < 0x7F && c != '+' && c != '=';
}

constexpr bool is_printable(char c) {
  return c >= 0x20 && c < 0x7F;
}

// Takes one character's notation off `text`; false when it is none.
bool take_character(std::string_view& text, char& out) {
  const char c = text.front();
  if (is_xchar(c)) {
    out = c;
    text.remove_prefix(1);
    return true;
  }
  if (c != '+' || text.size() < 3) return false;
  const int high = hex_digit(text[1]);
  const int low = hex_digit(text[2]);
  if (high < 0 || low < 0 || (high == 0 && low == 0)) return false;
  out = static_cast<char>(high * 16 + low);
  text.remove_prefix(3);
  return true;
}

// `printable`: and it stands for printable ASCII and spaces only.
bool is_xtext_for(std::string_view text, bool printable) {
  while (!text.empty()) {
    char c = 0;
    if (!take_character(text, c) || (printable && !is_printable(c))) return false;
  }
  return true;
}

constexpr bool is_atom_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         std::string_view("!#$%&'*+-/=?^_`{|}~").find(c) != std::string_view::npos;
}

// "\x{10FFFF}" without its backslash: 2…6 upper-case digits of a code point that UTF-8 has [RFC 6533 §3].
bool take_code_point(std::string_view& text) {
  if (!text.starts_with("x{")) return false;
  const std::size_t end = text.find('}');
  if (end == std::string_view::npos || end < 4 || end > 8) return false;
  std::uint32_t point = 0;
  for (const char c : text.substr(2, end - 2)) {
    const int digit = hex_digit(c);
    if (digit < 0) return false;
    point = point * 16 + static_cast<std::uint32_t>(digit);
  }
  if (point < 0x10 || point > 0x10FFFF || (point >= 0xD800 && point <= 0xDFFF)) return false;
  text.remove_prefix(end + 1);
  return true;
}

bool is_utf8_address(std::string_view text, bool utf8) {
  if (!is_utf8(text)) return false;
  while (!text.empty()) {
    const char c = text.front();
    text.remove_prefix(1);
    if (static_cast<unsigned char>(c) >= 0x80) {
      if (!utf8) return false;
    } else if (c == '\\') {
      if (!take_code_point(text)) return false;
    } else if (!is_xchar(c)) {
      return false;
    }
  }
  return true;
}

}  // namespace

bool is_xtext(std::string_view text) {
  return is_xtext_for(text, false);
}

std::optional<std::string> decode_xtext(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    char c = 0;
    if (!take_character(text, c)) return std::nullopt;
    out += c;
  }
  return out;
}

void append_xtext(std::string& out, std::string_view text) {
  for (const char c : text) {
    if (c == '\0') continue;
    if (is_xchar(c)) {
      out += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    out += '+';
    out += upper_hex[byte >> 4];
    out += upper_hex[byte & 15u];
  }
}

bool is_envelope_id(std::string_view text) {
  return !text.empty() && text.size() <= envelope_id_bytes_max && is_xtext_for(text, true);
}

bool is_original_recipient(std::string_view text, bool utf8) {
  if (text.size() > original_recipient_bytes_max) return false;
  const std::size_t semicolon = text.find(';');
  if (semicolon == std::string_view::npos || semicolon == 0 || semicolon > address_type_bytes_max) return false;
  const std::string_view type = text.substr(0, semicolon);
  const std::string_view address = text.substr(semicolon + 1);
  if (address.empty() || !std::ranges::all_of(type, is_atom_character)) return false;
  return equal_ignoring_case(type, "utf-8") ? is_utf8_address(address, utf8) : is_xtext_for(address, true);
}

}  // namespace postern::mail
