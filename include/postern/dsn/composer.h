// Writes delivery status notifications [RFC 3461, RFC 3462, RFC 3464; RFC 6533 as far as said below]. Pure.
//
// The driver (shard) gives it the original envelope, what became of recipients, and the original's header (and body);
// what comes out enters the spool by the same door as any other mail, in one batch with the failures' settlements.
//
// Everything that a peer said is escaped to printable ASCII and bounded before it is shown; what is returned of the
// original is bounded, and its lines are cut to 998 bytes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <postern/base/random.h>
#include <postern/base/time.h>
#include <postern/mail/content.h>
#include <postern/mail/envelope.h>
#include <postern/mail/queue_id.h>
#include <postern/mail/reply.h>

namespace postern::dsn {

// What became of a recipient [RFC 3464 §2.3.3].
enum class Action : std::uint8_t {
  failed,     // for good
  delivered,  // into a mailbox of ours
  relayed,    // to a next hop that does not offer DSN: nobody will tell more
  delayed,    // not yet, and attempts go on
};

// One recipient to report.
struct ReportedRecipient {
  std::uint16_t index = 0;  // in the original envelope
  Action action = Action::failed;
  bool expired = false;           // failed: its give-up time came: status 4.4.7, `reply` being the last one had
  mail::Reply reply{};            // code 0: ours, not a next hop's; then no Diagnostic-Code is given
  std::string_view remote_mta{};  // name of the next hop that said so; empty: none did
  WallTime last_attempt_at{};     // epoch: unknown
  WallTime retried_until{};       // delayed: Will-Retry-Until
};

// The original message. Views are read during compose() only.
struct Original {
  mail::QueueId queue_id{};
  std::string_view added_fields{};  // what we put in front (Received…): complete lines with CRLF, never dot-stuffed
  // The content as received, in `facts.form`: from its first byte on, at least its header section (facts.header_bytes)
  // as far as that is within Options::returned_header_max, all of it if it may be returned whole.
  std::string_view content{};
  mail::ContentFacts facts{};
};

struct Options {
  std::string hostname{};
  std::size_t returned_header_max = std::size_t{64} * 1024;   // bytes of header section returned
  std::size_t returned_content_max = std::size_t{64} * 1024;  // RET=FULL is honoured up to this size [RFC 3461 §4.3]
  std::size_t recipients_max = 1000;                          // reported in one DSN; the rest are summed up in the text
  // Of the whole notification, 16 KiB at least: what one record of the spool takes. Fewer recipients are reported, and
  // less is returned of the original, where more would exceed it.
  std::size_t bytes_max = std::size_t{256} * 1024;
};

struct Notification {
  mail::Envelope envelope{};   // null reverse-path; one recipient: the original reverse-path
  std::string content{};       // ContentForm::plain, all lines end in CRLF
  mail::ContentFacts facts{};  // of `content`
};

// Whether the sender wants to hear of this end of the recipient: of a failure unless NOTIFY lacks FAILURE, of a delay
// unless it lacks DELAY, of a success when NOTIFY has SUCCESS [RFC 3461 §4.1].
[[nodiscard]] bool wants_report(const mail::RecipientView& recipient, Action action);

// Whether DELIVERY BY a time is reason enough to tell of it, whoever NOTIFY leaves out, unless it says NEVER: of a
// delay in by-mode N; of mail that was passed on in by-mode N to a next hop that does not offer DELIVERBY, or with a
// trace to any: which of them it is the caller knows [RFC 2852 §4.1.4.2].
[[nodiscard]] bool deadline_wants_report(const mail::Envelope& envelope, const mail::RecipientView& recipient,
                                         Action action);

// Whether the driver must give all of the original's content to compose() when a recipient failed, not its header
// section alone.
[[nodiscard]] bool returns_content(const mail::Envelope& envelope, const mail::ContentFacts& facts,
                                   const Options& options);

// One DSN about those of `recipients` whose sender wants it. nullopt when there is none to send: the reverse-path is
// null [RFC 5321 §6.1], or none of them is to be reported. `now` becomes Date; `random` the Message-ID and the
// boundary. Without a failed recipient in it, it returns the header section alone [RFC 3461 §4.3].
//
// A sender or recipient with non-ASCII in its address is reported as utf-8-addr-xtext [RFC 6533 §3]. When the original
// came with SMTPUTF8, what is returned of it goes as message/global(-headers), and the DSN itself asks for SMTPUTF8.
[[nodiscard]] std::optional<Notification> compose(const mail::Envelope& envelope, const Original& original,
                                                  std::span<const ReportedRecipient> recipients, const Options& options,
                                                  WallTime now, Random& random);

}  // namespace postern::dsn
