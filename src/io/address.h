// A socket address: IPv4, IPv6 or a unix path; comparable, printable.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <postern/base/ip.h>
#include <postern/base/status.h>

namespace postern::io {

class Address {
 public:
  Address() = default;  // empty: no address
  [[nodiscard]] static Address ip(const IpAddress& ip, std::uint16_t port);
  // 1 to 107 bytes without NUL, checked: parse() is for doubtful text.
  [[nodiscard]] static Address unix_path(std::string_view path);
  // A copy; an IPv4-mapped IPv6 address becomes plain IPv4. Empty for a family that is none of the three.
  [[nodiscard]] static Address from_kernel(const sockaddr* address, socklen_t size);
  // "192.0.2.1:25", "[2001:db8::1]:25", "unix:/run/x". kInvalidArgument says what is wrong.
  [[nodiscard]] static StatusOr<Address> parse(std::string_view text);

  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] bool is_ip() const;
  [[nodiscard]] bool is_unix() const;
  [[nodiscard]] IpAddress ip() const;        // only when is_ip()
  [[nodiscard]] std::uint16_t port() const;  // 0 for unix
  // Only when is_unix(). Empty for an unnamed socket. Valid as long as *this.
  [[nodiscard]] std::string_view path() const;
  [[nodiscard]] std::string to_string() const;

  [[nodiscard]] const sockaddr* kernel() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  [[nodiscard]] socklen_t kernel_size() const { return size_; }
  friend bool operator==(const Address& a, const Address& b);

 private:
  union Storage {
    sockaddr any;
    sockaddr_in v4;
    sockaddr_in6 v6;
    sockaddr_un local;
  };
  Storage storage_{};
  socklen_t size_ = 0;
};

}  // namespace postern::io
