// Reads resolv.conf's text [resolv.conf(5)]. Reading the file is the driver's doing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/ip.h>
#include <postern/base/status.h>
#include <postern/base/time.h>
#include <postern/dns/lookup.h>

namespace postern::dns {

struct ServerAddress {
  IpAddress address;
  std::uint16_t port = 53;

  friend auto operator<=>(const ServerAddress&, const ServerAddress&) = default;
};

// "192.0.2.1", "192.0.2.1:5300", "2001:db8::1", "[2001:db8::1]:5300". kInvalidArgument says what is wrong.
[[nodiscard]] StatusOr<ServerAddress> parse_server(std::string_view text);

struct ResolvConf {
  std::vector<ServerAddress> servers;  // 1…servers_max; 127.0.0.1 when the text names none
  LookupOptions lookup;                // timeout:, attempts:, no-edns0 considered, within bounds
  bool rotate = false;
};

// Never fails: what it cannot use (search lists, unknown options, addresses with a zone) is passed over, as resolvers
// do.
[[nodiscard]] ResolvConf parse_resolv_conf(std::string_view text);

}  // namespace postern::dns
