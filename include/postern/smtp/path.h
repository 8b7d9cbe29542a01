// Reading of reverse-paths and forward-paths as they stand in MAIL and RCPT [RFC 5321 §4.1.2, RFC 6531 §3.3].
//
// Not a reader of header fields: no comments, no folding white space, no display names. Pure functions on views;
// nothing is copied, folded or lowercased. Driven by smtp/command.cc; configuration and DSN code may use
// parse_mailbox().
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include <postern/mail/envelope.h>

namespace postern::smtp {

// A path with its angle brackets has at most 256 octets [RFC 5321 §4.5.3.1.3]. The 64 octets of a local part
// (§4.5.3.1.1) are exceeded by real senders (VERP, SRS) and are not enforced; the path's bound holds everything.
inline constexpr std::size_t path_bytes_max = 256;
inline constexpr std::size_t mailbox_bytes_max = path_bytes_max - 2;
inline constexpr std::size_t domain_bytes_max = 255;  // [RFC 5321 §4.5.3.1.2]
inline constexpr std::size_t domain_label_bytes_max = 63;
static_assert(mailbox_bytes_max <= UINT16_MAX, "PathView::domain_offset is 16 bits wide");

struct Path {
  mail::PathView mailbox;      // a view into what was parsed; without brackets and source route
  bool has_eight_bit = false;  // well-formed UTF-8 beyond ASCII: needs SMTPUTF8
  std::size_t consumed = 0;    // bytes up to and with '>'
};

// Reads the path at the start of `text`: "<" [source route ":"] mailbox ">"; what follows '>' is left to the caller.
// `<>` is read as a null mailbox, `<postmaster>` (any case) as one without a domain; which command allows which is the
// caller's to say. nullopt: no path by the grammar, longer than path_bytes_max (a source route is not counted: the
// command line bounds it), or 8-bit bytes that are not UTF-8.
[[nodiscard]] std::optional<Path> parse_path(std::string_view text);

// The same for a bare `local-part@domain` that is all of `text`; neither null nor postmaster without a domain.
[[nodiscard]] std::optional<Path> parse_mailbox(std::string_view text);

// A domain as names are written in mail: dot-separated labels of letters, digits, '-' and '_' (the last is none of the
// RFC's but in use) that neither begin nor end with '-'; UTF-8 labels are allowed when `allow_utf8`. No trailing dot.
[[nodiscard]] bool is_domain(std::string_view text, bool allow_utf8);

// "[192.0.2.1]" or "[IPv6:2001:db8::1]" [RFC 5321 §4.1.3]. No other tag was ever registered, so none is taken.
[[nodiscard]] bool is_address_literal(std::string_view text);

}  // namespace postern::smtp
