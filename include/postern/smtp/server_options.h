// What every server session of a listener shares: an immutable snapshot, replaced as a whole when configuration is read
// again.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include <postern/base/time.h>
#include <postern/sasl/mechanism.h>
#include <postern/smtp/dialect.h>

namespace postern::smtp {

inline constexpr std::size_t reply_slots_limit = 64;

enum class TlsUse : std::uint8_t {
  none,           // STARTTLS is not offered
  opportunistic,  // offered
  required,       // offered, and nothing but it and what needs no secret is answered before it [RFC 3207 §4]
};

struct ServerOptions {
  Dialect dialect = Dialect::smtp;
  std::string hostname;                  // in the greeting, EHLO's reply, 221 and 421
  std::string banner = "ESMTP Postern";  // behind the hostname in the greeting

  std::uint64_t message_bytes_max = 50u << 20;  // content in the form in which it comes; announced by SIZE; 0: no limit
  std::uint32_t recipients_max = 1000;          // per transaction; at most mail::Envelope::recipients_max
  std::uint64_t text_line_bytes_max = 256u
                                      << 10;  // of content, without CRLF; RFC 5321's 1,000 is what it promises to take
  bool normalize_bare_lf = false;     // a bare LF in content becomes CRLF; else the content is refused (550 5.6.11)
  std::uint32_t received_max = 100;   // this many Received fields are a loop [RFC 5321 §6.3]
  std::uint32_t reply_slots_max = 8;  // transactions that wait for stable storage; 1…reply_slots_limit

  // Extensions offered to EHLO; set_offers() [smtp/extension.h] sets them for a listener.
  bool offer_pipelining = true;
  bool offer_size = true;
  bool offer_enhanced_status_codes = true;
  bool offer_eight_bit_mime = true;
  bool offer_chunking = true;
  bool offer_smtp_utf8 = true;
  TlsUse tls = TlsUse::none;
  bool offer_binary_mime = false;     // RFC 3030, with CHUNKING and 8BITMIME
  bool offer_dsn = false;             // RFC 3461
  bool offer_limits = false;          // RFC 9422: RCPTMAX
  bool offer_mt_priority = false;     // RFC 6710
  bool offer_future_release = false;  // RFC 4865, to trusted peers
  bool offer_etrn = false;            // RFC 1985
  bool offer_deliver_by = false;      // RFC 2852
  bool offer_require_tls = false;     // RFC 8689, under TLS

  // AUTH [RFC 4954], with these; none: it is not known. Of SMTP alone.
  sasl::MechanismSet auth_mechanisms;
  bool auth_required = false;     // nothing but it and what needs no secret is answered before it
  bool auth_without_tls = false;  // offered in the clear, too

  Duration hold_max = std::chrono::hours(24 * 7);  // FUTURERELEASE; below 10^9 seconds
  Duration deliver_by_min{};                       // DELIVERBY, by-mode R: whole seconds; 0: none is said

  // Each count reaching its limit ends the session with 421 4.7.0. All start again with an accepted content.
  std::uint32_t errors_max = 20;         // commands answered with an error of the client's making
  std::uint32_t refusals_max = 100;      // commands refused by a verdict
  std::uint32_t junk_max = 100;          // NOOP, VRFY, HELP, RSET, EHLO: commands that bring nothing forward
  std::uint32_t tiny_chunks_max = 1000;  // per transaction: BDAT without LAST of less than tiny_chunk_bytes
  std::uint32_t tiny_chunk_bytes = 512;

  Duration command_idle = std::chrono::minutes(5);  // from the last reply to the end of the next command line
  // Content must come on by data_progress_bytes (or end) within each data_idle: one byte a second is silence.
  Duration data_idle = std::chrono::minutes(3);
  std::uint64_t data_progress_bytes = 1024;
  // And by so much in each data_window of a DATA or chunk; 0: any rate will do.
  std::uint64_t data_window_bytes = 0;
  Duration data_window = std::chrono::seconds(30);
  Duration session_max = std::chrono::hours(4);
  // Content that will be refused is read to its end, to say so, but no further than message_bytes_max and this.
  std::uint64_t swallow_bytes_max = 256u << 20;
};

}  // namespace postern::smtp
