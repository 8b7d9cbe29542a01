#include <algorithm>
#include <charconv>
#include <limits>

#include <postern/base/check.h>
#include <postern/route/domain.h>
#include <postern/route/route_table.h>

namespace postern::route {
namespace {

constexpr std::uint32_t no_rule = std::numeric_limits<std::uint32_t>::max();
constexpr std::size_t reject_text_bytes_max = 400;
constexpr std::size_t unix_path_bytes_max = 107;  // what a sockaddr_un holds beside its NUL
constexpr std::string_view postmaster = "postmaster";

Status invalid(std::string_view text, std::string_view why) {
  return error(StatusCode::kInvalidArgument, "\"" + std::string(text) + "\": " + std::string(why));
}

// Postmaster is the one local part whose case does not matter [RFC 5321 §4.5.1].
bool is_postmaster(std::string_view local_part) {
  return std::equal(local_part.begin(), local_part.end(), postmaster.begin(), postmaster.end(),
                    [](char a, char b) { return (a >= 'A' && a <= 'Z' ? static_cast<char>(a - 'A' + 'a') : a) == b; });
}

std::string mailbox_key(std::string_view local_part, std::string_view domain) {
  std::string key(is_postmaster(local_part) ? postmaster : local_part);
  key += '@';
  key += domain;
  return key;
}

std::optional<std::uint16_t> parse_port(std::string_view text) {
  unsigned value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failure != std::errc() || end != text.data() + text.size() || value == 0 || value > 65'535) return std::nullopt;
  return static_cast<std::uint16_t>(value);
}

// HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT. Without a port via.port stays; `form`: what to write instead.
StatusOr<Via> parse_host(std::string_view whole, std::string_view target, Via via, std::string_view form) {
  std::string_view port;
  bool port_given = false;
  if (target.starts_with('[')) {
    const std::size_t close = target.find(']');
    if (close == std::string_view::npos) return invalid(whole, "']' is missing; " + std::string(form));
    std::string_view inside = target.substr(1, close - 1);
    via.address = IpAddress::parse(inside);
    if (!via.address) via.address = parse_address_literal(target.substr(0, close + 1));
    if (!via.address) return invalid(whole, "no IP address between the brackets; " + std::string(form));
    port = target.substr(close + 1);
    port_given = !port.empty();
    if (port_given && port.front() != ':') return invalid(whole, "expected \":PORT\" behind ']'; " + std::string(form));
    if (port_given) port.remove_prefix(1);
  } else {
    const std::size_t colon = target.find(':');
    if (colon != std::string_view::npos && target.find(':', colon + 1) != std::string_view::npos) {
      return invalid(whole, "an IPv6 address stands in brackets; " + std::string(form));
    }
    const std::string_view host = target.substr(0, colon);
    port_given = colon != std::string_view::npos;
    if (port_given) port = target.substr(colon + 1);
    via.address = IpAddress::parse(host);
    if (!via.address) {
      StatusOr<std::string> name = normalise_domain(host);
      if (!name.ok()) return invalid(whole, std::string(message_of(name.status())) + "; " + std::string(form));
      // As a name, an address may have had a dot behind it or digits of other scripts.
      via.address = IpAddress::parse(*name);
      if (!via.address) via.host = *std::move(name);
    }
  }
  if (port_given) {
    const std::optional<std::uint16_t> number = parse_port(port);
    if (!number) return invalid(whole, "the port must be 1 to 65535; " + std::string(form));
    via.port = *number;
  }
  return via;
}

StatusOr<Via> parse_smtp(std::string_view whole, std::string_view target) {
  return parse_host(whole, target, {.kind = Via::Kind::smtp, .port = Via::smtp_port_default},
                    "write smtp:HOST, smtp:HOST:PORT or smtp:[ADDRESS]:PORT");
}

StatusOr<Via> parse_lmtp(std::string_view whole, std::string_view target) {
  constexpr std::string_view form = "write lmtp:unix:/PATH, lmtp:HOST:PORT or lmtp:[ADDRESS]:PORT";
  constexpr std::string_view unix_prefix = "unix:";
  if (target.starts_with(unix_prefix)) {
    const std::string_view path = target.substr(unix_prefix.size());
    if (!path.starts_with('/')) return invalid(whole, "the socket's path must be absolute; " + std::string(form));
    if (path.size() > unix_path_bytes_max) return invalid(whole, "a socket's path has at most 107 bytes");
    if (std::any_of(path.begin(), path.end(), [](char c) { return static_cast<std::uint8_t>(c) < 0x20; })) {
      return invalid(whole, "the path holds a control character");
    }
    return Via{.kind = Via::Kind::lmtp, .unix_path = std::string(path)};
  }
  StatusOr<Via> via = parse_host(whole, target, {.kind = Via::Kind::lmtp}, form);
  if (via.ok() && via->port == 0) return invalid(whole, "LMTP has no usual port; " + std::string(form));
  return via;
}

StatusOr<Via> parse_maildir(std::string_view whole, std::string_view path) {
  if (path.empty()) return invalid(whole, "the path is missing; write maildir:/srv/mail/{local}");
  if (std::any_of(path.begin(), path.end(), [](char c) { return static_cast<std::uint8_t>(c) < 0x20; })) {
    return invalid(whole, "the path holds a control character");
  }
  for (std::size_t at = path.find_first_of("{}"); at != std::string_view::npos; at = path.find_first_of("{}", at)) {
    const std::size_t close = path.find('}', at);
    const std::string_view mark = path.substr(at, close == std::string_view::npos ? close : close - at + 1);
    if (mark != "{local}" && mark != "{domain}") return invalid(whole, "only {local} and {domain} can stand in braces");
    at += mark.size();
  }
  return Via{.kind = Via::Kind::maildir, .text = std::string(path)};
}

StatusOr<Via> parse_reject(std::string_view whole, std::string_view text) {
  if (text.empty()) return invalid(whole, "what to say is missing; write reject:TEXT");
  if (text.size() > reject_text_bytes_max) return invalid(whole, "the text is over 400 bytes long");
  if (!std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7F; })) {
    return invalid(whole, "the text must be one line of printable ASCII");
  }
  return Via{.kind = Via::Kind::reject, .text = std::string(text)};
}

}  // namespace

std::string Via::to_text() const {
  switch (kind) {
    case Kind::mx:
      return "mx";
    case Kind::smtp: {
      std::string target = address ? address->to_string() : host;
      if (address) target = "[" + target + "]";
      return "smtp:" + target + ":" + std::to_string(port);
    }
    case Kind::lmtp: {
      if (!unix_path.empty()) return "lmtp:unix:" + unix_path;
      std::string target = address ? address->to_string() : host;
      if (address) target = "[" + target + "]";
      return "lmtp:" + target + ":" + std::to_string(port);
    }
    case Kind::maildir:
      return "maildir:" + text;
    case Kind::discard:
      return "discard";
    case Kind::reject:
      return "reject:" + text;
  }
  return "?";
}

StatusOr<Match> parse_match(std::string_view text) {
  if (text == "*") return Match{};
  Match match;
  std::string_view domain = text;
  if (text.starts_with('.')) {
    match.kind = Match::Kind::subdomains;
    domain.remove_prefix(1);
  } else if (const std::size_t at = text.rfind('@'); at != std::string_view::npos) {
    match.kind = Match::Kind::mailbox;
    match.local_part = unquote_local_part(text.substr(0, at));
    domain = text.substr(at + 1);
    if (match.local_part.empty())
      return invalid(text, "nothing before the '@'; write user@example.net, or example.net for all of it");
  } else {
    match.kind = Match::Kind::domain;
  }
  StatusOr<std::string> normalised = normalise_domain(domain);
  if (!normalised.ok() || (match.kind == Match::Kind::subdomains && normalised->starts_with('['))) {
    return invalid(text, "write a domain, .domain for what lies below it, user@domain, or *");
  }
  match.domain = *std::move(normalised);
  return match;
}

StatusOr<Via> parse_via(std::string_view text) {
  if (text == "mx") return Via{.kind = Via::Kind::mx};
  if (text == "discard") return Via{.kind = Via::Kind::discard};
  const std::size_t colon = text.find(':');
  const std::string_view word = text.substr(0, colon);
  const std::string_view rest = colon == std::string_view::npos ? std::string_view() : text.substr(colon + 1);
  if (word == "smtp") return parse_smtp(text, rest);
  if (word == "lmtp") return parse_lmtp(text, rest);
  if (word == "maildir") return parse_maildir(text, rest);
  if (word == "reject") return parse_reject(text, rest);
  return invalid(
      text,
      "unknown way; write mx, smtp:HOST:PORT, lmtp:unix:/PATH, lmtp:HOST:PORT, maildir:PATH, discard or reject:TEXT");
}

RouteTable::RouteTable(std::vector<RouteRule> rules, std::string_view local_domain)
    : rules_(std::move(rules)), local_domain_(normalise_domain(local_domain).value_or("")), any_(no_rule) {
  POSTERN_CHECK(rules_.size() < no_rule);
  for (std::uint32_t i = 0; i < rules_.size(); ++i) {
    const Match& match = rules_[i].match;
    // try_emplace keeps the earlier rule: the first match wins.
    switch (match.kind) {
      case Match::Kind::domain:
        domains_.try_emplace(match.domain, i);
        break;
      case Match::Kind::subdomains:
        subdomains_.try_emplace(match.domain, i);
        break;
      case Match::Kind::mailbox:
        mailboxes_.try_emplace(mailbox_key(match.local_part, match.domain), i);
        break;
      case Match::Kind::any:
        any_ = std::min(any_, i);
        break;
    }
  }
}

const Via& RouteTable::find(std::string_view local_part, std::string_view normalised_domain) const {
  std::uint32_t best = any_;
  const auto consider = [&best](const TextMap<std::uint32_t>& map, std::string_view key) {
    if (const auto found = map.find(key); found != map.end()) best = std::min(best, found->second);
  };
  if (!normalised_domain.empty()) {
    if (!mailboxes_.empty()) consider(mailboxes_, mailbox_key(local_part, normalised_domain));
    if (!domains_.empty()) consider(domains_, normalised_domain);
    if (!subdomains_.empty()) {
      for (std::size_t dot = normalised_domain.find('.'); dot != std::string_view::npos;
           dot = normalised_domain.find('.', dot + 1)) {
        consider(subdomains_, normalised_domain.substr(dot + 1));
      }
    }
  }
  return best == no_rule ? default_ : rules_[best].via;
}

const Via& RouteTable::find(const mail::PathView& forward_path) const {
  const std::string_view domain = forward_path.domain();
  const std::string local_part = unquote_local_part(forward_path.local_part());
  if (domain.empty()) return find(local_part, local_domain_);
  return find(local_part, normalise_domain(domain).value_or(""));
}

}  // namespace postern::route
