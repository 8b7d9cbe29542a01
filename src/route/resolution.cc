#include <algorithm>
#include <array>
#include <utility>

#include <postern/route/domain.h>
#include <postern/route/resolution.h>

namespace postern::route {
namespace {

using Kind = dns::Answer::Kind;

template <class T>
void shuffle(std::vector<T>& items, std::size_t begin, std::size_t end, Random& random) {
  for (std::size_t left = end - begin; left > 1; --left) {
    std::swap(items[begin + left - 1], items[begin + random.below(left)]);
  }
}

bool is_wildcard(const IpAddress& address) {
  return address == IpAddress() || address == IpAddress::v4({0, 0, 0, 0});
}

bool is_loopback(const IpAddress& address) {
  if (address.is_v4()) return address.v4_bytes()[0] == 127;
  std::array<std::uint8_t, 16> loopback{};
  loopback.back() = 1;
  return address.bytes() == loopback;
}

}  // namespace

Resolution::Resolution(const Via& via, std::string_view normalised_domain, const ResolutionOptions& options)
    : via_(via), options_(options), domain_(normalised_domain) {
  switch (via.kind) {
    case Via::Kind::maildir:
      route_.transport = mail::Transport::maildir;
      route_.maildir = via.text;
      deliver("maildir:" + via.text);
      return;
    case Via::Kind::discard:
      route_.transport = mail::Transport::discard;
      deliver("discard");
      return;
    case Via::Kind::reject:
      settle(Route::Verdict::fail, 550, {5, 7, 1}, via.text);
      return;
    case Via::Kind::lmtp:
      route_.transport = mail::Transport::lmtp;
      if (!via.unix_path.empty()) {
        route_.next_hops.push_back({.unix_path = via.unix_path});
        deliver(via.to_text());
        return;
      }
      [[fallthrough]];
    case Via::Kind::smtp:
      port_ = via.port;
      step_ = Step::addresses;
      if (via.address) {
        use_address(*via.address, via.address->to_address_literal());
      } else if (const std::optional<dns::Name> name = dns::Name::parse(via.host)) {
        add_host(0, *name);
      } else {
        settle(Route::Verdict::defer, 451, {4, 3, 5}, "The smart host's name is not usable: " + via.host);
      }
      return;
    case Via::Kind::mx:
      break;
  }
  port_ = options.smtp_port;
  if (const std::optional<IpAddress> literal = parse_address_literal(domain_)) {
    use_address(*literal, domain_);
    return;
  }
  domain_name_ = dns::Name::parse(domain_);
  if (!domain_name_ || !domain_name_->is_host_name()) {
    settle(Route::Verdict::fail, 550, {5, 1, 2}, "The domain is not a domain name");
  }
}

std::optional<dns::Question> Resolution::take_question() {
  if (done_) return std::nullopt;
  if (step_ == Step::mx) {
    if (std::exchange(mx_asked_, true)) return std::nullopt;
    return dns::Question{*domain_name_, dns::RecordType::mx};
  }
  for (Host& host : hosts_) {
    if (host.v6.state == Lookup::State::unasked) {
      host.v6.state = Lookup::State::asked;
      return dns::Question{host.name, dns::RecordType::aaaa};
    }
    if (host.v4.state == Lookup::State::unasked) {
      host.v4.state = Lookup::State::asked;
      return dns::Question{host.name, dns::RecordType::a};
    }
  }
  return std::nullopt;
}

void Resolution::on_answer(const dns::Question& question, const dns::Answer& answer, Random& random) {
  if (done_) return;
  if (step_ == Step::mx) {
    if (mx_asked_ && question.type == dns::RecordType::mx && question.name == *domain_name_) {
      route_.expires_at = std::min(route_.expires_at, answer.expires_at);
      on_mx(answer, random);
    }
    return;
  }
  bool all_answered = true;
  for (Host& host : hosts_) {
    if (host.name == question.name && (question.type == dns::RecordType::aaaa || question.type == dns::RecordType::a)) {
      Lookup& lookup = question.type == dns::RecordType::aaaa ? host.v6 : host.v4;
      if (lookup.state == Lookup::State::asked) {
        lookup.state = Lookup::State::answered;
        lookup.temporary = answer.kind == Kind::temporary;
        lookup.addresses = answer.addresses;
        route_.expires_at = std::min(route_.expires_at, answer.expires_at);
      }
    }
    all_answered = all_answered && host.v6.state == Lookup::State::answered && host.v4.state == Lookup::State::answered;
  }
  if (all_answered) take_addresses(random);
}

void Resolution::on_mx(const dns::Answer& answer, Random& random) {
  switch (answer.kind) {
    case Kind::temporary:
      return settle(Route::Verdict::defer, 451, {4, 4, 3},
                    "Looking up the MX of " + domain_ + ": " + std::string(to_text(answer.failure)));
    case Kind::no_such_name:
      return settle(Route::Verdict::fail, 550, {5, 1, 2}, "No such domain: " + domain_);
    case Kind::no_data:
      if (is_own_name(domain_)) {
        return settle(Route::Verdict::fail, 554, {5, 4, 6}, "Mail for " + domain_ + " loops back to us");
      }
      add_host(0, *domain_name_);  // the implicit MX
      step_ = Step::addresses;
      return;
    case Kind::records:
      break;
  }
  std::vector<dns::MxRecord> records = answer.mx;
  // A null MX stands alone [RFC 7505 §3]; one among others names no host and is passed over.
  if (records.size() == 1 && records.front().exchange.is_root()) {
    return settle(Route::Verdict::fail, 556, {5, 1, 10}, domain_ + " does not accept mail (null MX)");
  }
  std::erase_if(records, [](const dns::MxRecord& record) { return !record.exchange.is_host_name(); });
  std::sort(records.begin(), records.end());
  const auto ourselves = std::find_if(records.begin(), records.end(), [this](const dns::MxRecord& record) {
    return is_own_name(record.exchange.to_text());
  });
  if (ourselves != records.end()) {
    dropped_ourselves_ = true;
    const std::uint16_t preference = ourselves->preference;
    std::erase_if(records, [preference](const dns::MxRecord& record) { return record.preference >= preference; });
  }
  for (std::size_t begin = 0; begin < records.size();) {
    std::size_t end = begin + 1;
    while (end < records.size() && records[end].preference == records[begin].preference) ++end;
    shuffle(records, begin, end, random);
    begin = end;
  }
  for (const dns::MxRecord& record : records) {
    if (hosts_.size() == Route::mx_max) break;
    const bool known =
        std::any_of(hosts_.begin(), hosts_.end(), [&record](const Host& host) { return host.name == record.exchange; });
    if (!known) add_host(record.preference, record.exchange);
  }
  step_ = Step::addresses;
  if (hosts_.empty()) take_addresses(random);
}

void Resolution::add_host(std::uint16_t preference, const dns::Name& name) {
  Host host{.preference = preference, .name = name, .text = name.to_text(), .v6 = {}, .v4 = {}};
  if (!options_.use_ipv6) host.v6.state = Lookup::State::answered;
  hosts_.push_back(std::move(host));
}

void Resolution::take_addresses(Random& random) {
  const bool smart_host = via_.names_hosts();
  // Ourselves, found by address: this host and all that are no better go [RFC 5321 §5.1].
  std::uint32_t preference_end = 1u << 16;
  for (const Host& host : hosts_) {
    for (const Lookup* lookup : {&host.v6, &host.v4}) {
      for (const IpAddress& address : lookup->addresses) {
        if (!is_own_endpoint(address, port_)) continue;
        dropped_ourselves_ = true;
        preference_end = std::min<std::uint32_t>(preference_end, host.preference);
      }
    }
  }
  // Before anything is dropped, so that a site's key does not depend on which host could be looked up just now.
  const std::string site_key = smart_host ? named_site_key(via_.host) : mx_site_key();

  bool temporary = false;
  bool refused = false;
  for (Host& host : hosts_) {
    if (host.preference >= preference_end) continue;
    std::array<std::vector<IpAddress>*, 2> families{&host.v6.addresses, &host.v4.addresses};
    for (const Lookup* lookup : {&host.v6, &host.v4}) temporary = temporary || lookup->temporary;
    for (std::vector<IpAddress>* addresses : families) {
      if (!smart_host) {
        refused =
            std::erase_if(*addresses, [this](const IpAddress& address) { return is_refused(address); }) != 0 || refused;
      }
      shuffle(*addresses, 0, addresses->size(), random);
    }
    // AAAA and A in turn, so that one broken family costs one attempt and not all of them.
    std::size_t taken = 0;
    for (std::size_t i = 0; i < std::max(families[0]->size(), families[1]->size()); ++i) {
      for (const std::vector<IpAddress>* addresses : families) {
        if (i >= addresses->size() || taken == Route::addresses_per_host_max) continue;
        if (route_.next_hops.size() == Route::next_hops_max) continue;
        ++taken;
        route_.next_hops.push_back(
            {.address = (*addresses)[i], .port = port_, .preference = host.preference, .host = host.text});
      }
    }
  }

  if (!route_.next_hops.empty()) return deliver(site_key);
  if (temporary)
    return settle(Route::Verdict::defer, 451, {4, 4, 3},
                  "Looking up the addresses of the next hop for " + (smart_host ? via_.host : domain_) + " failed");
  if (smart_host) {
    return settle(Route::Verdict::defer, 451, {4, 3, 5},
                  dropped_ourselves_ ? "The smart host " + via_.host + " is this host itself"
                                     : "The smart host " + via_.host + " has no address");
  }
  if (dropped_ourselves_)
    return settle(Route::Verdict::fail, 554, {5, 4, 6}, "Mail for " + domain_ + " loops back to us");
  if (refused)
    return settle(Route::Verdict::fail, 550, {5, 4, 4},
                  "The MX of " + domain_ + " leads to addresses that are not routable");
  settle(Route::Verdict::fail, 550, {5, 4, 4}, "No mail host of " + domain_ + " has an address");
}

void Resolution::use_address(const IpAddress& address, std::string host) {
  const bool smart_host = via_.names_hosts();
  if (is_own_endpoint(address, port_)) {
    if (smart_host)
      return settle(Route::Verdict::defer, 451, {4, 3, 5}, "The smart host " + host + " is this host itself");
    return settle(Route::Verdict::fail, 554, {5, 4, 6}, "Mail for " + domain_ + " loops back to us");
  }
  if (!smart_host && is_refused(address)) {
    return settle(Route::Verdict::fail, 550, {5, 4, 4}, host + " is not routable");
  }
  const std::string key = smart_host ? named_site_key(host) : "mx:" + host + ":" + std::to_string(port_);
  route_.next_hops.push_back({.address = address, .port = port_, .preference = 0, .host = std::move(host)});
  deliver(key);
}

bool Resolution::is_own_name(std::string_view host) const {
  // own_names is a handful of configured names; they are compared as DNS compares.
  const std::optional<dns::Name> name = dns::Name::parse(host);
  return std::any_of(options_.own_names.begin(), options_.own_names.end(),
                     [&name](const std::string& own) { return dns::Name::parse(own) == name; });
}

bool Resolution::is_own_endpoint(const IpAddress& address, std::uint16_t port) const {
  return std::any_of(options_.own_endpoints.begin(), options_.own_endpoints.end(), [&](const Endpoint& own) {
    return own.port == port && (own.address == address || (is_wildcard(own.address) && is_loopback(address)));
  });
}

bool Resolution::is_refused(const IpAddress& address) const {
  return std::any_of(options_.refuse_networks.begin(), options_.refuse_networks.end(),
                     [&address](const IpNetwork& network) { return network.contains(address); });
}

std::string Resolution::named_site_key(std::string_view host) const {
  std::string key = via_.kind == Via::Kind::lmtp ? "lmtp:" : "smtp:";
  return key.append(host).append(":").append(std::to_string(port_));
}

std::string Resolution::mx_site_key() const {
  std::vector<std::string_view> names;
  names.reserve(hosts_.size());
  for (const Host& host : hosts_) names.emplace_back(host.text);
  std::sort(names.begin(), names.end());
  std::string key = "mx:";
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i != 0) key += ',';
    key += names[i];
  }
  return key + ":" + std::to_string(port_);
}

void Resolution::deliver(std::string site_key) {
  route_.verdict = Route::Verdict::deliver;
  route_.site_key = std::move(site_key);
  if (via_.tls && via_.may_speak_tls()) {
    route_.tls = via_.tls;
    route_.site_key.append(";").append(via_.tls->to_text());
  }
  if (!via_.credentials.empty() && via_.may_authenticate()) {
    route_.credentials = via_.credentials;
    route_.site_key.append(";auth=").append(via_.credentials);
  }
  route_.site = site_id(route_.site_key, options_.site_seed);
  done_ = true;
}

void Resolution::settle(Route::Verdict verdict, mail::ReplyCode code, mail::EnhancedStatus status, std::string text) {
  route_.verdict = verdict;
  route_.reply = {.code = code, .status = status, .text = std::move(text)};
  route_.next_hops.clear();
  route_.site_key = "unresolved:" + domain_;
  route_.site = site_id(route_.site_key, options_.site_seed);
  done_ = true;
}

}  // namespace postern::route
