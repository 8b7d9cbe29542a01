// Domains as routes and sites compare them: lower-case A-labels, or an address literal.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <postern/base/ip.h>
#include <postern/base/status.h>
#include <postern/mail/envelope.h>

namespace postern::route {

// Lower-case; U-labels become A-labels [RFC 5891], a final dot goes; an address literal is written canonically
// ("[192.0.2.1]", "[IPv6:2001:db8::1]"). kInvalidArgument: neither a domain nor an address literal [RFC 5321 §4.1.2].
// ASCII input costs one pass and one string.
[[nodiscard]] StatusOr<std::string> normalise_domain(std::string_view domain);

// The address in "[192.0.2.1]" or "[IPv6:…]" [RFC 5321 §4.1.3]; nullopt for all else.
[[nodiscard]] std::optional<IpAddress> parse_address_literal(std::string_view text);

// The local part as its owner means it: a quoted string without its quotes and backslashes, else as it stands. Case is
// kept.
[[nodiscard]] std::string unquote_local_part(std::string_view local_part);

}  // namespace postern::route
