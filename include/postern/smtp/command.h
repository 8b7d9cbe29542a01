// Reading of command lines [RFC 5321 §4.1.1, RFC 3030 §2, RFC 1870, RFC 3461 §4, RFC 4865, RFC 6152,
// RFC 4954 §5, RFC 6531, RFC 6710, RFC 2852, RFC 8689].
//
// Grammar only: whether a command is in order, offered or permitted is the session's to say. Everything is a view into
// the line. Driven by smtp/server_session.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include <postern/base/time.h>
#include <postern/mail/envelope.h>
#include <postern/smtp/path.h>

namespace postern::smtp {

enum class Verb : std::uint8_t {
  helo,
  ehlo,
  lhlo,
  mail,
  rcpt,
  data,
  bdat,
  rset,
  noop,
  vrfy,
  help,
  quit,
  expn,
  starttls,
  auth,
  turn,
  etrn,
  xclient,
  xforward,
  send,
  soml,
  saml,  // known, not implemented
  unknown,
};

struct Command {
  Verb verb = Verb::unknown;
  std::string_view arguments;  // behind the verb, without white space at either end
};

// `line` without its CRLF. The verb ends at the first space or tab and is read without regard to case.
[[nodiscard]] Command parse_command(std::string_view line);

// Commands that can only be the last of a pipelined group [RFC 2920 §3.1, RFC 3207 §4, RFC 4954 §4]: input behind one
// of them, before its reply was sent, is no honest client's. HELO stands with EHLO.
[[nodiscard]] constexpr bool ends_pipelining_group(Verb verb) {
  switch (verb) {
    case Verb::helo:
    case Verb::ehlo:
    case Verb::lhlo:
    case Verb::data:
    case Verb::noop:
    case Verb::vrfy:
    case Verb::quit:
    case Verb::expn:
    case Verb::starttls:
    case Verb::auth:
    case Verb::turn:
    case Verb::etrn:
    case Verb::xclient:  // what follows is the session of another client
      return true;
    default:
      return false;
  }
}

// Commands whose replies may be kept until their group has been read [RFC 2920 §3.2, RFC 3030 §4.2].
[[nodiscard]] constexpr bool is_answered_with_its_group(Verb verb) {
  return verb == Verb::mail || verb == Verb::rcpt || verb == Verb::rset || verb == Verb::bdat;
}

enum class ArgumentError : std::uint8_t {
  none,
  syntax,             // not the command's form, or a parameter's value is wrong: 501 5.5.4
  path,               // no path, or one this command does not take: 501 5.1.7 (MAIL), 501 5.1.3 (RCPT)
  eight_bit,          // 8-bit in the path without SMTPUTF8: 553 5.6.7
  unknown_parameter,  // 555 5.5.4
};

// Which parameters were offered in the session; one that was not is an unknown one.
struct OfferedParameters {
  bool size = false;
  bool eight_bit_mime = false;
  bool binary_mime = false;  // beside eight_bit_mime
  bool smtp_utf8 = false;
  bool dsn = false;
  bool mt_priority = false;
  bool future_release = false;
  bool auth = false;
  bool deliver_by = false;
  bool require_tls = false;
};

struct MailArguments {
  ArgumentError error = ArgumentError::none;
  mail::PathView reverse_path;  // may be null
  std::uint64_t size = 0;       // SIZE=, up to 20 digits; what 64 bits do not hold is UINT64_MAX. 0: not given
  mail::BodyType body = mail::BodyType::seven_bit;
  bool smtp_utf8 = false;
  mail::DsnReturn dsn_return = mail::DsnReturn::unspecified;  // RET=
  std::string_view envelope_id;                               // ENVID=, still xtext; empty: not given
  std::int8_t priority = 0;                                   // MT-PRIORITY=, −9…9
  std::optional<Duration> hold_for;                           // HOLDFOR=, 0 … 999,999,999 seconds
  WallTime hold_until{};                                      // HOLDUNTIL=; epoch: not given
  std::string_view submitter;                                 // AUTH=, still xtext, or "<>"; empty: not given
  std::optional<mail::DeliverBy> deliver_by;                  // BY=
  bool require_tls = false;                                   // REQUIRETLS
};

// `arguments` of MAIL: "FROM:<path> [SP parameters]". White space behind the colon is tolerated, as everyone does.
// A parameter given twice is a syntax error.
[[nodiscard]] MailArguments parse_mail_arguments(std::string_view arguments, OfferedParameters offered);

struct RecipientArguments {
  ArgumentError error = ArgumentError::none;
  mail::PathView forward_path;          // never null; without a domain only for postmaster
  mail::Notify notify;                  // NOTIFY=
  std::string_view original_recipient;  // ORCPT= as given; empty: not given
};

// `arguments` of RCPT: "TO:<path> [SP parameters]". `offered.smtp_utf8`: the transaction's MAIL asked for it.
[[nodiscard]] RecipientArguments parse_recipient_arguments(std::string_view arguments, OfferedParameters offered);

struct ChunkArguments {
  bool valid = false;
  bool last = false;
  std::uint64_t size = 0;  // up to 20 digits; what 64 bits do not hold is UINT64_MAX
};

// `arguments` of BDAT: "chunk-size [SP LAST]" [RFC 3030 §2].
[[nodiscard]] ChunkArguments parse_chunk_arguments(std::string_view arguments);

// The name behind HELO or EHLO: one word of 1…255 visible ASCII characters. It is what the peer says of itself and may
// be anything; it is not looked up, and what does not look like a domain is not refused [RFC 5321 §4.1.4].
[[nodiscard]] bool is_hello_name(std::string_view text);

}  // namespace postern::smtp
