// IP addresses and networks as values.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/status.h>

namespace postern {

// 16 bytes in network order; IPv4 is kept as IPv4-mapped (::ffff:a.b.c.d) so that one comparison serves both.
class IpAddress {
 public:
  constexpr IpAddress() = default;  // ::
  [[nodiscard]] static IpAddress v4(std::array<std::uint8_t, 4> bytes);
  [[nodiscard]] static IpAddress v6(std::array<std::uint8_t, 16> bytes);
  // Dotted quad or RFC 4291 text; no brackets, no zone, no port.
  [[nodiscard]] static std::optional<IpAddress> parse(std::string_view text);

  [[nodiscard]] bool is_v4() const;
  [[nodiscard]] const std::array<std::uint8_t, 16>& bytes() const { return bytes_; }
  [[nodiscard]] std::array<std::uint8_t, 4> v4_bytes() const;  // only when is_v4()
  [[nodiscard]] std::string to_string() const;                 // RFC 5952
  // "[192.0.2.1]" or "[IPv6:2001:db8::1]" [RFC 5321 §4.1.3].
  [[nodiscard]] std::string to_address_literal() const;

  friend constexpr auto operator<=>(const IpAddress&, const IpAddress&) = default;
  template <class H>
  friend H AbslHashValue(H state, const IpAddress& a) {
    return H::combine(std::move(state), a.bytes_);
  }

 private:
  std::array<std::uint8_t, 16> bytes_{};
};

// "192.0.2.0/24", "2001:db8::/32", or a single address.
class IpNetwork {
 public:
  [[nodiscard]] static StatusOr<IpNetwork> parse(std::string_view text);
  [[nodiscard]] bool contains(
      const IpAddress& address) const;  // an IPv4 network contains no IPv6 address but mapped ones
  [[nodiscard]] std::string to_string() const;

 private:
  IpAddress base_;
  std::uint8_t prefix_bits_ = 0;  // of the 128
};

}  // namespace postern
