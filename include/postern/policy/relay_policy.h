// Who may send where: the verdict on RCPT. Routes only choose the way and are not asked here.
//
// A recipient is accepted when its domain is one of ours, or when the peer may relay to any domain. Immutable; made
// from the configuration and shared by all shards; a look-up in ASCII allocates nothing.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/hash.h>
#include <postern/base/ip.h>
#include <postern/base/status.h>
#include <postern/mail/envelope.h>
#include <postern/policy/verdict.h>

namespace postern::policy {

// What is known of the peer when it asks.
struct PeerFacts {
  bool may_relay = false;  // in its listener's relay_from, or authenticated
};

// Networks, as in `relay_from`.
class NetworkSet {
 public:
  NetworkSet() = default;
  explicit NetworkSet(std::vector<IpNetwork> networks) : networks_(std::move(networks)) {}
  [[nodiscard]] bool contains(const IpAddress& address) const;

 private:
  std::vector<IpNetwork> networks_;  // a few: searched in order
};

class RelayPolicy {
 public:
  // `accept`: domains in any case, without a final dot; ".example.test" is example.test and all its subdomains;
  // "[192.0.2.1]" an address literal. `hostname` is this host's name: "<postmaster>" is postmaster@hostname.
  // kInvalidArgument names the entry that is none of these.
  [[nodiscard]] static StatusOr<RelayPolicy> make(std::span<const std::string> accept, std::string_view hostname);

  // 550 5.7.1 when refused. "<postmaster>" without a domain is always accepted [RFC 5321 §4.5.1]; the driver routes it
  // as postmaster_domain(). Address literals are domains like any other: accepted only if listed or the peer may relay.
  [[nodiscard]] Verdict judge_recipient(const PeerFacts& peer, const mail::PathView& forward_path,
                                        VerdictTicket ticket) const;

  // Whether mail for `domain` is taken from anyone. Case is ignored, a final dot too; U-labels are the A-labels that
  // they stand for [RFC 5891], and cost an allocation.
  [[nodiscard]] bool accepts_domain(std::string_view domain) const;

  // The domain by which "<postmaster>" is routed: hostname if it is accepted, else the nearest domain above it that is,
  // else the first accepted one, else hostname (which then routes like any other domain).
  [[nodiscard]] std::string_view postmaster_domain() const { return postmaster_domain_; }

 private:
  RelayPolicy() = default;

  TextSet domains_;  // exact, lower case
  TextSet trees_;    // with their subdomains, lower case, without the leading dot
  std::string postmaster_domain_;
};

}  // namespace postern::policy
