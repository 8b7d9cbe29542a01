// The trace field that we put in front of what we accept [RFC 5321 §4.4, RFC 3848, RFC 6531 §4.3].
//
// Kept apart from the received content, so writing it never touches a byte of that. Driven by ingress.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <postern/base/time.h>
#include <postern/mail/envelope.h>
#include <postern/mail/queue_id.h>

namespace postern::smtp {

struct ReceivedField {
  std::string_view hello_name;            // as the peer said it; may be hostile, may be empty
  std::string_view peer_address_literal;  // "[192.0.2.1]"; empty for a peer without one (unix socket, a DSN of ours)
  std::string_view hostname;              // ours
  mail::Protocol protocol = mail::Protocol::smtp;
  bool smtp_utf8 = false;                        // the transaction asked for SMTPUTF8
  std::string_view tls_version{}, tls_cipher{};  // "TLSv1.3", "TLS_AES_128_GCM_SHA256"; empty: no TLS
  mail::QueueId id;
  // The forward-path of a transaction with exactly one recipient, else empty: naming one of several to all of them
  // would disclose a blind copy [RFC 5321 §7.2].
  std::string_view only_recipient;
  WallTime received_at{};
};

// Appends
//   Received: from HELO ([192.0.2.1])<CRLF><TAB>by HOST with ESMTP id QUEUEID<CRLF><TAB>for
//   <x@example.net>;<CRLF><TAB>DATE<CRLF>
// (under TLS with a line "(using TLSv1.3 with cipher TLS_AES_128_GCM_SHA256)" before `by`, without a `for` line when
// there is no only_recipient, without parentheses when there is no address). A HELO name is shown with '?' for each
// byte that is no letter, digit or one of ".-_:[]", cut at 255 bytes, and as "unknown" when empty; so neither it nor
// anything else ends a line.
void append_received_field(std::string& out, const ReceivedField& field);

// The keyword behind "with": "ESMTP", "ESMTPSA", "UTF8SMTP" …
[[nodiscard]] std::string_view protocol_keyword(mail::Protocol protocol, bool smtp_utf8);

}  // namespace postern::smtp
