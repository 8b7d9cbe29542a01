// The trace field. Everything that a peer had a say in is cleaned or was parsed before.
#include <cstddef>
#include <string>
#include <string_view>

#include <postern/base/date.h>
#include <postern/base/text.h>
#include <postern/mail/envelope.h>
#include <postern/smtp/received_field.h>

namespace postern::smtp {
namespace {

constexpr std::size_t hello_shown_max = 255;

constexpr bool is_harmless(char c) {
  return is_ascii_alpha(c) || is_ascii_digit(c) || std::string_view(".-_:[]").find(c) != std::string_view::npos;
}

}  // namespace

std::string_view protocol_keyword(mail::Protocol protocol, bool smtp_utf8) {
  switch (protocol) {
    case mail::Protocol::smtp:
      return "SMTP";  // no SMTPUTF8 without EHLO
    case mail::Protocol::esmtp:
      return smtp_utf8 ? "UTF8SMTP" : "ESMTP";
    case mail::Protocol::esmtps:
      return smtp_utf8 ? "UTF8SMTPS" : "ESMTPS";
    case mail::Protocol::esmtpa:
      return smtp_utf8 ? "UTF8SMTPA" : "ESMTPA";
    case mail::Protocol::esmtpsa:
      return smtp_utf8 ? "UTF8SMTPSA" : "ESMTPSA";
    case mail::Protocol::lmtp:
      return smtp_utf8 ? "UTF8LMTP" : "LMTP";
    case mail::Protocol::lmtps:
      return smtp_utf8 ? "UTF8LMTPS" : "LMTPS";
    case mail::Protocol::local:
      return "local";
  }
  return "SMTP";
}

void append_received_field(std::string& out, const ReceivedField& field) {
  out += "Received: from ";
  if (field.hello_name.empty()) out += "unknown";
  for (const char c : field.hello_name.substr(0, hello_shown_max)) out += is_harmless(c) ? c : '?';
  if (!field.peer_address_literal.empty()) {
    out += " (";
    out += field.peer_address_literal;
    out += ")";
  }
  if (!field.tls_version.empty()) {
    out += "\r\n\t(using ";
    out += field.tls_version;
    out += " with cipher ";
    out += field.tls_cipher;
    out += ")";
  }
  out += "\r\n\tby ";
  out += field.hostname;
  out += " with ";
  out += protocol_keyword(field.protocol, field.smtp_utf8);
  out += " id ";
  const auto id = field.id.to_text();
  out.append(id.data(), id.size());
  if (!field.only_recipient.empty()) {
    out += "\r\n\tfor <";
    out += field.only_recipient;
    out += '>';
  }
  out += ";\r\n\t";
  append_rfc5322_date(out, field.received_at);
  out += "\r\n";
}

}  // namespace postern::smtp
