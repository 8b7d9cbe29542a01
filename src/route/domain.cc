#include <algorithm>
#include <cstdint>
#include <idn2.h>
#include <memory>

#include <postern/dns/name.h>
#include <postern/route/domain.h>

namespace postern::route {
namespace {

constexpr char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

constexpr bool is_letter_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

// Domains come from peers: what is quoted into a message must stay one short line of ASCII.
std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text.substr(0, 80)) result += c >= 0x20 && c < 0x7F ? c : '?';
  result += text.size() > 80 ? "…\"" : "\"";
  return result;
}

bool starts_with_ignoring_case(std::string_view text, std::string_view lower_prefix) {
  return text.size() >= lower_prefix.size() && std::equal(lower_prefix.begin(), lower_prefix.end(), text.begin(),
                                                          [](char a, char b) { return a == lower(b); });
}

// Letters, digits, hyphens (not at an end) and underscores, which RFC 5321 lacks and the world uses. Lower case.
Status check_ascii_domain(std::string_view domain) {
  constexpr std::size_t domain_bytes_max = dns::Name::wire_bytes_max - 2;  // a length octet in front, the root's behind
  if (domain.empty()) return error(StatusCode::kInvalidArgument, "the domain is empty");
  if (domain.size() > domain_bytes_max)
    return error(StatusCode::kInvalidArgument, quoted(domain) + ": over 253 bytes long");
  std::string_view rest = domain;
  while (true) {
    const std::string_view label = rest.substr(0, rest.find('.'));
    if (label.empty()) return error(StatusCode::kInvalidArgument, quoted(domain) + ": has an empty label");
    if (label.size() > dns::Name::label_bytes_max) {
      return error(StatusCode::kInvalidArgument, quoted(domain) + ": has a label of over 63 bytes");
    }
    const bool characters_fit =
        std::all_of(label.begin(), label.end(), [](char c) { return is_letter_or_digit(c) || c == '-' || c == '_'; });
    if (!characters_fit || label.front() == '-' || label.back() == '-') {
      return error(StatusCode::kInvalidArgument, quoted(domain) + ": not a domain name");
    }
    if (label.size() == rest.size()) return OkStatus();
    rest.remove_prefix(label.size() + 1);
  }
}

}  // namespace

std::optional<IpAddress> parse_address_literal(std::string_view text) {
  if (text.size() < 2 || text.front() != '[' || text.back() != ']') return std::nullopt;
  std::string_view inside = text.substr(1, text.size() - 2);
  constexpr std::string_view v6_tag = "ipv6:";
  const bool v6 = starts_with_ignoring_case(inside, v6_tag);
  if (v6) inside.remove_prefix(v6_tag.size());
  const std::optional<IpAddress> address = IpAddress::parse(inside);
  const bool written_as_v6 = inside.find(':') != std::string_view::npos;
  return address && written_as_v6 == v6 ? address : std::nullopt;
}

StatusOr<std::string> normalise_domain(std::string_view domain) {
  if (domain.starts_with('[')) {
    const std::optional<IpAddress> address = parse_address_literal(domain);
    if (!address) return error(StatusCode::kInvalidArgument, quoted(domain) + ": not an address literal");
    return address->to_address_literal();
  }
  if (domain.ends_with('.')) domain.remove_suffix(1);
  std::string result(domain);
  const bool ascii =
      std::all_of(result.begin(), result.end(), [](char c) { return static_cast<std::uint8_t>(c) < 0x80; });
  if (ascii) {
    std::transform(result.begin(), result.end(), result.begin(), lower);
  } else {
    if (domain.size() > 1024 || domain.find('\0') != std::string_view::npos) {
      return error(StatusCode::kInvalidArgument, quoted(domain) + ": not an internationalised domain name");
    }
    char* a_labels = nullptr;
    const int failure = idn2_to_ascii_8z(result.c_str(), &a_labels, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
    if (failure != IDN2_OK) {
      return error(StatusCode::kInvalidArgument,
                   quoted(domain) + ": not an internationalised domain name: " + idn2_strerror(failure));
    }
    result = a_labels;
    idn2_free(a_labels);
    if (result.ends_with('.')) result.pop_back();
    std::transform(result.begin(), result.end(), result.begin(), lower);
  }
  POSTERN_RETURN_IF_ERROR(check_ascii_domain(result));
  return result;
}

std::string unquote_local_part(std::string_view local_part) {
  if (local_part.size() < 2 || local_part.front() != '"' || local_part.back() != '"') return std::string(local_part);
  const std::string_view inside = local_part.substr(1, local_part.size() - 2);
  std::string result;
  result.reserve(inside.size());
  for (std::size_t i = 0; i < inside.size(); ++i) {
    if (inside[i] == '\\' && i + 1 < inside.size()) ++i;
    result.push_back(inside[i]);
  }
  return result;
}

}  // namespace postern::route
