#include <algorithm>
#include <array>

#include <postern/base/text.h>
#include <postern/policy/relay_policy.h>
#include <postern/route/domain.h>

namespace postern::policy {
namespace {

constexpr std::size_t domain_bytes_max = 255;  // [RFC 5321 §4.5.3.1.2]

std::string_view without_final_dot(std::string_view domain) {
  if (domain.size() > 1 && domain.ends_with('.')) domain.remove_suffix(1);
  return domain;
}

// `domain` in lower case, in `buffer`: no allocation per look-up. Empty when it is too long to be one.
std::string_view lowered(std::string_view domain, std::array<char, domain_bytes_max>& buffer) {
  domain = without_final_dot(domain);
  if (domain.size() > buffer.size()) return {};
  std::transform(domain.begin(), domain.end(), buffer.begin(), to_ascii_lower);
  return {buffer.data(), domain.size()};
}

bool is_plausible(std::string_view domain) {
  if (domain.empty() || domain.size() > domain_bytes_max) return false;
  if (domain.starts_with('[')) return domain.ends_with(']');
  if (domain.starts_with('.') || domain.ends_with('.') || domain.find("..") != std::string_view::npos) return false;
  return std::none_of(domain.begin(), domain.end(), [](char c) {
    return static_cast<unsigned char>(c) <= ' ' || c == '@' || c == '*' || c == '/' || c == '\x7F';
  });
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// The part behind the first dot; empty when there is none.
std::string_view parent_of(std::string_view domain) {
  const std::size_t dot = domain.find('.');
  return dot == std::string_view::npos ? std::string_view{} : domain.substr(dot + 1);
}

}  // namespace

bool NetworkSet::contains(const IpAddress& address) const {
  return std::any_of(networks_.begin(), networks_.end(),
                     [&](const IpNetwork& network) { return network.contains(address); });
}

StatusOr<RelayPolicy> RelayPolicy::make(std::span<const std::string> accept, std::string_view hostname) {
  RelayPolicy policy;
  std::string first;
  for (const std::string& entry : accept) {
    const bool tree = entry.starts_with('.');
    std::string domain = to_lower(without_final_dot(std::string_view(entry).substr(tree ? 1 : 0)));
    if (!is_ascii(domain)) domain = route::normalise_domain(domain).value_or("");
    if (!is_plausible(domain) || (tree && domain.starts_with('['))) {
      return error(StatusCode::kInvalidArgument,
                   "\"" + entry + "\" is no domain; write example.test, or .example.test to include its subdomains");
    }
    (tree ? policy.trees_ : policy.domains_).insert(domain);
    if (first.empty()) first = domain;
  }
  std::string own = to_lower(without_final_dot(hostname));
  std::string_view nearest = own;
  while (!nearest.empty() && !policy.accepts_domain(nearest)) nearest = parent_of(nearest);
  policy.postmaster_domain_ = !nearest.empty() ? std::string(nearest) : !first.empty() ? first : std::move(own);
  return policy;
}

Verdict RelayPolicy::judge_recipient(const PeerFacts& peer, const mail::PathView& forward_path,
                                     VerdictTicket /*ticket: this policy never needs time*/) const {
  if (peer.may_relay) return Verdict::accepted();
  const std::string_view domain = forward_path.domain();
  if (domain.empty() && equal_ignoring_case(forward_path.local_part(), "postmaster")) return Verdict::accepted();
  if (accepts_domain(domain)) return Verdict::accepted();
  return Verdict::refused(550, {5, 7, 1}, "Relaying denied");
}

bool RelayPolicy::accepts_domain(std::string_view domain) const {
  if (!is_ascii(domain)) {
    const StatusOr<std::string> a_labels = route::normalise_domain(domain);
    return a_labels.ok() && accepts_domain(*a_labels);
  }
  std::array<char, domain_bytes_max> buffer{};
  const std::string_view name = lowered(domain, buffer);
  if (name.empty()) return false;
  if (domains_.contains(name)) return true;
  if (trees_.empty() || name.starts_with('[')) return false;
  for (std::string_view above = name; !above.empty(); above = parent_of(above)) {
    if (trees_.contains(above)) return true;
  }
  return false;
}

}  // namespace postern::policy
