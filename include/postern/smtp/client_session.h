// The client side of one SMTP or LMTP session, without I/O [RFC 5321 §3, §4; RFC 2033].
//
// It carries no content: it says when and how the driver must send it. It chooses no host, retries nothing, and keeps
// no connection. egress drives it: one session per connection, one delivery after the other. The driver's turn, after
// the start and after every on_*() and begin():
//
//   1. Hand output() to the connection, then on_output_taken().
//   2. has_result()? take_result().
//   3. switch (want()).
//
// "Hand to the connection" means queued in order for sending, not acknowledged or even sent: a peer cannot answer what
// was not yet queued, so a reply to a command or content not reported as handed over is a protocol error.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/time.h>
#include <postern/mail/content.h>
#include <postern/mail/envelope.h>
#include <postern/mail/outcome.h>
#include <postern/mail/reply.h>
#include <postern/sasl/client_exchange.h>
#include <postern/smtp/dialect.h>
#include <postern/smtp/reply_parser.h>

namespace postern::smtp {

// What a session makes of STARTTLS [RFC 3207].
enum class StartTls : std::uint8_t {
  never,
  when_offered,  // and goes on without when it is refused
  always,        // a peer that does not offer it, or refuses it, gets nothing
};

// RFC 5321 §4.5.3.2. Each counts from the moment when the peer has its turn; bytes of an unfinished reply extend
// nothing.
struct ClientTimeouts {
  Duration greeting = std::chrono::minutes(5);
  Duration ehlo = std::chrono::minutes(5);
  Duration mail = std::chrono::minutes(5);  // RSET too
  Duration rcpt = std::chrono::minutes(5);
  Duration data = std::chrono::minutes(2);
  Duration data_block = std::chrono::minutes(3);
  Duration end_of_data = std::chrono::minutes(10);
  Duration quit = std::chrono::seconds(5);  // nothing hangs on the reply
};

// What to do with 8-bit content when the peer lacks 8BITMIME [RFC 6152 §3].
enum class WithoutEightBitMime : std::uint8_t {
  send_as_is,  // without BODY=: practically every server takes it, and signatures stay whole
  fail,        // 5.6.3, as the RFC asks of those who do not convert
};

struct ClientOptions {
  std::string ehlo_name = {};  // a domain or an address literal
  bool use_pipelining = true;
  bool use_chunking = true;
  WithoutEightBitMime without_eight_bit_mime = WithoutEightBitMime::send_as_is;
  // BDAT content up to this size follows its commands at once; larger content waits for an accepted recipient, so that
  // a refusal does not cost its transfer.
  std::uint64_t pipelined_content_bytes_max = std::uint64_t{256} * 1024;
  ClientTimeouts timeouts = {};
};

// What the peer's EHLO or LHLO reply offered; all absent after HELO.
struct PeerExtensions {
  bool esmtp = false;
  bool pipelining = false;
  bool chunking = false;
  bool eight_bit_mime = false;
  bool binary_mime = false;
  bool smtp_utf8 = false;
  bool enhanced_status_codes = false;
  bool dsn = false;
  bool mt_priority = false;
  bool starttls = false;
  bool require_tls = false;
  sasl::MechanismSet mechanisms = {};  // of AUTH, those that are known here
  bool auth = false;                   // AUTH was offered, with whatever mechanisms
  bool deliver_by = false;
  std::uint32_t deliver_by_min = 0;  // seconds that by-mode R must have left [RFC 2852 §3]
  bool size = false;
  std::uint64_t size_max = 0;    // 0: no limit known
  std::uint64_t mail_max = 0;    // LIMITS MAILMAX=, transactions per session; 0: not given [RFC 9422]
  std::uint64_t rcpt_max = 0;    // LIMITS RCPTMAX=, recipients per transaction
  std::uint64_t domain_max = 0;  // LIMITS RCPTDOMAINMAX=, domains per transaction
};

// What the sender asked to be told of one recipient, passed on as it was given [RFC 3461 §5.2.1].
struct DsnRequest {
  mail::Notify notify;
  std::string_view original_recipient;  // ORCPT as given; empty: not given
};

// One delivery: recipients of one message for this peer. The session copies what it needs; nothing need outlive
// begin().
struct DeliveryRequest {
  std::string_view reverse_path = {};                    // without angle brackets; "" is the null reverse-path
  std::span<const std::string_view> forward_paths = {};  // without angle brackets, at least one
  mail::BodyType body = mail::BodyType::seven_bit;       // as the sender declared
  bool smtp_utf8 = false;                                // the sender gave SMTPUTF8
  mail::ContentFacts content = {};                       // of the content as it is kept
  std::uint64_t added_bytes = 0;  // of the fields we put in front: CRLF lines, ASCII, none begins with a dot
  // Sent when the peer offers DSN; whoever began the delivery reports itself when it does not.
  std::span<const DsnRequest> dsn_requests = {};  // of each forward path; empty: none asked for anything
  mail::DsnReturn dsn_return = mail::DsnReturn::unspecified;
  std::string_view envelope_id = {};  // still xtext; empty: not given
  std::int8_t priority = 0;           // MT-PRIORITY, −9…9; sent when the peer offers it
  // What is left of the sender's time. By-mode R goes to nobody who does not offer DELIVERBY, but by LMTP, where the
  // journey ends [RFC 2852 §4.1.4]; N is sent when it is offered.
  std::optional<mail::DeliverBy> deliver_by = {};
  // REQUIRETLS: a message that has a sender goes only to whom it is offered by, on a connection that suffices; one that
  // has none goes anyway [RFC 8689 §5].
  bool require_tls = false;
  bool tls_suffices = false;  // the peer is who was configured, by its certificate [RFC 8689 §4.2.1]
  // Nothing is delivered: MAIL and RCPT are said, and what they are answered is the result. `relayed` says that the
  // peer would take it. The transaction ends with the RSET before the next one, or with the session.
  bool only_ask = false;
};

// How the content goes out: the added fields, then the content (stuffed if `stuff`), then `trailer`.
struct ContentPlan {
  enum class Transfer : std::uint8_t { data, bdat };
  Transfer transfer = Transfer::data;
  bool stuff = false;                 // run the content through ContentConverter::Kind::stuff
  std::uint64_t announced_bytes = 0;  // bdat: exactly so many bytes must follow, the added fields included; data: 0
  std::string_view trailer;  // data: ".\r\n", or "\r\n.\r\n" when the last line lacks its CRLF; bdat: "". A literal
};

// The connection's fate, told with each result and by connection().
enum class ConnectionVerdict : std::uint8_t {
  reusable,  // may take another delivery
  closing,   // by us, by 421, or by MAILMAX; want() says when to close
  lost,      // reset, closed, silent, or not speaking SMTP
};

struct DeliveryResult {
  enum class Disposition : std::uint8_t {
    settled,  // each recipient's result is this attempt's outcome
    // A connection used before turned out to be dead or unwilling before it took anything of this delivery: no attempt
    // at all. Deliver over a new connection. The recipients' results say deferred, for a driver that cannot.
    retry_on_fresh_connection,
    // This host lacks SMTPUTF8, BINARYMIME, 8BITMIME, DELIVERBY or REQUIRETLS, which the message needs: another host of
    // the site may have it. When none has, the recipients' results (failed, 5.6.7, 5.6.3, 5.3.3, 5.7.30) stand.
    host_lacks_extension,
  };
  Disposition disposition = Disposition::settled;
  ConnectionVerdict connection = ConnectionVerdict::reusable;
  // All of the content went out and the reply never came (LMTP: not that of every recipient): deferred, and perhaps
  // delivered twice by the next attempt.
  bool reply_unknown = false;
  bool rcpt_answered = false;  // of only_ask: the results' replies are those to RCPT, and not to something before it
  // One per forward path, in order of the request. Replies with code 0 are ours (status and text say what happened).
  // Valid until the next begin(); may be moved from.
  std::span<mail::RecipientResult> recipients;
};

class ClientSession {
 public:
  // Commands awaiting their replies at most: so many replies of 512 bytes [RFC 5321 §4.5.3.1.5] are 32 KiB, which any
  // receive window holds, so a peer that does not read before it has written never waits for us [RFC 2920 §3.1].
  static constexpr std::size_t replies_outstanding_max = 64;
  enum class Want : std::uint8_t {
    bytes,     // on_bytes(), when the peer answers
    delivery,  // idle: begin(), or quit(). Keep reading: what a peer sends now ends the connection
    content,   // send what content_plan() says, then on_content_sent(); replies may come meanwhile: on_bytes() as ever
    // Secure the connection, then on_secured() or on_tls_failed(). No byte may come before (on_bytes() ends it all),
    // and no deadline runs: it is the driver's.
    handshake,
    // AUTH is due: on_channel(). No deadline runs until then.
    channel,
    // PBKDF2 is due, in another thread: on_salted_password() or on_salted_password_failed(). No deadline runs.
    salted_password,
    close,  // send what output() holds, then close; nothing more will be wanted
  };

  // The connection stands and the greeting is awaited. `options` must outlive the session, and so must `credentials`,
  // until the next reset(). With credentials a peer that does not let us authenticate gets nothing else of us.
  ClientSession(const ClientOptions& options, Instant now, Dialect dialect = Dialect::smtp,
                StartTls start_tls = StartTls::never, const sasl::Credentials* credentials = nullptr)
      : options_(&options) {
    reset(now, dialect, start_tls, credentials);
  }
  ClientSession(ClientSession&&) = default;
  ClientSession& operator=(ClientSession&&) = default;
  // A new connection with the buffers of the old session: pools recycle sessions. A result not taken is lost.
  void reset(Instant now, Dialect dialect = Dialect::smtp, StartTls start_tls = StartTls::never,
             const sasl::Credentials* credentials = nullptr);

  [[nodiscard]] Want want() const;

  // Bytes to hand to the connection, before any content. Valid until the next non-const call.
  [[nodiscard]] Bytes output() const;
  void on_output_taken(std::size_t bytes);
  // It holds a password, or what proves one: whoever copies it wipes the copy.
  [[nodiscard]] bool output_is_secret() const { return output_secret_; }

  // Reads the peer's bytes, always all of them; they may end anywhere and are not kept.
  void on_bytes(Bytes bytes, Instant now);
  // Reset, end of file, or a failed send. Bytes received before go to on_bytes() first.
  void on_connection_lost(Instant now);

  // The handshake that want() asked for is complete: greets again, for what was said before it counts for nothing
  // [RFC 3207 §4.2].
  void on_secured(Instant now);
  // The handshake failed, or what it secured broke: in place of on_connection_lost(), with a better reason.
  void on_tls_failed(std::string_view reason, Instant now);

  // In want() channel. Says AUTH, with the strongest mechanism that the peer offers and the credentials allow.
  void on_channel(const sasl::ClientExchange::Channel& channel, Instant now);
  // In want() salted_password; of exchange().
  void on_salted_password(const sasl::Digest& salted, Instant now);
  void on_salted_password_failed(Instant now);
  // In want() salted_password: whose salt() and iterations() are wanted.
  [[nodiscard]] const sasl::ClientExchange& exchange() const { return *exchange_; }

  // No deadline runs in want() delivery (idle time is the pool's affair), handshake, channel, salted_password and
  // close.
  [[nodiscard]] Instant next_deadline() const { return deadline_; }
  void on_deadline(Instant now);

  // Starts one delivery; only when want() is delivery. A request that cannot be sent to this peer has its result at
  // once. Recipients beyond RCPTMAX or RCPTDOMAINMAX are deferred unsent (4.5.3), see recipients_max(); like those for
  // whom the peer has no room in this transaction they are beyond_limit when at least one recipient was relayed or
  // failed.
  void begin(const DeliveryRequest& request, Instant now);

  // From begin() until its result. Decided by form and offer:
  //   dot_stuffed, a line starts with a dot  → DATA as it is
  //   dot_stuffed, none does                 → both forms are equal: BDAT when offered, else DATA
  //   plain, binary                          → BDAT when offered, else DATA, stuffed when a line starts with a dot
  [[nodiscard]] const ContentPlan& content_plan() const { return plan_; }
  // Some content was handed to the connection: the next block has its time [RFC 5321 §4.5.3.2.5].
  void on_content_progress(Instant now);
  // All of the content and the trailer were handed to the connection. Only while want() is content.
  void on_content_sent(Instant now);

  [[nodiscard]] bool has_result() const { return has_result_; }
  // Once per begin(): exactly one result for each forward path.
  [[nodiscard]] DeliveryResult take_result();

  // Ends an idle session: QUIT, a short wait for 221, close. No effect on one that is closing already.
  void quit(Instant now);

  [[nodiscard]] ConnectionVerdict connection() const { return connection_; }
  // The peer greeted us and answered EHLO or HELO, under TLS where that was to be, and took our credentials.
  [[nodiscard]] bool greeted() const { return greeted_; }
  // What ended the session lay between STARTTLS and the greeting under TLS, and was no reply to the latter: without TLS
  // this host might do.
  [[nodiscard]] bool tls_failed() const { return tls_failed_; }
  // Why AUTH led to nothing, when that is what ended the session before greeted().
  enum class AuthTrouble : std::uint8_t {
    none,
    unusable,  // no TLS, not offered, or by no mechanism that may be used: nothing was said
    refused,   // 5yz: the same would be answered again
    put_off,   // 4yz
    broken,    // the exchange went wrong: the peer could not prove itself, or went out of step; or was lost in it
  };
  [[nodiscard]] AuthTrouble auth_trouble() const { return auth_trouble_; }
  // Behind greeted(): how we authenticated; nullopt: without credentials.
  [[nodiscard]] std::optional<sasl::Mechanism> authenticated_by() const { return authenticated_by_; }
  // When want() became close before greeted(): why, in the peer's words or, with code 0, in ours. The next host is due;
  // a 5xx here (554, 521, 556) is the host's refusal, not the message's [RFC 5321 §3.1, RFC 7504].
  // Later: what ended the session, code 0 and no text when nothing went wrong.
  [[nodiscard]] const mail::Reply& failure() const { return failure_; }
  [[nodiscard]] const PeerExtensions& extensions() const { return extensions_; }
  // Recipients that one delivery may have on this connection.
  [[nodiscard]] std::size_t recipients_max() const;
  // Deliveries begun on this connection that got as far as a command.
  [[nodiscard]] std::uint64_t transactions() const { return transactions_; }

 private:
  enum class State : std::uint8_t {
    greeting,
    ehlo,  // or LHLO
    helo,
    starttls,   // said, not answered
    handshake,  // the driver's turn
    channel,    // the same
    auth,       // said, not answered to the end
    salting,    // the driver's turn
    idle,
    transaction,
    quitting,
    closed
  };
  // What a transaction's next reply answers.
  enum class Step : std::uint8_t { rset, mail, rcpt, data, bdat, end_of_data };
  enum class Content : std::uint8_t { not_yet, wanted, sent };
  enum class RecipientState : std::uint8_t { pending, accepted, settled };

  // Everything of one delivery but its buffers, which are recycled below. Commands are numbered: RSET where due, MAIL,
  // one RCPT for each of rcpt_of_, DATA or BDAT.
  struct Transaction {
    std::size_t mail = 0;           // the number of MAIL
    std::size_t released = 0;       // commands put into the output
    std::size_t answered = 0;       // their replies read
    std::size_t accepted = 0;       // recipients
    std::size_t final_replies = 0;  // LMTP: of rcpt_of_, those before it have had their last reply
    std::uint64_t output_base = 0;  // where in the output stream commands_ begins
    bool reused = false;            // not the connection's first
    bool mail_accepted = false;
    bool mail_refused = false;
    bool end_of_data_due = false;  // 354 came: the next reply is that to the end of data
    bool discarding = false;       // 354 came with no recipient accepted: nothing but the final dot is sent
    bool peer_is_clean = false;    // the peer has ended the transaction, for better or worse: no RSET is due
    bool content_refused = false;  // LMTP: by at least one recipient's last reply
    bool only_ask = false;         // no DATA or BDAT is among the commands
    Content content = Content::not_yet;
  };

  // Dialogue.
  void on_reply(Instant now);
  void say_hello();
  void on_hello_accepted();
  void on_starttls_reply();
  void on_greeted();
  // AUTH, in client_auth.cc.
  void prepare_authentication();
  void on_auth_reply();
  void on_auth_challenge();
  void go_on_with_exchange();
  void write_auth_line(std::string_view before, std::string_view response);
  void end_authentication(AuthTrouble trouble, mail::EnhancedStatus status, std::string_view text,
                          std::string_view last_words = {});
  [[nodiscard]] std::string shown(const mail::Reply& reply) const;
  [[nodiscard]] bool authenticating() const {
    return state_ == State::channel || state_ == State::auth || state_ == State::salting;
  }
  void on_transaction_reply(Instant now);
  void on_mail_reply();
  void on_rcpt_reply(std::size_t recipient);
  void on_data_reply();
  void on_final_reply();
  void on_final_reply_lmtp();
  [[nodiscard]] std::size_t next_final_recipient();
  void on_early_reply();
  [[nodiscard]] bool was_asked() const;
  [[nodiscard]] Step step() const;
  [[nodiscard]] std::size_t transfer() const {
    return transaction_.mail + 1 + rcpt_of_.size();
  }  // DATA's or BDAT's number
  void read_extensions();

  // Output.
  void write(std::string_view text);
  void release_commands();
  [[nodiscard]] bool may_release_transfer() const;
  void arm(Instant now);

  // A delivery's begin and end.
  void open_recipients(const DeliveryRequest& request);
  void refuse_unsendable(const DeliveryRequest& request);
  [[nodiscard]] bool takes_domain_of(std::string_view forward_path);
  [[nodiscard]] mail::Reply refusal_of_promises(const DeliveryRequest& request) const;
  void plan_content(const DeliveryRequest& request);
  void write_commands(const DeliveryRequest& request);
  void settle(std::size_t recipient, mail::Outcome outcome, const mail::Reply& reply);
  void settle_open(mail::Outcome outcome, const mail::Reply& reply);
  void finish_transaction(Instant now);
  void give_result();

  // The connection's end; open recipients are deferred with the reply.
  void end(ConnectionVerdict verdict, const mail::Reply& reply, bool timed_out = false);
  void end_silent(bool timed_out);  // code 0, 4.4.2, "timed out waiting for the reply to MAIL"
  void end_as_protocol_error(std::string_view text);
  [[nodiscard]] std::string_view awaited() const;

  const ClientOptions* options_;
  Dialect dialect_ = Dialect::smtp;
  ReplyParser parser_;
  State state_ = State::greeting;
  ConnectionVerdict connection_ = ConnectionVerdict::reusable;
  StartTls start_tls_ = StartTls::never;
  bool starttls_said_ = false;
  bool secured_ = false;
  bool tls_failed_ = false;
  bool greeted_ = false;
  const sasl::Credentials* credentials_ = nullptr;
  std::optional<sasl::ClientExchange> exchange_;  // while authenticating
  std::optional<sasl::Mechanism> authenticated_by_;
  AuthTrouble auth_trouble_ = AuthTrouble::none;
  bool response_held_ = false;  // AUTH was said without the response that is ready
  bool output_secret_ = false;
  bool reset_due_ = false;  // the peer holds a transaction that came to nothing: RSET goes before the next MAIL
  bool has_result_ = false;
  PeerExtensions extensions_;
  mail::Reply failure_;
  Instant deadline_ = never;
  std::uint64_t transactions_ = 0;

  std::string output_;
  std::size_t output_taken_ = 0;       // of output_
  std::uint64_t output_position_ = 0;  // bytes ever taken

  Transaction transaction_;
  ContentPlan plan_;
  DeliveryResult result_;
  std::size_t recipients_open_ = 0;        // not settled
  std::string commands_;                   // of the delivery, all of them
  std::vector<std::size_t> command_ends_;  // in commands_
  std::vector<std::uint32_t> rcpt_of_;     // the n-th RCPT's index in the request
  std::vector<RecipientState> recipient_states_;
  std::vector<std::string_view> domains_;       // of the request that begins, as far as RCPTDOMAINMAX counts them
  std::vector<mail::RecipientResult> results_;  // never shrinks, so that the replies' texts keep their capacity
};

}  // namespace postern::smtp
