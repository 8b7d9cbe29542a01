// Paths by the grammar of RFC 5321 §4.1.2, read once from left to right; see the header for the leniencies.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include <postern/base/ip.h>
#include <postern/base/text.h>
#include <postern/smtp/path.h>

namespace postern::smtp {
namespace {

constexpr bool is_eight_bit(char c) {
  return static_cast<unsigned char>(c) >= 0x80;
}

constexpr bool is_letter_or_digit(char c) {
  return is_ascii_alpha(c) || is_ascii_digit(c);
}

// atext of RFC 5322 §3.2.3; RFC 6531 §3.3 adds UTF-8, whose form is checked once for the whole path.
constexpr bool is_atext(char c) {
  return is_letter_or_digit(c) || is_eight_bit(c) ||
         std::string_view("!#$%&'*+-/=?^_`{|}~").find(c) != std::string_view::npos;
}

// Well-formed by the table of RFC 3629 §4: no overlong forms, no surrogates, nothing above U+10FFFF.
bool is_utf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<std::uint8_t>(text[i++]);
    if (lead < 0x80) continue;
    std::size_t more = 0;
    std::uint8_t low = 0x80;
    std::uint8_t high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
      more = 1;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      more = 2;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      more = 3;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    } else {
      return false;
    }
    for (; more > 0; --more) {
      if (i == text.size()) return false;
      const auto next = static_cast<std::uint8_t>(text[i++]);
      if (next < low || next > high) return false;
      low = 0x80;
      high = 0xBF;
    }
  }
  return true;
}

// Each of these returns how many leading bytes of `text` form the named thing; 0: none do.

std::size_t dot_string_size(std::string_view text) {
  std::size_t size = 0;
  while (true) {
    const std::size_t atom = size;
    while (size < text.size() && is_atext(text[size])) ++size;
    if (size == atom) return 0;
    if (size == text.size() || text[size] != '.') return size;
    ++size;
  }
}

std::size_t quoted_string_size(std::string_view text) {
  if (text.empty() || text.front() != '"') return 0;
  for (std::size_t i = 1; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') return i + 1;
    // qtextSMTP and, behind a backslash, quoted-pairSMTP: 32…126 and, with RFC 6531, UTF-8 outside of pairs.
    if (c == '\\') {
      ++i;
      if (i == text.size() || text[i] < 0x20 || text[i] > 0x7E) return 0;
    } else if (!is_eight_bit(c) && (c < 0x20 || c > 0x7E)) {
      return 0;
    }
  }
  return 0;
}

std::size_t domain_size(std::string_view text, bool allow_utf8) {
  std::size_t size = 0;
  while (true) {
    const std::size_t label = size;
    while (size < text.size() && (is_letter_or_digit(text[size]) || text[size] == '-' || text[size] == '_' ||
                                  (allow_utf8 && is_eight_bit(text[size])))) {
      ++size;
    }
    if (size == label || size - label > domain_label_bytes_max) return 0;
    if (text[label] == '-' || text[size - 1] == '-') return 0;
    if (size == text.size() || text[size] != '.') return size <= domain_bytes_max ? size : 0;
    ++size;
  }
}

std::size_t address_literal_size(std::string_view text) {
  if (text.empty() || text.front() != '[') return 0;
  const std::size_t end = text.find(']');
  if (end == std::string_view::npos) return 0;
  std::string_view inside = text.substr(1, end - 1);
  constexpr std::string_view v6_tag = "IPv6:";
  const bool v6 = starts_with_ignoring_case(inside, v6_tag);
  if (v6) inside.remove_prefix(v6_tag.size());
  // An IPv6 text has a colon, also one that maps an IPv4 address; a dotted quad has none.
  if (v6 != (inside.find(':') != std::string_view::npos)) return 0;
  return IpAddress::parse(inside) ? end + 1 : 0;
}

// The mailbox at the start of `text`, as Path without `consumed`'s brackets.
std::optional<Path> leading_mailbox(std::string_view text) {
  std::size_t local = quoted_string_size(text);
  if (local == 0) local = dot_string_size(text);
  if (local == 0 || local == text.size() || text[local] != '@') return std::nullopt;
  const std::string_view rest = text.substr(local + 1);
  std::size_t domain = address_literal_size(rest);
  if (domain == 0) domain = domain_size(rest, true);
  if (domain == 0) return std::nullopt;
  const std::size_t size = local + 1 + domain;
  if (size > mailbox_bytes_max) return std::nullopt;
  Path path;
  path.mailbox = {text.substr(0, size), static_cast<std::uint16_t>(local + 1)};
  path.consumed = size;
  for (const char c : path.mailbox.text) path.has_eight_bit |= is_eight_bit(c);
  if (path.has_eight_bit && !is_utf8(path.mailbox.text)) return std::nullopt;
  return path;
}

// "@one.example,@two.example:" [RFC 5321 §4.1.1.3]: to be accepted, checked and ignored.
std::size_t source_route_size(std::string_view text) {
  std::size_t size = 0;
  while (size < text.size() && text[size] == '@') {
    const std::string_view rest = text.substr(size + 1);
    std::size_t domain = address_literal_size(rest);
    if (domain == 0) domain = domain_size(rest, true);
    size += 1 + domain;
    if (domain == 0 || size == text.size()) return 0;
    if (text[size] == ':') return is_utf8(text.substr(0, size)) ? size + 1 : 0;
    if (text[size] != ',') return 0;
    ++size;
  }
  return 0;
}

}  // namespace

std::optional<Path> parse_path(std::string_view text) {
  if (text.empty() || text.front() != '<') return std::nullopt;
  if (text.starts_with("<>")) {
    Path path;
    path.mailbox = {text.substr(1, 0), 0};
    path.consumed = 2;
    return path;
  }
  std::size_t start = 1;
  if (text.size() > 1 && text[1] == '@') {
    const std::size_t route = source_route_size(text.substr(1));
    if (route == 0) return std::nullopt;
    start += route;
  }
  constexpr std::string_view postmaster = "postmaster";
  const std::string_view rest = text.substr(start);
  std::optional<Path> path;
  if (starts_with_ignoring_case(rest, postmaster) && rest.size() > postmaster.size() &&
      rest[postmaster.size()] == '>') {
    path.emplace();
    path->mailbox = {rest.substr(0, postmaster.size()), static_cast<std::uint16_t>(postmaster.size())};
    path->consumed = postmaster.size();
  } else {
    path = leading_mailbox(rest);
  }
  if (!path) return std::nullopt;
  path->consumed += start;
  if (path->consumed == text.size() || text[path->consumed] != '>') return std::nullopt;
  ++path->consumed;
  return path;
}

std::optional<Path> parse_mailbox(std::string_view text) {
  std::optional<Path> path = leading_mailbox(text);
  if (path && path->consumed != text.size()) return std::nullopt;
  return path;
}

bool is_domain(std::string_view text, bool allow_utf8) {
  return !text.empty() && domain_size(text, allow_utf8) == text.size() && is_utf8(text);
}

bool is_address_literal(std::string_view text) {
  return !text.empty() && address_literal_size(text) == text.size();
}

}  // namespace postern::smtp
