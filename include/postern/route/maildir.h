// From a Maildir route's template to one recipient's folder, refusing names that could lead anywhere else.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <postern/base/status.h>
#include <postern/mail/envelope.h>

namespace postern::route {

inline constexpr std::size_t maildir_name_bytes_max = 200;

// OK when `name` may stand as one path component: 1…200 bytes, no '/', no control byte, no leading dot, no "..".
[[nodiscard]] Status check_maildir_name(std::string_view name);

// Replaces {local} by the local part (unquoted) and {domain} by the domain (address literals with their brackets), both
// with their case. Nothing is ever rewritten: kInvalidArgument when a name that the template uses is not safe, which is
// a reply 550 5.1.1 to RCPT and a failed recipient with 5.1.1 later on.
[[nodiscard]] StatusOr<std::string> expand_maildir(std::string_view path_template, const mail::PathView& forward_path);

}  // namespace postern::route
