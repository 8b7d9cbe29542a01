#include "bench/numbering.h"

#include <postern/base/text.h>

namespace postern::bench {
namespace {

void append_hex(std::string& out, std::uint64_t value, unsigned digits) {
  while (digits-- > 0) out.push_back("0123456789abcdef"[value >> (4 * digits) & 15]);
}

// Exactly `digits` of them, of either case: local parts may have been folded on their way.
std::optional<std::uint64_t> parse_hex(std::string_view text, std::size_t digits) {
  if (text.size() < digits) return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : text.substr(0, digits)) {
    const char lower = to_ascii_lower(c);
    if (is_ascii_digit(lower)) {
      value = value << 4 | static_cast<std::uint64_t>(lower - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      value = value << 4 | static_cast<std::uint64_t>(lower - 'a' + 10);
    } else {
      return std::nullopt;
    }
  }
  return value;
}

}  // namespace

void append_local_part(std::string& out, const RecipientNumber& recipient) {
  out.push_back('b');
  append_hex(out, recipient.message, 8);
  out.push_back('-');
  append_hex(out, recipient.index, 4);
}

std::optional<RecipientNumber> parse_recipient(std::string_view path) {
  if (path.size() <= local_part_bytes || to_ascii_lower(path[0]) != 'b' || path[9] != '-' ||
      path[local_part_bytes] != '@') {
    return std::nullopt;
  }
  const auto message = parse_hex(path.substr(1), 8);
  const auto index = parse_hex(path.substr(10), 4);
  if (!message || !index || *index >= recipients_max) return std::nullopt;
  return RecipientNumber{.message = static_cast<MessageNumber>(*message), .index = static_cast<std::uint32_t>(*index)};
}

void append_mark(std::string& out, const Mark& mark) {
  append_hex(out, mark.run, 16);
  out.push_back(' ');
  append_hex(out, mark.message, 8);
  out.push_back(' ');
  append_hex(out, mark.recipients, 4);
  out.push_back(' ');
  append_hex(out, mark.body_bytes, 8);
  out.push_back(' ');
  append_hex(out, mark.body_hash, 16);
}

std::optional<Mark> find_mark(std::string_view header) {
  std::size_t at = header.find(mark_field);
  while (at != std::string_view::npos && at != 0 && header[at - 1] != '\n') at = header.find(mark_field, at + 1);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view value = header.substr(at + mark_field.size());
  if (value.size() < mark_value_bytes + 2 || value.substr(mark_value_bytes, 2) != "\r\n") return std::nullopt;
  for (const std::size_t space : {16, 25, 30, 39}) {
    if (value[space] != ' ') return std::nullopt;
  }
  const auto run = parse_hex(value, 16);
  const auto message = parse_hex(value.substr(17), 8);
  const auto recipients = parse_hex(value.substr(26), 4);
  const auto bytes = parse_hex(value.substr(31), 8);
  const auto hash = parse_hex(value.substr(40), 16);
  if (!run || !message || !recipients || !bytes || !hash || *recipients == 0 || *recipients > recipients_max) {
    return std::nullopt;
  }
  return Mark{.run = *run,
              .message = static_cast<MessageNumber>(*message),
              .recipients = static_cast<std::uint32_t>(*recipients),
              .body_bytes = static_cast<std::uint32_t>(*bytes),
              .body_hash = *hash};
}

}  // namespace postern::bench
