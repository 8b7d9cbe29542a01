// Where mail for one domain goes now: the result of a Resolution.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/ip.h>
#include <postern/base/time.h>
#include <postern/mail/outcome.h>
#include <postern/mail/reply.h>
#include <postern/mail/site.h>
#include <postern/route/tls_policy.h>

namespace postern::route {

// One address to try.
struct NextHop {
  IpAddress address{};
  std::uint16_t port = 25;
  std::uint16_t preference = 0;  // of its MX record; 0 otherwise
  std::string host{};            // MX name, smart host's name, or the address literal: for logs, TLS names, DANE
  std::string unix_path{};       // of a socket on this machine; then there is no address, port and host

  friend bool operator==(const NextHop&, const NextHop&) = default;
};

struct Route {
  enum class Verdict : std::uint8_t {
    deliver,  // by `transport`, to `next_hops` in this order if that is smtp or lmtp
    defer,    // not to be known now: `reply` has code 0 or 4xx and says why
    fail,     // never: `reply` says why; goes into the DSN, or answers RCPT for reject
  };
  static constexpr std::size_t next_hops_max = 20;
  static constexpr std::size_t addresses_per_host_max = 8;
  static constexpr std::size_t mx_max = 10;

  Verdict verdict = Verdict::defer;
  mail::Transport transport = mail::Transport::smtp;
  // Canonical: "mx:HOST,HOST…:PORT" (host names sorted), "smtp:HOST:PORT", "lmtp:HOST:PORT", "lmtp:unix:PATH",
  // "maildir:TEMPLATE", "discard"; for defer and fail "unresolved:DOMAIN". A route with a TLS policy of its own has
  // that behind a semicolon: its connections are no other's. So does one with credentials ("auth=NAME"). Equal keys are
  // one site.
  std::string site_key;
  mail::SiteId site;
  std::vector<NextHop> next_hops;  // never empty for deliver by smtp and lmtp
  std::optional<TlsPolicy> tls;    // of connections over TCP; nullopt: as usual
  std::string credentials;         // the name of those that connections are authenticated by; empty: they are not
  std::string maildir;             // path template, for expand_maildir()
  mail::Reply reply;               // defer, fail
  Instant expires_at = never;      // resolve again after this; never for routes that no DNS answer shaped
};

// The id of a site. `seed`: one per process, secret.
[[nodiscard]] mail::SiteId site_id(std::string_view site_key, std::uint64_t seed);

}  // namespace postern::route
