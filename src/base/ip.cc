#include <algorithm>
#include <cstddef>

#include <postern/base/check.h>
#include <postern/base/ip.h>
#include <postern/base/text.h>

namespace postern {
namespace {

constexpr std::size_t mapped_prefix_size = 12;
constexpr unsigned mapped_prefix_bits = 96;

// Exactly four decimal numbers without leading zeros (some readers take those for octal) [RFC 6943 §3.1.1].
std::optional<std::array<std::uint8_t, 4>> parse_v4(std::string_view text) {
  std::array<std::uint8_t, 4> bytes{};
  for (std::size_t i = 0; i < 4; ++i) {
    const std::size_t dot = i < 3 ? text.find('.') : text.size();
    if (dot == std::string_view::npos) return std::nullopt;
    const std::string_view number = text.substr(0, dot);
    const auto value = parse_uint<std::uint8_t>(number);
    if (!value || number.size() > 3 || (number.size() > 1 && number.front() == '0')) return std::nullopt;
    bytes[i] = *value;
    text.remove_prefix(std::min(dot + 1, text.size()));
  }
  return bytes;
}

std::optional<unsigned> hex_digit(char c) {
  if (is_ascii_digit(c)) return static_cast<unsigned>(c - '0');
  c = to_ascii_lower(c);
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a' + 10);
  return std::nullopt;
}

// [RFC 4291 §2.2]: groups of 1–4 hex digits, one "::", a dotted quad in place of the last two groups.
std::optional<std::array<std::uint8_t, 16>> parse_v6(std::string_view text) {
  std::array<std::uint8_t, 16> bytes{};
  std::size_t size = 0;
  std::optional<std::size_t> gap;  // where "::" stood, in bytes
  if (text.starts_with("::")) {
    gap = 0;
    text.remove_prefix(2);
  } else if (text.empty()) {
    return std::nullopt;
  }
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(':'), text.size());
    const std::string_view group = text.substr(0, end);
    if (end == text.size() && group.find('.') != std::string_view::npos) {
      const auto quad = parse_v4(group);
      if (!quad || size > 12) return std::nullopt;
      for (const std::uint8_t byte : *quad) bytes[size++] = byte;
      break;
    }
    if (group.empty() || group.size() > 4 || size > 14) return std::nullopt;
    unsigned value = 0;
    for (const char c : group) {
      const auto digit = hex_digit(c);
      if (!digit) return std::nullopt;
      value = value * 16 + *digit;
    }
    bytes[size++] = static_cast<std::uint8_t>(value >> 8);
    bytes[size++] = static_cast<std::uint8_t>(value);
    if (end == text.size()) break;
    text.remove_prefix(end + 1);
    if (text.empty()) return std::nullopt;  // ends with a single ':'
    if (text.front() == ':') {
      if (gap) return std::nullopt;
      gap = size;
      text.remove_prefix(1);
    }
  }
  if (!gap) return size == 16 ? std::optional(bytes) : std::nullopt;
  if (size > 14) return std::nullopt;  // "::" stands for at least one group
  std::array<std::uint8_t, 16> spread{};
  for (std::size_t i = 0; i < *gap; ++i) spread[i] = bytes[i];
  for (std::size_t i = *gap; i < size; ++i) spread[16 - size + i] = bytes[i];
  return spread;
}

void put_hex(std::string& out, unsigned value) {
  constexpr std::string_view digits = "0123456789abcdef";
  bool started = false;
  for (int shift = 12; shift >= 0; shift -= 4) {
    const unsigned digit = value >> shift & 15u;
    started = started || digit != 0 || shift == 0;
    if (started) out += digits[digit];
  }
}

bool bit_of(const std::array<std::uint8_t, 16>& bytes, unsigned index) {
  return (bytes[index / 8] >> (7 - index % 8) & 1) != 0;
}

}  // namespace

IpAddress IpAddress::v4(std::array<std::uint8_t, 4> bytes) {
  IpAddress address;
  address.bytes_[10] = address.bytes_[11] = 0xFF;
  std::copy(bytes.begin(), bytes.end(), address.bytes_.begin() + mapped_prefix_size);
  return address;
}

IpAddress IpAddress::v6(std::array<std::uint8_t, 16> bytes) {
  IpAddress address;
  address.bytes_ = bytes;
  return address;
}

std::optional<IpAddress> IpAddress::parse(std::string_view text) {
  if (text.find(':') == std::string_view::npos) {
    const auto bytes = parse_v4(text);
    return bytes ? std::optional(v4(*bytes)) : std::nullopt;
  }
  const auto bytes = parse_v6(text);
  return bytes ? std::optional(v6(*bytes)) : std::nullopt;
}

bool IpAddress::is_v4() const {
  constexpr std::array<std::uint8_t, mapped_prefix_size> mapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF};
  return std::equal(mapped.begin(), mapped.end(), bytes_.begin());
}

std::array<std::uint8_t, 4> IpAddress::v4_bytes() const {
  POSTERN_CHECK(is_v4());
  return {bytes_[12], bytes_[13], bytes_[14], bytes_[15]};
}

// An IPv4-mapped address is printed as the IPv4 address that it is to us.
std::string IpAddress::to_string() const {
  std::string out;
  if (is_v4()) {
    for (std::size_t i = mapped_prefix_size; i < 16; ++i) {
      if (i > mapped_prefix_size) out += '.';
      out += std::to_string(unsigned{bytes_[i]});
    }
    return out;
  }
  // The longest run of two or more zero groups becomes "::", the first of equals [RFC 5952 §4.2].
  const auto group = [&](std::size_t i) { return static_cast<unsigned>(bytes_[2 * i] << 8 | bytes_[2 * i + 1]); };
  std::size_t run_start = 8, run_size = 1;
  for (std::size_t i = 0; i < 8;) {
    std::size_t size = 0;
    while (i + size < 8 && group(i + size) == 0) ++size;
    if (size > run_size) {
      run_start = i;
      run_size = size;
    }
    i += std::max<std::size_t>(size, 1);
  }
  for (std::size_t i = 0; i < 8;) {
    if (i == run_start) {
      out += "::";
      i += run_size;
      continue;
    }
    if (!out.empty() && out.back() != ':') out += ':';
    put_hex(out, group(i));
    ++i;
  }
  return out;
}

std::string IpAddress::to_address_literal() const {
  std::string out = is_v4() ? "[" : "[IPv6:";
  out += to_string();
  out += ']';
  return out;
}

StatusOr<IpNetwork> IpNetwork::parse(std::string_view text) {
  const auto refuse = [&](std::string_view what) {
    std::string message = "\"";
    append_log_escaped(message, text, 64);
    message += "\" ";
    message += what;
    return error(StatusCode::kInvalidArgument, message);
  };
  const std::size_t slash = std::min(text.find('/'), text.size());
  const std::string_view address_text = text.substr(0, slash);
  const auto address = IpAddress::parse(address_text);
  if (!address) return refuse("is no network; write 192.0.2.0/24, 2001:db8::/32 or a single address");
  // "::ffff:192.0.2.0/120" counts its prefix in the 128 bits, as it is written.
  const bool written_as_v4 = address_text.find(':') == std::string_view::npos;
  const unsigned bits_max = written_as_v4 ? 32 : 128;
  IpNetwork network;
  unsigned bits = bits_max;
  if (slash < text.size()) {
    const auto given = parse_uint<std::uint8_t>(text.substr(slash + 1), static_cast<std::uint8_t>(bits_max));
    if (!given) return refuse("has a bad prefix length");
    bits = *given;
  }
  network.base_ = *address;
  network.prefix_bits_ = static_cast<std::uint8_t>(written_as_v4 ? bits + mapped_prefix_bits : bits);
  for (unsigned i = network.prefix_bits_; i < 128; ++i) {
    if (bit_of(address->bytes(), i)) return refuse("has bits set behind its prefix; clear them or lengthen the prefix");
  }
  return network;
}

bool IpNetwork::contains(const IpAddress& address) const {
  const auto& a = base_.bytes();
  const auto& b = address.bytes();
  // An IPv6 network shorter than the mapped prefix ("::/0") means IPv6 addresses: an IPv4 peer is none of them.
  if (prefix_bits_ < mapped_prefix_bits && address.is_v4()) return false;
  const std::size_t whole = prefix_bits_ / 8;
  if (!std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(whole), b.begin())) return false;
  const unsigned rest = prefix_bits_ % 8;
  return rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0;
}

std::string IpNetwork::to_string() const {
  const bool v4 = prefix_bits_ >= mapped_prefix_bits && base_.is_v4();
  return base_.to_string() + "/" + std::to_string(v4 ? prefix_bits_ - mapped_prefix_bits : unsigned{prefix_bits_});
}

}  // namespace postern
