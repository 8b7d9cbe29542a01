// The operator's routes: which way a recipient's mail travels, never whether it may. First match wins; none: mx.
//
// Immutable once built, part of a configuration snapshot, shared by all shards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/hash.h>
#include <postern/base/ip.h>
#include <postern/base/status.h>
#include <postern/mail/envelope.h>
#include <postern/route/tls_policy.h>

namespace postern::route {

struct Match {
  enum class Kind : std::uint8_t {
    domain,      // example.net
    subdomains,  // .example.net: what lies below it, not itself
    mailbox,     // user@example.net: local part as it stands (case matters, but for postmaster), quoted or not
    any,         // *
  };
  Kind kind = Kind::any;
  std::string domain{};      // normalised; empty for `any`
  std::string local_part{};  // `mailbox`: unquoted
};

struct Via {
  enum class Kind : std::uint8_t {
    mx,
    smtp,  // a smart host
    lmtp,  // a mail store: for final delivery [RFC 2033]
    maildir,
    discard,  // taken, then thrown away
    reject,   // refused at RCPT with `text`
  };
  static constexpr std::uint16_t smtp_port_default = 25;

  Kind kind = Kind::mx;
  std::uint16_t port = 0;              // smtp, lmtp
  std::string host{};                  // smtp, lmtp: normalised name; empty when `address` or `unix_path` is given
  std::optional<IpAddress> address{};  // smtp:[ADDRESS], lmtp:[ADDRESS]
  std::string unix_path{};             // lmtp:unix:PATH
  std::string text{};                  // maildir: path template; reject: what to say, without codes

  std::optional<TlsPolicy> tls{};  // of the route's own; not given by parse_via()
  std::string credentials{};       // the name of those to authenticate by; empty: none; not given by parse_via()

  // Whether its next hops are asked who exists; nullopt: as usual. Not given by parse_via().
  std::optional<bool> callout{};

  // Leads to next hops, which can be asked something.
  [[nodiscard]] bool has_next_hops() const { return kind == Kind::mx || names_hosts(); }
  // Leads to hosts over TCP, where TLS may be spoken.
  [[nodiscard]] bool may_speak_tls() const { return kind == Kind::mx || (names_hosts() && unix_path.empty()); }
  // Leads to those alone whom the operator named, over TCP: a password goes nowhere that DNS chose.
  [[nodiscard]] bool may_authenticate() const { return names_hosts() && unix_path.empty(); }
  // The operator named the next hop: no MX look-up, and refuse_networks has no say.
  [[nodiscard]] bool names_hosts() const { return kind == Kind::smtp || kind == Kind::lmtp; }

  [[nodiscard]] std::string to_text() const;  // as it would be written in the configuration
};

// kInvalidArgument says what is wrong and what would be right, for "FILE:LINE: route.match: …".
[[nodiscard]] StatusOr<Match> parse_match(std::string_view text);
// mx | smtp:HOST[:PORT] | smtp:[ADDRESS][:PORT] | lmtp:unix:/PATH | lmtp:HOST:PORT | lmtp:[ADDRESS]:PORT |
// maildir:PATH | discard | reject:TEXT. TEXT is printable ASCII of at most 400 bytes, so that the reply line stays
// within 512. A Maildir's PATH may hold {local} and {domain}, and nothing else in braces; a socket's is absolute and of
// at most 107 bytes. LMTP has no port of its own [RFC 2033 §5 forbids 25 alone], so that one must be named.
[[nodiscard]] StatusOr<Via> parse_via(std::string_view text);

struct RouteRule {
  Match match;
  Via via;
};

class RouteTable {
 public:
  // `local_domain` (the hostname) stands in for the domain of a bare <postmaster> [RFC 5321 §4.5.1].
  RouteTable(std::vector<RouteRule> rules, std::string_view local_domain);

  // The first rule that matches, or mx. `local_part`: of unquote_local_part(); `normalised_domain`: of
  // normalise_domain(). At most two hash look-ups and one per label of the domain, and only in tables that hold rules.
  // Valid as long as the table.
  [[nodiscard]] const Via& find(std::string_view local_part, std::string_view normalised_domain) const;
  // The same from a path. A domain that cannot be normalised matches "*" only.
  [[nodiscard]] const Via& find(const mail::PathView& forward_path) const;

  [[nodiscard]] const std::vector<RouteRule>& rules() const { return rules_; }
  [[nodiscard]] std::string_view local_domain() const { return local_domain_; }

 private:
  std::vector<RouteRule> rules_;
  std::string local_domain_;
  Via default_;                        // mx
  TextMap<std::uint32_t> domains_;     // → the first rule's index
  TextMap<std::uint32_t> subdomains_;  // keyed without the leading dot
  TextMap<std::uint32_t> mailboxes_;   // keyed local_part@domain
  std::uint32_t any_;                  // index of the first "*", or none
};

}  // namespace postern::route
