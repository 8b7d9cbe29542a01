// What XCLIENT and XFORWARD say of a client that a listed peer stands in front of [postfix.org, XCLIENT_README,
// XFORWARD_README]. Grammar only; whether the peer may say so is the session's options, what follows from it the
// driver's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <postern/base/ip.h>

namespace postern::smtp {

enum class IdentityCommand : std::uint8_t { xclient, xforward };

// The attributes that EHLO shows behind the command's name.
[[nodiscard]] std::string_view attributes_of(IdentityCommand command);

// Attributes not given keep what they were. An unavailable one ("[UNAVAILABLE]", "[TEMPUNAVAIL]") is given and empty.
struct ClientIdentity {
  bool address_given = false;
  std::optional<IpAddress> address;
  std::optional<std::uint16_t> port;
  std::optional<std::string> hello_name;
  std::optional<std::string> login;  // XCLIENT: the client is authenticated as this; empty: it is not
  std::optional<bool> esmtp;         // PROTO
};

// `arguments`: "NAME=value" words, values in xtext, at least one. NAME, DESTADDR, DESTPORT, IDENT and SOURCE are read
// and not kept: nothing here depends on them. False, with `identity` in any state, for an attribute that the command
// does not have or a value that is none.
[[nodiscard]] bool read_client_identity(IdentityCommand command, std::string_view arguments, ClientIdentity& identity);

}  // namespace postern::smtp
