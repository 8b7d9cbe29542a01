#include <algorithm>
#include <array>
#include <optional>
#include <string_view>

#include <postern/base/text.h>
#include <postern/smtp/proxy_header.h>

namespace postern::smtp {
namespace {

using namespace std::string_view_literals;
using State = ProxyProgress::State;

constexpr std::string_view line_start = "PROXY "sv;
constexpr std::string_view signature = "\r\n\r\n\0\r\nQUIT\n"sv;
constexpr std::size_t fixed_bytes = 16;  // signature, version and command, family, length
static_assert(signature.size() == 12);

bool begins_like(std::string_view text, std::string_view start) {
  return text.starts_with(start.substr(0, text.size()));
}

// Takes the next word and the one space behind it; nothing when there is none.
std::string_view take_field(std::string_view& text) {
  const std::size_t space = std::min(text.find(' '), text.size());
  const std::string_view field = text.substr(0, space);
  text.remove_prefix(std::min(space + 1, text.size()));
  return field;
}

// 0 … 65535 without leading zeros.
std::optional<std::uint16_t> parse_port(std::string_view text) {
  if (text.empty() || text.size() > 5 || (text.size() > 1 && text[0] == '0')) return std::nullopt;
  const std::optional<std::uint32_t> port = parse_uint<std::uint32_t>(text);
  if (!port || *port > 65'535) return std::nullopt;
  return static_cast<std::uint16_t>(*port);
}

// `line` behind "PROXY ", without CRLF.
bool read_line(std::string_view line, ProxyHeader& header) {
  const bool ends_in_space = line.ends_with(' ');
  const std::string_view family = take_field(line);
  if (family == "UNKNOWN") return true;  // whatever follows is to be ignored
  if ((family != "TCP4" && family != "TCP6") || ends_in_space) return false;
  const std::optional<IpAddress> source = IpAddress::parse(take_field(line));
  const std::optional<IpAddress> destination = IpAddress::parse(take_field(line));
  const std::optional<std::uint16_t> source_port = parse_port(take_field(line));
  const std::optional<std::uint16_t> destination_port = parse_port(take_field(line));
  if (!source || !destination || !source_port || !destination_port || !line.empty()) return false;
  // A mapped address in a TCP6 line is the IPv4 address that it is; an IPv6 one in a TCP4 line is nonsense.
  if (family == "TCP4" && (!source->is_v4() || !destination->is_v4())) return false;
  header = {.local = false, .source = *source, .source_port = *source_port};
  return true;
}

ProxyProgress parse_line(std::string_view text) {
  const std::string_view within = text.substr(0, proxy_line_bytes_max);
  const std::size_t end = within.find('\n');
  if (end == std::string_view::npos) {
    return {.state = within.size() == proxy_line_bytes_max ? State::malformed : State::incomplete};
  }
  ProxyProgress progress{.state = State::malformed};
  if (end <= line_start.size() || within.find('\r') != end - 1) return progress;
  if (!read_line(within.substr(line_start.size(), end - 1 - line_start.size()), progress.header)) return progress;
  progress.state = State::complete;
  progress.consumed = end + 1;
  return progress;
}

unsigned byte_at(std::string_view text, std::size_t at) {
  return static_cast<unsigned char>(text[at]);
}

template <std::size_t n>
std::array<std::uint8_t, n> take_bytes(std::string_view text, std::size_t at) {
  std::array<std::uint8_t, n> bytes{};
  std::transform(text.begin() + static_cast<std::ptrdiff_t>(at), text.begin() + static_cast<std::ptrdiff_t>(at + n),
                 bytes.begin(), [](char c) { return static_cast<std::uint8_t>(c); });
  return bytes;
}

ProxyProgress parse_block(std::string_view text) {
  constexpr unsigned command_local = 0x20, command_proxy = 0x21;
  constexpr unsigned family_unspecified = 0x00, tcp_over_v4 = 0x11, tcp_over_v6 = 0x21, unix_stream = 0x31;
  const ProxyProgress malformed{.state = State::malformed};
  if (text.size() < fixed_bytes) return {};
  const unsigned command = byte_at(text, 12);
  const unsigned family = byte_at(text, 13);
  const std::size_t length = byte_at(text, 14) << 8 | byte_at(text, 15);
  const std::size_t size = fixed_bytes + length;
  if ((command != command_local && command != command_proxy) || size > proxy_block_bytes_max) return malformed;
  ProxyProgress progress{.state = State::complete, .consumed = size};
  std::size_t addresses = 0;
  switch (command == command_local ? family_unspecified : family) {
    case family_unspecified:
      break;
    case tcp_over_v4:
      addresses = 4 + 4 + 2 + 2;
      break;
    case tcp_over_v6:
      addresses = 16 + 16 + 2 + 2;
      break;
    case unix_stream:
      addresses = 108 + 108;
      break;
    default:
      return malformed;  // datagrams, and families to come
  }
  if (length < addresses) return malformed;
  if (text.size() < size) return {};
  if (command == command_proxy && family == tcp_over_v4) {
    progress.header = {.local = false,
                       .source = IpAddress::v4(take_bytes<4>(text, 16)),
                       .source_port = static_cast<std::uint16_t>(byte_at(text, 24) << 8 | byte_at(text, 25))};
  } else if (command == command_proxy && family == tcp_over_v6) {
    progress.header = {.local = false,
                       .source = IpAddress::v6(take_bytes<16>(text, 16)),
                       .source_port = static_cast<std::uint16_t>(byte_at(text, 48) << 8 | byte_at(text, 49))};
  }
  return progress;
}

}  // namespace

ProxyProgress parse_proxy_header(Bytes bytes) {
  const std::string_view text = as_text(bytes);
  if (begins_like(text, signature)) return parse_block(text);
  if (!begins_like(text, line_start)) return {.state = State::malformed};
  return text.size() <= line_start.size() ? ProxyProgress{} : parse_line(text);
}

}  // namespace postern::smtp
