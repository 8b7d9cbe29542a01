// From a route and a domain to an ordered list of next hops [RFC 5321 §5.1, RFC 7505], without I/O.
//
// The driver (src/shard) asks the questions of take_question(), all of them at once if it likes, and brings each answer
// back by on_answer(), in any order, until done(). Answers from the cache make it one straight run without waiting.
//
// What it decides:
//   MX found           sorted; equal preferences shuffled; the best `mx_max` are resolved by A and AAAA
//   null MX            fail 556 5.1.10 [RFC 7505 §3]
//   no MX (NODATA)     the domain itself is the only host, by A and AAAA
//   NXDOMAIN           fail 550 5.1.2
//   SERVFAIL, time-out defer 451 4.4.3; but an MX host that cannot be looked up is only skipped when another one can
//   ourselves          found by name or by address and port: that host and all of the same or a worse preference are
//                      dropped; nothing left: fail 554 5.4.6
//   refused networks   addresses in them are dropped; nothing else was there: fail 550 5.4.4
//   no host has an address  fail 550 5.4.4
//   smart host         A and AAAA; not found, or ourselves: defer 451 4.3.5, for it is our configuration that is wrong;
//                      LMTP's host likewise
//   unix socket        itself
//   address literal    the address itself, unless refused or ourselves
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/ip.h>
#include <postern/base/random.h>
#include <postern/base/time.h>
#include <postern/dns/answer.h>
#include <postern/route/route.h>
#include <postern/route/route_table.h>

namespace postern::route {

struct Endpoint {
  IpAddress address;
  std::uint16_t port = 0;
  friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

// Part of the configuration snapshot; outlives the resolutions that use it.
struct ResolutionOptions {
  std::uint16_t smtp_port = 25;          // of MX hosts
  std::vector<std::string> own_names{};  // host names under which the world knows us
  // Where we listen. A wildcard (0.0.0.0, ::) stands for the loopback addresses only: list this machine's others, too.
  std::vector<Endpoint> own_endpoints{};
  std::vector<IpNetwork> refuse_networks{};  // where an MX look-up may not lead
  std::uint64_t site_seed = 0;
  bool use_ipv6 = true;  // false: no AAAA questions
};

class Resolution {
 public:
  // `via` and `options` must outlive it. `normalised_domain`: of the recipient; not needed but for mx.
  Resolution(const Via& via, std::string_view normalised_domain, const ResolutionOptions& options);

  // A question not asked before, while there is one. At most 1 + 2 × mx_max in all.
  [[nodiscard]] std::optional<dns::Question> take_question();
  // `answer` need not outlive the call. Answers to questions that were not asked are ignored.
  void on_answer(const dns::Question& question, const dns::Answer& answer, Random& random);

  [[nodiscard]] bool done() const { return done_; }
  // When done(), once.
  [[nodiscard]] Route take_route() { return std::move(route_); }

 private:
  enum class Step : std::uint8_t { mx, addresses };
  struct Lookup {  // of one host's addresses of one family
    enum class State : std::uint8_t { unasked, asked, answered };
    State state = State::unasked;
    bool temporary = false;
    std::vector<IpAddress> addresses;
  };
  struct Host {
    std::uint16_t preference = 0;
    dns::Name name;
    std::string text;
    Lookup v6;
    Lookup v4;
  };

  void on_mx(const dns::Answer& answer, Random& random);
  void add_host(std::uint16_t preference, const dns::Name& name);
  void take_addresses(Random& random);
  void use_address(const IpAddress& address, std::string host);
  [[nodiscard]] std::string named_site_key(std::string_view host) const;
  [[nodiscard]] bool is_own_name(std::string_view host) const;
  [[nodiscard]] bool is_own_endpoint(const IpAddress& address, std::uint16_t port) const;
  [[nodiscard]] bool is_refused(const IpAddress& address) const;
  [[nodiscard]] std::string mx_site_key() const;
  void deliver(std::string site_key);
  void settle(Route::Verdict verdict, mail::ReplyCode code, mail::EnhancedStatus status, std::string text);

  const Via& via_;
  const ResolutionOptions& options_;
  std::string domain_;
  std::uint16_t port_ = 0;
  Step step_ = Step::mx;
  bool done_ = false;
  bool mx_asked_ = false;
  bool dropped_ourselves_ = false;
  std::optional<dns::Name> domain_name_;
  std::vector<Host> hosts_;
  Route route_;
};

}  // namespace postern::route
