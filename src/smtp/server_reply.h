// Pieces of the server session's replies. Private to its three .cc files.
#pragma once

#include <cstdint>
#include <string>

#include <postern/mail/reply.h>

namespace postern::smtp {

// In decimal, without a temporary string.
void append_number(std::string& out, std::uint64_t value);

// `reply` with code and status before each line of its text, cut and cleaned to what may leave: printable ASCII, at
// most reply_text_lines_max lines of reply_text_line_max bytes. The code is 4xx or 5xx; a status of another class than
// the code's takes that one [RFC 2034 §4].
void append_reply(std::string& out, const mail::Reply& reply);

}  // namespace postern::smtp
