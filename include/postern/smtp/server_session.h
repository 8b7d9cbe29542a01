// The server side of one SMTP or LMTP session, without I/O [RFC 5321, 1870, 2033, 2034, 2920, 3030, 4954, 6152, 6531].
//
// A driver (ingress) feeds bytes and verdicts through on_*(), fetches content and transactions through take_*(), sends
// output() and calls on_deadline() when next_deadline() has passed. The session asks no clock, keeps no content, knows
// no socket, no spool and no policy. wait() says which call it waits for; the driver is one switch over it:
//
//   bytes: n = on_bytes(rest, now); if (take_content_dropped()) discard what was collected;
//          append take_content() to what is collected (or on_content_failed()); rest = rest.subspan(n); again.
//
// Bounds: one command line (command_line_bytes_max), one Envelope, output_bytes_max of replies not yet taken and the
// same of replies behind open slots. Steady state allocates nothing: buffers are kept for the session's life and
// envelopes are exchanged with the driver's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/strong_id.h>
#include <postern/base/time.h>
#include <postern/mail/content.h>
#include <postern/mail/envelope.h>
#include <postern/mail/queue_id.h>
#include <postern/mail/reply.h>
#include <postern/sasl/server_exchange.h>
#include <postern/smtp/client_identity.h>
#include <postern/smtp/command.h>
#include <postern/smtp/content_scanner.h>
#include <postern/smtp/newline_normalizer.h>
#include <postern/smtp/server_options.h>

namespace postern::smtp {

// With CRLF. RFC 5321 §4.5.3.1.4 asks for 512, and for more where parameters are offered.
inline constexpr std::size_t command_line_bytes_max = 2048;
inline constexpr std::size_t auth_line_bytes_max =
    12288;  // AUTH and what the client says in its exchange [RFC 4954 §4]
// A line beyond that is read to its end to be answered 500, but a line without end closes the session here.
inline constexpr std::size_t command_line_swallow_max = std::size_t{64} << 10;
// Of replies that the driver has not taken, or that stand behind open slots; exceeded by at most one reply, which
// LMTP's to a content is once for each recipient: at most reply_line_max × recipients_max bytes.
inline constexpr std::size_t output_bytes_max = std::size_t{16} << 10;
// The reply lines of a verdict's text are cut here, so that code, status and CRLF stay within 512 [RFC 5321
// §4.5.3.1.5].
inline constexpr std::size_t reply_text_line_max = 480;
inline constexpr std::size_t reply_text_lines_max = 16;
inline constexpr std::size_t reply_line_max = 512;  // [RFC 5321 §4.5.3.1.5]

// What is known of a connection when its session begins.
struct ServerFacts {
  std::string peer_address;  // "192.0.2.1", for logs
  bool esmtp = true;         // false: EHLO is not known on this listener, HELO only. Not looked at in LMTP
  bool may_xclient = false;  // a listed peer, which speaks for its clients
  bool may_xforward = false;
};

// What protects the session's bytes; absent: nothing does. The texts live as long as the process.
struct TlsFacts {
  std::string_view version;    // "TLSv1.3"
  std::string_view cipher;     // "TLS_AES_128_GCM_SHA256"
  bool peer_verified = false;  // the client showed a certificate that we have reason to believe
};

enum class Wait : std::uint8_t {
  bytes,              // on_bytes(), when the client sends more.
  connect_verdict,    // on_connect_verdict(), before the greeting. The first of all waits.
  wake_verdict,       // on_wake_verdict(), for wake_domain() just read.
  identity_verdict,   // on_identity_verdict(), for asserted_client() just read.
  hello_verdict,      // on_hello_verdict(), for hello_name() just read.
  auth_credentials,   // on_credentials(), for authentication().user() and what its channel is to be bound to.
  auth_verdict,       // on_auth_verdict(), for what authentication() has come to.
  mail_verdict,       // on_mail_verdict(), for envelope()'s reverse_path() and head.declared_size.
  recipient_verdict,  // on_recipient_verdict(), for recipient() just read.
  data_verdict,       // on_data_verdict(), for the whole envelope(), before its first byte of content.
  content_verdict,    // A content is complete: take_transaction(), or on_content_failed() to refuse it at once.
  tls_verdict,        // on_tls_verdict(), for a STARTTLS just read.
  tls,         // on_secured(), once output() has left and the handshake behind it is complete; bytes are not ours.
  reply_slot,  // on_content_durable() or on_content_refused(): all slots are taken, or too many replies stand behind
               // one.
  output,      // on_output_taken(): output() has reached its bound, the client does not read.
  close,       // Send what output() holds, then close. All slots are settled; nothing else will come.
};

// Names the reply to one finished transaction. Never used twice in a session.
struct ReplySlotTag;
using ReplySlot = StrongId<ReplySlotTag, std::uint64_t>;

// The judgement of the driver (policy, budgets) on what a wait named.
struct Verdict {
  mail::Reply refusal;      // code 0: accepted; else 4xx or 5xx
  bool disconnect = false;  // close behind the refusal (a refused connect always does)

  [[nodiscard]] static Verdict accept() { return {}; }
  [[nodiscard]] static Verdict refuse(mail::Reply reply, bool disconnect = false) {
    return {std::move(reply), disconnect};
  }
  [[nodiscard]] bool accepted() const { return refusal.code == 0; }
};

struct FinishedTransaction {
  ReplySlot slot;
  mail::ContentFacts facts;
};

class ServerSession {
 public:
  // `options` is shared by all sessions of a listener. `now`: when the connection was accepted.
  ServerSession(std::shared_ptr<const ServerOptions> options, ServerFacts facts, Instant now);
  ServerSession(const ServerSession&) = delete;
  ServerSession& operator=(const ServerSession&) = delete;

  [[nodiscard]] Wait wait() const;

  // Both clocks at one moment, from which the session reckons wall time; to be called again from time to time, as
  // clocks are set. FUTURERELEASE and DELIVERBY need it.
  void set_clocks(ClockPair clocks) { clocks_ = clocks; }
  // The peer is another than was thought; before the connect verdict.
  void set_facts(ServerFacts facts) { facts_ = std::move(facts); }
  // Whether the peer may relay: its priority counts, and it may have mail held. For the commands that follow.
  void set_trusted(bool trusted) { trusted_ = trusted; }
  // For as long as connections are short: no wait for the client is longer than this, one that has begun included;
  // nullopt: as the options say.
  void set_idle_max(std::optional<Duration> most) { idle_max_ = most; }
  // Whom the client has shown that it is, by AUTH or, by XCLIENT, to a peer that we believe; "": nobody. Whoever it is
  // is trusted.
  [[nodiscard]] std::string_view user() const { return user_; }

  // --- input ---------------------------------------------------------------------------------------------------------
  // Reads from `bytes`, which may end anywhere, also between CR and LF. Returns the count consumed; short of all only
  // when wait() is no longer Wait::bytes, after a piece of content, and after content was dropped. At least one byte is
  // consumed while wait() is Wait::bytes. Keeps no pointer into `bytes`, but take_content() may point into it.
  //
  // Call it again with the rest whenever wait() is Wait::bytes, before on_output_sent() is called for replies that
  // leave meanwhile; calling it in another wait consumes nothing and tells the session that the client has sent more.
  [[nodiscard]] std::size_t on_bytes(Bytes bytes, Instant now);

  // The piece of the current transaction's content found by the last on_bytes(); empty when there was none. To be
  // appended to what was collected before. In the form in which it came: from DATA still dot-stuffed, with the last
  // line's CRLF and without the final dot's line; with normalize_bare_lf it may be twice as long as what was consumed.
  // Valid until the next on_bytes() or the end of the bytes given to it.
  // A second call returns nothing.
  [[nodiscard]] Bytes take_content();

  // True once when all content collected for the current transaction is to be discarded: the transaction was reset, or
  // the session will refuse its content and hands out no more of it. Ask after each on_bytes(), before take_content().
  [[nodiscard]] bool take_content_dropped();

  // The driver cannot keep this content (memory budget, disk). The rest is swallowed; `reply` (4xx or 5xx) is given
  // at its end, for BDAT at the end of the chunk that the last piece came from, whose transaction then fails every
  // further chunk. Also allowed between chunks and in Wait::content_verdict. Ignored when no transaction has content.
  void on_content_failed(mail::Reply reply, Instant now = {});

  // --- verdicts, each only in its wait
  // --------------------------------------------------------------------------------- `now` starts the client's next
  // deadline; it may be left out when the verdict is given at once. Accepting allocates nothing.
  void on_connect_verdict(const Verdict& verdict, Instant now = {});
  // ETRN: `waiting`: there is, or may be, mail for the domain, and it is tried now. A refusal is 458 or 459.
  void on_wake_verdict(const Verdict& verdict, bool waiting, Instant now = {});
  void on_identity_verdict(const Verdict& verdict, Instant now = {});  // accepted: the session begins anew
  void on_hello_verdict(const Verdict& verdict, Instant now = {});
  void on_mail_verdict(const Verdict& verdict, Instant now = {});
  void on_recipient_verdict(const Verdict& verdict, Instant now = {});
  // Accepted, and these get the mail instead, as an alias has it: paths by the grammar, without angle brackets, at
  // least one. From here on no address is added that the envelope has already. What the client wrote is kept as their
  // original recipient [RFC 3461 §4.2], unless it named one itself. The envelope may come to hold more than
  // recipients_max.
  void on_recipient_expanded(std::span<const std::string_view> forward_paths, Instant now = {});
  void on_data_verdict(const Verdict& verdict, Instant now = {});
  // Accepting answers 220 [RFC 3207 §4]; behind it input is early until on_output_sent(), and the handshake's from then
  // on.
  void on_tls_verdict(const Verdict& verdict, Instant now = {});

  // Only in Wait::auth_credentials and Wait::auth_verdict: how far the exchange has come, its step() being credentials,
  // or password, proven or failed.
  [[nodiscard]] const sasl::ServerExchange& authentication() const { return *exchange_; }
  // As sasl::ServerExchange::on_credentials() wants them.
  void on_credentials(const sasl::ScramVerifier& verifier, std::string_view nonce, std::string_view channel_binding,
                      Instant now = {});
  // Accepted: the client is user() from now on; never for an exchange that has failed.
  void on_auth_verdict(const Verdict& verdict, Instant now = {});

  // The connection speaks TLS from here on: in Wait::tls, or (a listener with TLS from the first byte on) before the
  // connect verdict. What the client has said before is forgotten [RFC 3207 §4.2].
  void on_secured(const TlsFacts& tls, Instant now = {});
  [[nodiscard]] const std::optional<TlsFacts>& tls() const { return tls_; }

  // Commands and contents answered negatively since the last one that was accepted.
  [[nodiscard]] std::uint32_t negative_replies() const { return errors_ + refusals_; }

  // --- what a verdict is about
  // -------------------------------------------------------------------------------------------
  [[nodiscard]] const ServerFacts& facts() const { return facts_; }
  // Only in Wait::wake_verdict: a word of 1…255 visible ASCII characters, not known to be a domain.
  [[nodiscard]] std::string_view wake_domain() const { return recipient_; }
  // What XCLIENT has said since the connection began, and XFORWARD since the last transaction.
  [[nodiscard]] const ClientIdentity& asserted_client() const { return asserted_; }
  [[nodiscard]] const ClientIdentity& forwarded_client() const { return forwarded_; }
  // In Wait::hello_verdict the name just said, afterwards the accepted one; "" before any.
  [[nodiscard]] std::string_view hello_name() const;
  // Of the current transaction; nullptr when there is none. head has declared_size, body, smtp_utf8, dsn_return,
  // priority, hold_until, deliver_by…, require_tls and protocol; the rest (received_at, client …) is the driver's to
  // set in what take_transaction() gave.
  [[nodiscard]] const mail::Envelope* envelope() const { return transaction_ ? &transaction_->envelope : nullptr; }
  // Only in Wait::recipient_verdict; valid until the verdict.
  [[nodiscard]] mail::RecipientView recipient() const;

  // --- finished transactions
  // ----------------------------------------------------------------------------------------------- Only in
  // Wait::content_verdict. Exchanges envelopes: the finished one goes into `envelope`, whose storage is cleared and
  // used for the next transaction. The content is what take_content() had given since this transaction's data verdict.
  // Its slot is open until it is answered by one of the two below; the session reads on meanwhile.
  [[nodiscard]] FinishedTransaction take_transaction(mail::Envelope& envelope);
  // The content is on stable storage: "250 2.0.0 Ok: queued as <id>" leaves in its turn [RFC 5321 §6.1].
  void on_content_durable(ReplySlot slot, mail::QueueId id, Instant now = {});
  void on_content_refused(ReplySlot slot, const mail::Reply& reply, Instant now = {});  // 4xx or 5xx
  [[nodiscard]] std::size_t open_slots() const { return static_cast<std::size_t>(next_slot_ - first_slot_); }

  // --- output
  // --------------------------------------------------------------------------------------------------------------
  // Replies to be sent, in order. Valid until the next non-const call.
  [[nodiscard]] Bytes output() const;
  void on_output_taken(std::size_t bytes);  // the first `bytes` of output() are the driver's now
  // The first `total` bytes of all output ever made were handed to the kernel. Input is early, and closes the session
  // with 554 5.5.0, when it reaches on_bytes() before the greeting's or the last group's reply was reported here.
  void on_output_sent(std::uint64_t total);
  [[nodiscard]] std::uint64_t output_total() const { return taken_total_ + output_.size() - taken_; }  // made so far
  // All of output() answers a group of MAIL, RCPT, RSET and BDAT that ended with a content, and the content's reply is
  // still to come. The client waits for that one, so these may wait for it too, and leave with it: for milliseconds, as
  // replies to a group are to be sent when there is no more input [RFC 2920 §3.2].
  [[nodiscard]] bool output_may_gather() const { return open_slots() != 0 && !output_urgent_; }

  // --- time and ends
  // --------------------------------------------------------------------------------------------------------- When the
  // client's patience with us is no question but ours with it: `never` while the session waits for the driver
  // (verdicts, slots, close: closing within a time is the driver's), else the earliest of its deadlines. Moves with
  // every command; a driver may look at it lazily.
  [[nodiscard]] Instant next_deadline() const;
  void on_deadline(Instant now);  // 421 4.4.2 and close if next_deadline() has passed; else nothing
  // 421 4.3.2 at the next command boundary; a content that is under way comes to its end and reply first.
  void on_shutdown();

 private:
  enum class Phase : std::uint8_t { command, data, chunk };

  // One transaction, from MAIL to the reply to its end of data. Every way out of it is end_transaction() or
  // take_transaction().
  struct Transaction {
    explicit Transaction(mail::Envelope&& recycled) : envelope(std::move(recycled)) {}

    [[nodiscard]] bool has_recipient(std::string_view path) const;
    // Of the content as it is handed out.
    [[nodiscard]] const mail::ContentFacts& facts() const {
      return normalizer == nullptr ? scanner.facts() : normalizer->facts();
    }
    void finish_content();

    mail::Envelope envelope;
    ContentScanner scanner;                         // of the content as it comes
    std::unique_ptr<NewlineNormalizer> normalizer;  // since its first bare LF, where those are taken
    std::optional<mail::Reply> failure;             // what its content will be answered with; set: poisoned
    bool failure_told = false;                      // a chunk was answered with it; further ones get 503
    std::uint32_t recipients_tried = 0;
    std::uint32_t recipients_accepted = 0;  // RCPTs answered 250: LMTP's content gets so many replies
    std::uint32_t recipients_excess = 0;
    std::uint32_t tiny_chunks = 0;
    bool expanded = false;          // a recipient was: from then on each address stands in the envelope once
    bool chunked = false;           // a BDAT was read: no RCPT and no DATA any more
    bool content_began = false;     // the data verdict accepted
    bool dropped = false;           // no content is handed out any more
    bool priority_lowered = false;  // MAIL asked for a higher one than it gets
  };

  struct Slot {
    std::uint32_t replies = 1;  // of LMTP: `answer` leaves once for each accepted recipient
    std::string answer;         // complete lines, when it came before its turn; else empty
    std::string behind;         // replies to what came after this transaction and before the next one with a slot
  };

  // Input, by phase. Each returns what it consumed of its never empty `bytes`.
  [[nodiscard]] std::size_t read_command(Bytes bytes);
  [[nodiscard]] std::size_t read_data(Bytes bytes);
  [[nodiscard]] std::size_t read_chunk(Bytes bytes);
  void on_line(std::string_view line);  // with its LF
  void on_command(const Command& command);

  void on_hello(bool extended, std::string_view name);
  [[nodiscard]] bool lmtp() const { return options_->dialect == Dialect::lmtp; }
  void on_mail(std::string_view arguments);
  void on_recipient(std::string_view arguments);
  void on_identity(IdentityCommand command, std::string_view arguments);
  void on_wake(std::string_view arguments);
  void on_data(std::string_view arguments);
  void on_chunk_command(std::string_view arguments);
  void on_reset(std::string_view arguments);
  void on_start_tls(std::string_view arguments);
  [[nodiscard]] sasl::MechanismSet offered_mechanisms() const;
  [[nodiscard]] bool is_auth_line(std::string_view piece) const;
  void on_auth(std::string_view arguments);
  void on_auth_line(std::string_view line);
  void advance_auth();
  void end_auth(std::string_view error);
  void on_argument_error(ArgumentError error, std::string_view path_reply);

  void fail_chunk(mail::Reply reply);
  void begin_chunk();
  void begin_content(Phase phase);
  void fail_transaction(mail::Reply reply);
  void normalize_content(const ContentScanner& before, std::size_t held);
  void note_content_progress(std::size_t bytes);
  [[nodiscard]] std::string_view content_refusal() const;
  void on_content_end();
  void on_chunk_end();
  void end_transaction();

  // Output. `lines` are complete, with CRLF.
  void reply(std::string_view lines) { reply_sink() += lines; }
  void reply_with_hostname(std::string_view code, std::string_view text);
  void greet();
  void reply_to_hello();
  void reply_error(std::string_view lines);
  void reply_failure();
  void reply_refusal(const Verdict& verdict);
  // The last thing written to `sink`, from `begin` on, answers a content: LMTP says it once for each recipient.
  static void repeat_reply(std::string& sink, std::size_t begin, std::uint32_t times);
  [[nodiscard]] std::uint32_t content_replies() const;
  void close_with(std::string_view lines);
  void finish_command();
  [[nodiscard]] std::string& answer_sink(ReplySlot slot);
  void settle_slot(ReplySlot answered, std::size_t begin);
  [[nodiscard]] std::string& reply_sink();
  [[nodiscard]] std::size_t bytes_behind_slots() const;
  [[nodiscard]] bool all_replies_sent() const { return open_slots() == 0 && sent_total_ >= output_total(); }
  [[nodiscard]] bool at_command_boundary() const;

  void take_verdict(Wait expected, Instant now);
  [[nodiscard]] bool trusted() const { return trusted_ || !user_.empty(); }
  [[nodiscard]] bool offers_future_release() const;
  [[nodiscard]] WallTime wall_now() const;
  void note_time(Instant now) { now_ = now > now_ ? now : now_; }
  void renew_deadline();
  void renew_data_window();

  const std::shared_ptr<const ServerOptions> options_;
  ServerFacts facts_;

  Phase phase_ = Phase::command;
  Wait pending_ = Wait::connect_verdict;  // bytes, or the verdict that is due
  ClockPair clocks_{};
  ClientIdentity asserted_;
  ClientIdentity forwarded_;
  bool trusted_ = false;
  bool closing_ = false;
  bool shutting_down_ = false;
  // The last reply asked for ends a pipelining group; no input may come before it was sent. The greeting is the first.
  bool group_ended_ = true;
  bool early_input_ = false;  // and some came
  bool content_dropped_ = false;
  bool output_urgent_ = false;  // output_ has more than replies to a group, or will have

  bool greeted_ = false;        // a HELO or EHLO was accepted
  bool esmtp_ = false;          // and it was EHLO
  bool next_esmtp_ = false;     // if its verdict accepts
  bool overlong_cr_ = false;    // the overlong line's last byte was CR
  bool overlong_bad_ = false;   // it had a bare CR, a bare LF or a NUL
  bool overlong_auth_ = false;  // it was of an AUTH
  bool chunk_last_ = false;
  bool close_behind_chunk_ = false;  // its data verdict disconnects
  std::uint16_t recipient_domain_offset_ = 0;
  std::optional<TlsFacts> tls_;
  std::string user_;
  std::unique_ptr<sasl::ServerExchange> exchange_;  // while AUTH is under way
  std::string hello_name_;
  std::string next_hello_name_;  // waits for its verdict

  std::string line_;  // the part of a command line that came before this on_bytes(); empty in the usual case
  std::size_t overlong_bytes_ = 0;  // of a line beyond command_line_bytes_max, whose text is not kept

  mail::Envelope spare_envelope_;  // the storage of the last transaction, for the next one
  std::optional<Transaction> transaction_;
  std::string recipient_;  // of the RCPT or ETRN that waits for its verdict
  std::string original_recipient_;
  mail::Notify notify_;

  std::uint64_t chunk_left_ = 0;
  std::uint64_t chunk_size_ = 0;
  std::uint64_t content_bytes_ = 0;  // of this DATA or chunk, so far
  // Of the last chunk's positive reply in reply_sink(), while on_content_failed() may still take it back.
  std::optional<std::size_t> retractable_reply_;

  Bytes content_;
  std::size_t held_back_ = 0;  // bytes that the scanner keeps until it knows: "." or ".\r"

  // Slots first_slot_ … next_slot_ − 1 are open (or answered behind an open one); slot n is slots_[n % size].
  std::vector<Slot> slots_;
  std::uint64_t first_slot_ = 0;
  std::uint64_t next_slot_ = 0;

  std::string output_;
  std::size_t taken_ = 0;  // leading bytes of output_ that the driver has
  std::uint64_t taken_total_ = 0;
  std::uint64_t sent_total_ = 0;

  std::array<std::byte, 4> carried_{};  // a held back piece and the byte that decided it
  std::uint32_t errors_ = 0;
  std::uint32_t refusals_ = 0;
  std::uint32_t junk_ = 0;

  Instant now_;
  Instant waits_since_;
  Instant deadline_at_;
  std::optional<Duration> idle_max_;
  const Instant session_deadline_at_;
  std::uint64_t progress_bytes_ = 0;  // of content since the data deadline was last renewed
  std::uint64_t window_bytes_ = 0;    // of content since the window was opened
  Instant window_ends_at_ = never;    // `never`: no content comes, or at any rate
};

// What a connection that gets no session is sent before it is closed: "421 …" with CRLF.
enum class Farewell : std::uint8_t { connections_exhausted, too_many_from_peer, too_often_from_peer, shutting_down };
[[nodiscard]] std::string farewell_line(const ServerOptions& options, Farewell reason);

}  // namespace postern::smtp
