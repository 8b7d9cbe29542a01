// Command lines, read as views. Verbs are compared as numbers: a command costs no search through a table of texts.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

#include <postern/base/date.h>
#include <postern/base/text.h>
#include <postern/mail/xtext.h>
#include <postern/smtp/command.h>

#include "extension_parameters.h"

namespace postern::smtp {
namespace {

constexpr std::uint64_t pack(std::string_view word) {
  std::uint64_t packed = 0;
  for (const char c : word) packed = packed << 8 | static_cast<std::uint8_t>(to_ascii_upper(c));
  return packed;
}

constexpr bool is_white(char c) {
  return c == ' ' || c == '\t';
}

// Takes the first word off `text`, with the white space behind it.
std::string_view take_word(std::string_view& text) {
  std::size_t size = 0;
  while (size < text.size() && !is_white(text[size])) ++size;
  const std::string_view word = text.substr(0, size);
  text.remove_prefix(size);
  while (!text.empty() && is_white(text.front())) text.remove_prefix(1);
  return word;
}

// 1…20 digits [RFC 1870 §4, RFC 3030 §2]; beyond 64 bits the answer is the largest number: too much for any limit.
std::optional<std::uint64_t> parse_size(std::string_view text) {
  if (text.empty() || text.size() > 20 || !std::all_of(text.begin(), text.end(), is_ascii_digit)) return std::nullopt;
  return parse_uint<std::uint64_t>(text).value_or(std::numeric_limits<std::uint64_t>::max());
}

// Takes `keyword` and the white space behind it off `arguments`; false when it does not begin so.
bool take_keyword(std::string_view& arguments, std::string_view keyword) {
  if (!starts_with_ignoring_case(arguments, keyword)) return false;
  arguments.remove_prefix(keyword.size());
  while (!arguments.empty() && is_white(arguments.front())) arguments.remove_prefix(1);
  return true;
}

// Takes the path off `arguments`; nullopt also when what follows is not separated by white space.
std::optional<Path> take_path(std::string_view& arguments) {
  const std::optional<Path> path = parse_path(arguments);
  if (!path) return std::nullopt;
  arguments.remove_prefix(path->consumed);
  if (!arguments.empty() && !is_white(arguments.front())) return std::nullopt;
  while (!arguments.empty() && is_white(arguments.front())) arguments.remove_prefix(1);
  return path;
}

// A parameter as it stands in MAIL and RCPT: "NAME" or "NAME=value".
struct Parameter {
  std::string_view name;
  std::string_view value;
  bool has_value = false;

  explicit Parameter(std::string_view word) {
    const std::size_t equals = word.find('=');
    has_value = equals != std::string_view::npos;
    name = word.substr(0, equals);
    if (has_value) value = word.substr(equals + 1);
  }
  [[nodiscard]] bool is(std::string_view keyword) const { return equal_ignoring_case(name, keyword); }
};

class MailParameters {
 public:
  MailParameters(MailArguments& result, OfferedParameters offered) : result_(result), offered_(offered) {}

  [[nodiscard]] ArgumentError take(std::string_view word) {
    const Parameter parameter(word);
    const std::string_view value = parameter.value;
    if (offered_.size && parameter.is("SIZE")) {
      const std::optional<std::uint64_t> size = parse_size(value);
      if (size_given_ || !size) return ArgumentError::syntax;
      size_given_ = true;
      result_.size = *size;
      return ArgumentError::none;
    }
    if (offered_.eight_bit_mime && parameter.is("BODY")) {
      if (body_given_) return ArgumentError::syntax;
      body_given_ = true;
      if (equal_ignoring_case(value, "7BIT")) return ArgumentError::none;
      if (equal_ignoring_case(value, "8BITMIME")) {
        result_.body = mail::BodyType::eight_bit_mime;
        return ArgumentError::none;
      }
      if (!equal_ignoring_case(value, "BINARYMIME")) return ArgumentError::syntax;
      result_.body = mail::BodyType::binary_mime;
      return offered_.binary_mime ? ArgumentError::none : ArgumentError::unknown_parameter;
    }
    if (offered_.smtp_utf8 && parameter.is("SMTPUTF8")) {
      if (result_.smtp_utf8 || parameter.has_value) return ArgumentError::syntax;  // [RFC 6531 §3.4]: it takes no value
      result_.smtp_utf8 = true;
      return ArgumentError::none;
    }
    if (offered_.dsn && parameter.is("RET")) {
      if (result_.dsn_return != mail::DsnReturn::unspecified) return ArgumentError::syntax;
      result_.dsn_return = parse_dsn_return(value);
      return result_.dsn_return == mail::DsnReturn::unspecified ? ArgumentError::syntax : ArgumentError::none;
    }
    if (offered_.dsn && parameter.is("ENVID")) {
      if (!result_.envelope_id.empty() || !mail::is_envelope_id(value)) return ArgumentError::syntax;
      result_.envelope_id = value;
      return ArgumentError::none;
    }
    if (offered_.mt_priority && parameter.is("MT-PRIORITY")) {
      const std::optional<std::int8_t> priority = parse_priority(value);
      if (priority_given_ || !priority) return ArgumentError::syntax;
      priority_given_ = true;
      result_.priority = *priority;
      return ArgumentError::none;
    }
    if (offered_.future_release && parameter.is("HOLDFOR")) {
      const std::optional<Duration> wait = parse_hold_for(value);
      if (hold_given_ || !wait) return ArgumentError::syntax;
      hold_given_ = true;
      result_.hold_for = wait;
      return ArgumentError::none;
    }
    if (offered_.future_release && parameter.is("HOLDUNTIL")) {
      const std::optional<WallTime> until = parse_rfc3339(value);
      if (hold_given_ || !until) return ArgumentError::syntax;
      hold_given_ = true;
      result_.hold_until = *until;
      return ArgumentError::none;
    }
    if (offered_.deliver_by && parameter.is("BY")) {
      if (result_.deliver_by) return ArgumentError::syntax;
      result_.deliver_by = parse_deliver_by(value);
      return result_.deliver_by ? ArgumentError::none : ArgumentError::syntax;
    }
    if (offered_.require_tls && parameter.is("REQUIRETLS")) {
      if (result_.require_tls || parameter.has_value) return ArgumentError::syntax;
      result_.require_tls = true;
      return ArgumentError::none;
    }
    if (offered_.auth && parameter.is("AUTH")) {
      if (!result_.submitter.empty() || value.empty() || (value != "<>" && !mail::is_xtext(value))) {
        return ArgumentError::syntax;
      }
      result_.submitter = value;
      return ArgumentError::none;
    }
    return ArgumentError::unknown_parameter;
  }

 private:
  MailArguments& result_;
  OfferedParameters offered_;
  bool size_given_ = false;
  bool body_given_ = false;
  bool priority_given_ = false;
  bool hold_given_ = false;  // HOLDFOR or HOLDUNTIL: one of them [RFC 4865 §4]
};

ArgumentError take_recipient_parameter(const Parameter& parameter, OfferedParameters offered,
                                       RecipientArguments& result) {
  if (offered.dsn && parameter.is("NOTIFY")) {
    if (result.notify.bits != 0) return ArgumentError::syntax;
    result.notify = parse_notify(parameter.value);
    return result.notify.bits == 0 ? ArgumentError::syntax : ArgumentError::none;
  }
  if (offered.dsn && parameter.is("ORCPT")) {
    if (!result.original_recipient.empty() || !mail::is_original_recipient(parameter.value, offered.smtp_utf8)) {
      return ArgumentError::syntax;
    }
    result.original_recipient = parameter.value;
    return ArgumentError::none;
  }
  return ArgumentError::unknown_parameter;
}

Verb verb_of(std::string_view word) {
  switch (word.size() <= 8 ? pack(word) : 0) {
    case pack("HELO"):
      return Verb::helo;
    case pack("EHLO"):
      return Verb::ehlo;
    case pack("LHLO"):
      return Verb::lhlo;
    case pack("MAIL"):
      return Verb::mail;
    case pack("RCPT"):
      return Verb::rcpt;
    case pack("DATA"):
      return Verb::data;
    case pack("BDAT"):
      return Verb::bdat;
    case pack("RSET"):
      return Verb::rset;
    case pack("NOOP"):
      return Verb::noop;
    case pack("VRFY"):
      return Verb::vrfy;
    case pack("HELP"):
      return Verb::help;
    case pack("QUIT"):
      return Verb::quit;
    case pack("EXPN"):
      return Verb::expn;
    case pack("STARTTLS"):
      return Verb::starttls;
    case pack("AUTH"):
      return Verb::auth;
    case pack("TURN"):
      return Verb::turn;
    case pack("ETRN"):
      return Verb::etrn;
    case pack("XCLIENT"):
      return Verb::xclient;
    case pack("XFORWARD"):
      return Verb::xforward;
    case pack("SEND"):
      return Verb::send;
    case pack("SOML"):
      return Verb::soml;
    case pack("SAML"):
      return Verb::saml;
    default:
      return Verb::unknown;
  }
}

}  // namespace

Command parse_command(std::string_view line) {
  Command command;
  command.verb = verb_of(take_word(line));
  while (!line.empty() && is_white(line.back())) line.remove_suffix(1);
  command.arguments = line;
  return command;
}

MailArguments parse_mail_arguments(std::string_view arguments, OfferedParameters offered) {
  MailArguments result;
  if (!take_keyword(arguments, "FROM:")) {
    result.error = ArgumentError::syntax;
    return result;
  }
  const std::optional<Path> path = take_path(arguments);
  // A reverse-path without a domain is nobody's: only RCPT knows <postmaster> [RFC 5321 §4.5.1].
  if (!path || (!path->mailbox.null() && path->mailbox.domain().empty())) {
    result.error = ArgumentError::path;
    return result;
  }
  result.reverse_path = path->mailbox;
  MailParameters parameters(result, offered);
  while (!arguments.empty()) {
    result.error = parameters.take(take_word(arguments));
    if (result.error != ArgumentError::none) return result;
  }
  if (path->has_eight_bit && !result.smtp_utf8) result.error = ArgumentError::eight_bit;
  return result;
}

RecipientArguments parse_recipient_arguments(std::string_view arguments, OfferedParameters offered) {
  RecipientArguments result;
  if (!take_keyword(arguments, "TO:")) {
    result.error = ArgumentError::syntax;
    return result;
  }
  const std::optional<Path> path = take_path(arguments);
  if (!path || path->mailbox.null()) {
    result.error = ArgumentError::path;
  } else if (path->has_eight_bit && !offered.smtp_utf8) {
    result.error = ArgumentError::eight_bit;
  } else {
    result.forward_path = path->mailbox;
    while (!arguments.empty() && result.error == ArgumentError::none) {
      result.error = take_recipient_parameter(Parameter(take_word(arguments)), offered, result);
    }
  }
  return result;
}

ChunkArguments parse_chunk_arguments(std::string_view arguments) {
  ChunkArguments result;
  const std::optional<std::uint64_t> size = parse_size(take_word(arguments));
  if (!size) return result;
  result.size = *size;
  result.last = equal_ignoring_case(arguments, "LAST");
  result.valid = result.last || arguments.empty();
  return result;
}

bool is_hello_name(std::string_view text) {
  return !text.empty() && text.size() <= 255 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7F; });
}

}  // namespace postern::smtp
