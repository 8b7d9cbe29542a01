// Values of the parameters that extensions add to MAIL and RCPT. Private to command.cc, which knows their names.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include <postern/base/time.h>
#include <postern/mail/envelope.h>

namespace postern::smtp {

// RET: "FULL" or "HDRS" [RFC 3461 §4.3]; else unspecified.
[[nodiscard]] mail::DsnReturn parse_dsn_return(std::string_view value);

// NOTIFY: "NEVER" alone, or a list of the others [RFC 3461 §4.1]; empty bits for anything else.
[[nodiscard]] mail::Notify parse_notify(std::string_view value);

// MT-PRIORITY: "0", or one digit with or without a minus [RFC 6710 §3].
[[nodiscard]] std::optional<std::int8_t> parse_priority(std::string_view value);

// HOLDFOR: 1…9 digits, seconds [RFC 4865 §5].
[[nodiscard]] std::optional<Duration> parse_hold_for(std::string_view value);

// BY: an optional sign, 1…9 digits, ";", "R" or "N", perhaps "T"; nothing but what is above 0 for R [RFC 2852 §4].
[[nodiscard]] std::optional<mail::DeliverBy> parse_deliver_by(std::string_view value);

}  // namespace postern::smtp
