#include <postern/dns/name.h>

namespace postern::dns {
namespace {

constexpr char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

}  // namespace

std::optional<Name> Name::parse(std::string_view text) {
  if (text == ".") return Name();
  std::string wire;
  wire.reserve(text.size() + 2);
  wire.push_back('\0');
  std::size_t label_at = 0;  // of the length octet that is still to be written
  const auto end_label = [&wire, &label_at] {
    const std::size_t size = wire.size() - label_at - 1;
    if (size == 0 || size > label_bytes_max) return false;
    wire[label_at] = static_cast<char>(size);
    return true;
  };
  for (std::size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '.') {
      if (!end_label()) return std::nullopt;
      label_at = wire.size();
      wire.push_back('\0');
      if (i + 1 == text.size())
        return wire.size() <= wire_bytes_max ? std::optional(Name(std::move(wire))) : std::nullopt;
      continue;
    }
    if (c == '\\') {
      if (++i == text.size()) return std::nullopt;
      c = text[i];
      if (is_digit(c)) {
        if (text.size() - i < 3 || !is_digit(text[i + 1]) || !is_digit(text[i + 2])) return std::nullopt;
        const int value = (c - '0') * 100 + (text[i + 1] - '0') * 10 + (text[i + 2] - '0');
        if (value > 255) return std::nullopt;
        c = static_cast<char>(value);
        i += 2;
      }
    }
    wire.push_back(lower(c));
    if (wire.size() > wire_bytes_max) return std::nullopt;
  }
  if (!end_label()) return std::nullopt;
  wire.push_back('\0');
  if (wire.size() > wire_bytes_max) return std::nullopt;
  return Name(std::move(wire));
}

std::optional<Name> Name::from_wire(std::string_view wire) {
  if (wire.empty() || wire.size() > wire_bytes_max) return std::nullopt;
  std::string lowered(wire);
  std::size_t at = 0;
  while (true) {
    const auto size = static_cast<std::uint8_t>(wire[at]);
    if (size == 0) break;
    if (size > label_bytes_max || wire.size() - at - 1 <= size) return std::nullopt;
    for (std::size_t i = at + 1; i <= at + size; ++i) lowered[i] = lower(wire[i]);
    at += 1u + size;
  }
  if (at + 1 != wire.size()) return std::nullopt;
  return Name(std::move(lowered));
}

bool Name::is_within(const Name& zone) const {
  for (std::size_t at = 0; wire_.size() - at >= zone.wire_.size(); at += 1u + static_cast<std::uint8_t>(wire_[at])) {
    if (std::string_view(wire_).substr(at) == zone.wire_) return true;
    if (wire_[at] == '\0') break;
  }
  return false;
}

bool Name::is_host_name() const {
  if (is_root()) return false;
  for (std::size_t at = 0; wire_[at] != '\0'; at += 1u + static_cast<std::uint8_t>(wire_[at])) {
    const auto size = static_cast<std::uint8_t>(wire_[at]);
    for (std::size_t i = at + 1; i <= at + size; ++i) {
      const char c = wire_[i];
      if (!((c >= 'a' && c <= 'z') || is_digit(c) || c == '-' || c == '_')) return false;
    }
  }
  return true;
}

std::string Name::to_text() const {
  if (is_root()) return ".";
  std::string text;
  text.reserve(wire_.size());
  for (std::size_t at = 0; wire_[at] != '\0'; at += 1u + static_cast<std::uint8_t>(wire_[at])) {
    if (at != 0) text.push_back('.');
    const auto size = static_cast<std::uint8_t>(wire_[at]);
    for (std::size_t i = at + 1; i <= at + size; ++i) {
      const char c = wire_[i];
      const auto octet = static_cast<std::uint8_t>(c);
      if (octet <= 0x20 || octet >= 0x7F) {
        text.push_back('\\');
        text.push_back(static_cast<char>('0' + octet / 100));
        text.push_back(static_cast<char>('0' + octet / 10 % 10));
        text.push_back(static_cast<char>('0' + octet % 10));
      } else {
        if (c == '.' || c == '\\') text.push_back('\\');
        text.push_back(c);
      }
    }
  }
  return text;
}

}  // namespace postern::dns
