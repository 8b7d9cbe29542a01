#include "io/address.h"

#include <charconv>
#include <cstddef>
#include <cstring>
#include <optional>
#include <string>

#include <arpa/inet.h>

#include <postern/base/check.h>

namespace postern::io {
namespace {

// sun_path holds the path and its NUL.
constexpr std::size_t unix_path_max = sizeof(sockaddr_un::sun_path) - 1;
static_assert(unix_path_max == 107);
constexpr std::string_view unix_prefix = "unix:";

std::optional<std::uint16_t> parse_port(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (code != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return port;
}

Status bad_address(std::string_view text, std::string_view why) {
  return error(StatusCode::kInvalidArgument, std::string("address \"").append(text).append("\": ").append(why));
}

}  // namespace

Address Address::ip(const IpAddress& ip, std::uint16_t port) {
  Address address;
  if (ip.is_v4()) {
    const auto bytes = ip.v4_bytes();
    address.storage_.v4 = {};
    address.storage_.v4.sin_family = AF_INET;
    address.storage_.v4.sin_port = htons(port);
    std::memcpy(&address.storage_.v4.sin_addr, bytes.data(), bytes.size());
    address.size_ = sizeof(sockaddr_in);
  } else {
    address.storage_.v6 = {};
    address.storage_.v6.sin6_family = AF_INET6;
    address.storage_.v6.sin6_port = htons(port);
    std::memcpy(&address.storage_.v6.sin6_addr, ip.bytes().data(), ip.bytes().size());
    address.size_ = sizeof(sockaddr_in6);
  }
  return address;
}

Address Address::unix_path(std::string_view path) {
  POSTERN_CHECK(!path.empty() && path.size() <= unix_path_max, "a unix socket path has 1 to 107 bytes");
  POSTERN_CHECK(path.find('\0') == std::string_view::npos, "a unix socket path holds no NUL");
  Address address;
  address.storage_.local = {};
  address.storage_.local.sun_family = AF_UNIX;
  std::memcpy(address.storage_.local.sun_path, path.data(), path.size());
  address.size_ = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return address;
}

Address Address::from_kernel(const sockaddr* address, socklen_t size) {
  Address result;
  if (address == nullptr || size < static_cast<socklen_t>(sizeof(sa_family_t))) return result;
  if (address->sa_family == AF_INET && size >= static_cast<socklen_t>(sizeof(sockaddr_in))) {
    result.size_ = sizeof(sockaddr_in);
  } else if (address->sa_family == AF_INET6 && size >= static_cast<socklen_t>(sizeof(sockaddr_in6))) {
    sockaddr_in6 v6{};
    std::memcpy(&v6, address, sizeof v6);
    if (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr)) {
      // One client, one address, whichever listener it came through.
      std::array<std::uint8_t, 4> bytes{};
      std::memcpy(bytes.data(), &v6.sin6_addr.s6_addr[12], bytes.size());
      return ip(IpAddress::v4(bytes), ntohs(v6.sin6_port));
    }
    result.size_ = sizeof(sockaddr_in6);
  } else if (address->sa_family == AF_UNIX) {
    // An unnamed socket (every client) has a family and no path: "unix:".
    result.size_ = size < static_cast<socklen_t>(sizeof(sockaddr_un)) ? size : socklen_t{sizeof(sockaddr_un)};
  } else {
    return result;
  }
  std::memcpy(&result.storage_, address, result.size_);
  return result;
}

StatusOr<Address> Address::parse(std::string_view text) {
  if (text.starts_with(unix_prefix)) {
    const std::string_view path = text.substr(unix_prefix.size());
    if (path.empty()) return bad_address(text, "a path is missing after unix:");
    if (path.size() > unix_path_max) return bad_address(text, "a unix socket path has at most 107 bytes");
    if (path.find('\0') != std::string_view::npos) return bad_address(text, "a path cannot hold NUL");
    return unix_path(path);
  }
  std::string_view host;
  std::string_view port_text;
  if (text.starts_with('[')) {
    const std::size_t end = text.find(']');
    if (end == std::string_view::npos) return bad_address(text, "] is missing");
    host = text.substr(1, end - 1);
    if (host.find(':') == std::string_view::npos) return bad_address(text, "only IPv6 addresses stand in brackets");
    if (end + 1 >= text.size() || text[end + 1] != ':') return bad_address(text, "a :port must follow the ]");
    port_text = text.substr(end + 2);
  } else {
    const std::size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) return bad_address(text, "a :port is missing");
    host = text.substr(0, colon);
    if (host.find(':') != std::string_view::npos) {
      return bad_address(text, "an IPv6 address needs brackets, [2001:db8::1]:25");
    }
    port_text = text.substr(colon + 1);
  }
  const std::optional<IpAddress> parsed = IpAddress::parse(host);
  if (!parsed) return bad_address(text, "the host must be an IP address");
  const std::optional<std::uint16_t> port = parse_port(port_text);
  if (!port) return bad_address(text, "the port must be a number up to 65535");
  return ip(*parsed, *port);
}

bool Address::is_ip() const {
  return !empty() && (storage_.any.sa_family == AF_INET || storage_.any.sa_family == AF_INET6);
}

bool Address::is_unix() const {
  return !empty() && storage_.any.sa_family == AF_UNIX;
}

IpAddress Address::ip() const {
  POSTERN_CHECK(is_ip());
  if (storage_.any.sa_family == AF_INET) {
    std::array<std::uint8_t, 4> bytes{};
    std::memcpy(bytes.data(), &storage_.v4.sin_addr, bytes.size());
    return IpAddress::v4(bytes);
  }
  std::array<std::uint8_t, 16> bytes{};
  std::memcpy(bytes.data(), &storage_.v6.sin6_addr, bytes.size());
  return IpAddress::v6(bytes);
}

std::uint16_t Address::port() const {
  if (!is_ip()) return 0;
  return ntohs(storage_.any.sa_family == AF_INET ? storage_.v4.sin_port : storage_.v6.sin6_port);
}

std::string_view Address::path() const {
  POSTERN_CHECK(is_unix());
  const std::size_t room = size_ - offsetof(sockaddr_un, sun_path);
  return {storage_.local.sun_path, strnlen(storage_.local.sun_path, room)};
}

std::string Address::to_string() const {
  if (empty()) return "none";
  if (is_unix()) return std::string(unix_prefix).append(path());
  const IpAddress host = ip();
  std::string text;
  if (host.is_v4()) {
    text = host.to_string();
  } else {
    text.append("[").append(host.to_string()).append("]");
  }
  return text.append(":").append(std::to_string(port()));
}

bool operator==(const Address& a, const Address& b) {
  // Field by field: the kernel leaves padding as it likes.
  if (a.empty() || b.empty()) return a.empty() == b.empty();
  if (a.storage_.any.sa_family != b.storage_.any.sa_family) return false;
  if (a.is_unix()) return a.path() == b.path();
  if (a.storage_.any.sa_family == AF_INET6 && a.storage_.v6.sin6_scope_id != b.storage_.v6.sin6_scope_id) return false;
  return a.port() == b.port() && a.ip() == b.ip();
}

}  // namespace postern::io
