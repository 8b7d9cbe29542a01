// What mail on a route asks of the TLS of its connections: a value of the configuration, without any library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace postern::route {

enum class TlsLevel : std::uint8_t {
  none,           // STARTTLS is not said
  opportunistic,  // where offered; what goes wrong with it costs the mail nothing [RFC 7435]
  required,       // no mail without; whose certificate it is does not matter
  verified,       // and the certificate must be for the next hop's name, by an authority that we trust
};

[[nodiscard]] std::string_view to_text(TlsLevel level);

struct TlsPolicy {
  static constexpr std::size_t names_max = 100;

  TlsLevel level = TlsLevel::none;
  // For whom the next hop's certificate must be, in place of its host name; at most names_max, lower case.
  std::vector<std::string> names{};

  // As a part of a site's key: "tls=verified:mx.example.net,mx2.example.net".
  [[nodiscard]] std::string to_text() const;
  friend bool operator==(const TlsPolicy&, const TlsPolicy&) = default;
};

}  // namespace postern::route
