// Values of the parameters that extensions add to MAIL and RCPT. Private to command.cc, which knows their names.
#pragma once

#include <string_view>

#include <postern/mail/envelope.h>

namespace postern::smtp {

// RET: "FULL" or "HDRS" [RFC 3461 §4.3]; else unspecified.
[[nodiscard]] mail::DsnReturn parse_dsn_return(std::string_view value);

// NOTIFY: "NEVER" alone, or a list of the others [RFC 3461 §4.1]; empty bits for anything else.
[[nodiscard]] mail::Notify parse_notify(std::string_view value);

}  // namespace postern::smtp
