#include <cstdint>

#include <postern/base/text.h>

namespace postern {
namespace {

constexpr std::string_view hex_digits = "0123456789ABCDEF";

// Length of the well-formed UTF-8 sequence at `text[at]`, 0 when there is none [RFC 3629 §4].
std::size_t utf8_sequence(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) -> unsigned {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0u;  // 0 is never a continuation
  };
  const auto tail = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return tail(1) ? 2 : 0;
  if (first >= 0xE0 && first <= 0xEF) {
    if (!tail(1) || !tail(2)) return 0;
    if (first == 0xE0 && byte(1) < 0xA0) return 0;  // overlong
    if (first == 0xED && byte(1) > 0x9F) return 0;  // surrogates
    return 3;
  }
  if (first >= 0xF0 && first <= 0xF4) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if (first == 0xF0 && byte(1) < 0x90) return 0;  // overlong
    if (first == 0xF4 && byte(1) > 0x8F) return 0;  // beyond U+10FFFF
    return 4;
  }
  return 0;
}

}  // namespace

void make_lower(std::string& text) {
  for (char& c : text) c = to_ascii_lower(c);
}

std::string to_lower(std::string_view text) {
  std::string lower(text);
  make_lower(lower);
  return lower;
}

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

bool is_utf8(std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t size = utf8_sequence(text, i);
    if (size == 0) return false;
    i += size;
  }
  return true;
}

void append_log_escaped(std::string& out, std::string_view text, std::size_t size_max) {
  constexpr std::string_view cut = "...";
  const std::size_t start = out.size();
  std::size_t room_for_cut = start;  // the last length at which whole escapes and "..." still fit
  for (const char c : text) {
    char escape[4];
    std::size_t size = 0;
    const auto byte = static_cast<std::uint8_t>(c);
    if (c == '\\') {
      escape[0] = escape[1] = '\\';
      size = 2;
    } else if (byte >= 0x20 && byte < 0x7F) {
      escape[0] = c;
      size = 1;
    } else {
      escape[0] = '\\';
      escape[1] = 'x';
      escape[2] = hex_digits[byte >> 4];
      escape[3] = hex_digits[byte & 15];
      size = 4;
    }
    if (out.size() - start + size > size_max) {
      out.resize(room_for_cut);
      out.append(cut.substr(0, size_max));
      return;
    }
    out.append(escape, size);
    if (out.size() - start + cut.size() <= size_max) room_for_cut = out.size();
  }
}

std::string log_escaped(std::string_view text, std::size_t size_max) {
  std::string out;
  append_log_escaped(out, text, size_max);
  return out;
}

void append_json_escaped(std::string& out, std::string_view text) {
  for (std::size_t i = 0; i < text.size();) {
    const char c = text[i];
    const auto byte = static_cast<std::uint8_t>(c);
    if (byte >= 0x80) {
      const std::size_t size = utf8_sequence(text, i);
      if (size == 0) {
        out += "\\ufffd";
        ++i;
      } else {
        out.append(text.substr(i, size));
        i += size;
      }
      continue;
    }
    ++i;
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (byte < 0x20 || byte == 0x7F) {
          out += "\\u00";
          out += hex_digits[byte >> 4];
          out += hex_digits[byte & 15];
        } else {
          out += c;
        }
    }
  }
}

}  // namespace postern
