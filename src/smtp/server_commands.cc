// The server session's commands [RFC 5321 §4.1.1, RFC 3030 §2]. Each either replies, or asks for a verdict, whose
// on_*_verdict() in server_session.cc replies.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/date.h>
#include <postern/base/time.h>
#include <postern/mail/envelope.h>
#include <postern/mail/reply.h>
#include <postern/smtp/client_identity.h>
#include <postern/smtp/command.h>
#include <postern/smtp/server_options.h>
#include <postern/smtp/server_session.h>

#include "server_reply.h"

namespace postern::smtp {
namespace {

constexpr std::string_view unknown_command = "500 5.5.2 Command not recognized\r\n";
constexpr std::string_view not_implemented = "502 5.5.1 Command not implemented\r\n";
constexpr std::string_view no_arguments = "501 5.5.4 This command takes no argument\r\n";
constexpr std::string_view mail_first = "503 5.5.1 MAIL first\r\n";
constexpr std::string_view recipient_first = "503 5.5.1 RCPT first\r\n";  // also [RFC 2033 §4.2]
constexpr std::string_view no_recipients = "554 5.5.1 No valid recipients\r\n";
constexpr std::string_view too_large = "552 5.3.4 Message too large\r\n";
constexpr std::string_view transaction_failed = "503 5.5.1 This transaction has failed, RSET first\r\n";

constexpr std::string_view tls_first = "530 5.7.0 Must issue a STARTTLS command first\r\n";
constexpr std::string_view auth_first = "530 5.7.0 Authentication required\r\n";

// [RFC 3207 §4]; RSET and HELO give nothing away either. The same may come before AUTH [RFC 4954 §6].
constexpr bool may_precede_tls(Verb verb) {
  switch (verb) {
    case Verb::ehlo:
    case Verb::helo:
    case Verb::noop:
    case Verb::quit:
    case Verb::rset:
    case Verb::starttls:
      return true;
    default:
      return false;
  }
}

// A reply of ours as the value that a poisoned transaction keeps.
mail::Reply out_of_order(std::string_view text) {
  return {503, {5, 5, 1}, std::string(text)};
}

}  // namespace

void ServerSession::on_command(const Command& command) {
  const bool other_dialect =
      lmtp() ? command.verb == Verb::helo || command.verb == Verb::ehlo : command.verb == Verb::lhlo;
  const Verb verb = other_dialect ? Verb::unknown : command.verb;  // 500 [RFC 2033 §4.1]
  group_ended_ = ends_pipelining_group(verb);
  if (!is_answered_with_its_group(verb)) output_urgent_ = true;
  if (options_->tls == TlsUse::required && !tls_ && !may_precede_tls(verb)) {
    reply_error(tls_first);
    // A chunk must not be read as commands, and is not worth swallowing.
    if (verb == Verb::bdat) close_with({});
    finish_command();
    return;
  }
  if (options_->auth_required && user_.empty() && !may_precede_tls(verb) && verb != Verb::auth &&
      verb != Verb::xclient && verb != Verb::unknown) {
    reply_error(auth_first);
    if (verb == Verb::bdat) close_with({});
    finish_command();
    return;
  }
  switch (verb) {
    case Verb::helo:
      on_hello(false, command.arguments);
      break;
    case Verb::ehlo:
    case Verb::lhlo:
      on_hello(true, command.arguments);
      break;
    case Verb::mail:
      on_mail(command.arguments);
      break;
    case Verb::rcpt:
      on_recipient(command.arguments);
      break;
    case Verb::data:
      on_data(command.arguments);
      break;
    case Verb::bdat:
      on_chunk_command(command.arguments);
      break;
    case Verb::rset:
      if (!command.arguments.empty()) {
        reply_error(no_arguments);
        break;
      }
      end_transaction();
      ++junk_;
      reply("250 2.0.0 Ok\r\n");
      break;
    case Verb::noop:
      ++junk_;
      reply("250 2.0.0 Ok\r\n");
      break;
    case Verb::vrfy:
      ++junk_;
      if (command.arguments.empty()) {
        reply_error("501 5.5.4 VRFY takes an address\r\n");
      } else {
        reply("252 2.0.0 Send some mail, it will be tried\r\n");  // neither yes nor no [RFC 5321 §3.5.3, §7.3]
      }
      break;
    case Verb::help:
      ++junk_;
      reply(lmtp() ? "214 2.0.0 LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT, see RFC 2033\r\n"
                   : "214 2.0.0 HELO EHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT, see RFC 5321\r\n");
      break;
    case Verb::quit:
      if (!command.arguments.empty()) {
        reply_error(no_arguments);
        break;
      }
      reply_with_hostname("221 2.0.0 ", " closing connection\r\n");
      close_with({});
      break;
    case Verb::etrn:
      on_wake(command.arguments);
      break;
    case Verb::xclient:
      on_identity(IdentityCommand::xclient, command.arguments);
      break;
    case Verb::xforward:
      on_identity(IdentityCommand::xforward, command.arguments);
      break;
    case Verb::starttls:
      on_start_tls(command.arguments);
      break;
    case Verb::auth:
      on_auth(command.arguments);
      break;
    case Verb::expn:
    case Verb::turn:
    case Verb::send:
    case Verb::soml:
    case Verb::saml:
      reply_error(not_implemented);
      break;
    case Verb::unknown:
      reply_error(unknown_command);
      break;
  }
  if (pending_ == Wait::bytes && phase_ == Phase::command) finish_command();
}

void ServerSession::on_hello(bool extended, std::string_view name) {
  if (extended && !facts_.esmtp && !lmtp()) {
    reply_error(unknown_command);
  } else if (!is_hello_name(name)) {
    reply_error("501 5.5.4 One host name or address literal, please\r\n");
  } else {
    if (greeted_) ++junk_;
    next_hello_name_ = name;
    next_esmtp_ = extended;
    pending_ = Wait::hello_verdict;
  }
}

// Holding mail is for those whose mail we relay: strangers would use us to keep theirs [RFC 4865 §3].
bool ServerSession::offers_future_release() const {
  return options_->offer_future_release && trusted();
}

// EHLO's lines carry no enhanced status, as they name what is offered [RFC 2034 §4].
void ServerSession::reply_to_hello() {
  if (!esmtp_) {
    reply_with_hostname("250 ", "\r\n");
    return;
  }
  std::string& sink = reply_sink();
  std::size_t last_line = sink.size();
  reply_with_hostname("250-", "\r\n");
  const auto offer = [&](bool offered, std::string_view keyword, std::optional<std::uint64_t> number = std::nullopt) {
    if (!offered) return;
    last_line = sink.size();
    sink += "250-";
    sink += keyword;
    if (number) append_number(sink, *number);
    sink += "\r\n";
  };
  offer(options_->offer_pipelining, "PIPELINING");
  offer(options_->offer_size, "SIZE ", options_->message_bytes_max);
  offer(options_->offer_eight_bit_mime, "8BITMIME");
  offer(options_->offer_chunking, "CHUNKING");
  offer(options_->offer_smtp_utf8, "SMTPUTF8");
  offer(options_->tls != TlsUse::none && !tls_, "STARTTLS");
  if (const sasl::MechanismSet mechanisms = offered_mechanisms(); !mechanisms.empty()) {
    last_line = sink.size();
    sink += "250-AUTH";
    for (const sasl::Mechanism mechanism : sasl::all_mechanisms) {
      if (mechanisms.has(mechanism)) sink.append(" ").append(sasl::name_of(mechanism));
    }
    sink += "\r\n";
  }
  offer(options_->offer_binary_mime, "BINARYMIME");
  offer(options_->offer_dsn, "DSN");
  offer(options_->offer_limits, "LIMITS RCPTMAX=", options_->recipients_max);
  offer(options_->offer_mt_priority, "MT-PRIORITY");
  offer(options_->offer_etrn, "ETRN");
  if (const auto least = std::chrono::ceil<std::chrono::seconds>(options_->deliver_by_min).count(); least > 0) {
    offer(options_->offer_deliver_by, "DELIVERBY ", static_cast<std::uint64_t>(least));
  } else {
    offer(options_->offer_deliver_by, "DELIVERBY");
  }
  offer(options_->offer_require_tls && tls_.has_value(), "REQUIRETLS");
  if (offers_future_release()) {
    last_line = sink.size();
    sink += "250-FUTURERELEASE ";
    append_number(sink,
                  static_cast<std::uint64_t>(std::chrono::ceil<std::chrono::seconds>(options_->hold_max).count()));
    sink += ' ';
    append_rfc3339_seconds(sink, wall_now() + options_->hold_max);
    sink += "\r\n";
  }
  const auto offer_identity = [&](bool offered, std::string_view keyword, IdentityCommand command) {
    if (!offered) return;
    last_line = sink.size();
    sink.append("250-").append(keyword).append(" ").append(attributes_of(command)).append("\r\n");
  };
  offer_identity(facts_.may_xclient, "XCLIENT", IdentityCommand::xclient);
  offer_identity(facts_.may_xforward, "XFORWARD", IdentityCommand::xforward);
  offer(options_->offer_enhanced_status_codes, "ENHANCEDSTATUSCODES");
  sink[last_line + 3] = ' ';
}

void ServerSession::on_start_tls(std::string_view arguments) {
  if (tls_) {
    reply_error("503 5.5.1 TLS is active already\r\n");
  } else if (options_->tls == TlsUse::none) {
    reply_error("502 5.5.1 Command not implemented\r\n");
  } else if (!arguments.empty()) {
    reply_error(no_arguments);
  } else if (!greeted_ || !esmtp_) {
    reply_error("503 5.5.1 EHLO first\r\n");
  } else {
    pending_ = Wait::tls_verdict;
  }
}

void ServerSession::on_argument_error(ArgumentError error, std::string_view path_reply) {
  switch (error) {
    case ArgumentError::none:
      break;
    case ArgumentError::syntax:
      reply_error("501 5.5.4 Bad arguments\r\n");
      break;
    case ArgumentError::path:
      reply_error(path_reply);
      break;
    case ArgumentError::eight_bit:
      reply_error("553 5.6.7 An address that is not ASCII needs SMTPUTF8\r\n");
      break;
    case ArgumentError::unknown_parameter:
      reply_error("555 5.5.4 Parameter not recognized\r\n");
      break;
  }
}

void ServerSession::on_mail(std::string_view arguments) {
  if (!greeted_) {
    reply_error(lmtp() ? "503 5.5.1 LHLO first\r\n" : "503 5.5.1 EHLO or HELO first\r\n");
    return;
  }
  if (transaction_) {
    reply_error("503 5.5.1 A transaction is open already\r\n");
    return;
  }
  const OfferedParameters offered{.size = esmtp_ && options_->offer_size,
                                  .eight_bit_mime = esmtp_ && options_->offer_eight_bit_mime,
                                  .binary_mime = esmtp_ && options_->offer_binary_mime,
                                  .smtp_utf8 = esmtp_ && options_->offer_smtp_utf8,
                                  .dsn = esmtp_ && options_->offer_dsn,
                                  .mt_priority = esmtp_ && options_->offer_mt_priority,
                                  .future_release = esmtp_ && offers_future_release(),
                                  .auth = esmtp_ && !offered_mechanisms().empty(),
                                  .deliver_by = esmtp_ && options_->offer_deliver_by,
                                  .require_tls = esmtp_ && options_->offer_require_tls && tls_};
  const MailArguments parsed = parse_mail_arguments(arguments, offered);
  if (parsed.error != ArgumentError::none) {
    on_argument_error(parsed.error, "501 5.1.7 Bad reverse-path\r\n");
    return;
  }
  if (options_->message_bytes_max != 0 && parsed.size > options_->message_bytes_max) {
    reply_error(too_large);
    return;
  }
  const WallTime now = wall_now();
  const WallTime hold_until = parsed.hold_for ? now + *parsed.hold_for : parsed.hold_until;
  if (hold_until > now + options_->hold_max) {
    reply_error("501 5.5.4 Held longer than is offered\r\n");
    return;
  }
  const bool returns = parsed.deliver_by && parsed.deliver_by->returns;
  const auto time_given = std::chrono::seconds(parsed.deliver_by ? parsed.deliver_by->seconds : 0);
  if (returns && time_given < options_->deliver_by_min) {
    reply_error("555 5.5.4 Less time than DELIVERBY asks for\r\n");
    return;
  }
  if (returns && hold_until >= now + time_given) {
    reply_error("501 5.5.4 Held longer than BY gives\r\n");
    return;
  }
  mail::Envelope& envelope = transaction_.emplace(std::move(spare_envelope_)).envelope;
  envelope.clear();
  envelope.set_reverse_path(parsed.reverse_path.text, parsed.reverse_path.domain_offset);
  envelope.head.declared_size = parsed.size;
  envelope.head.body = parsed.body;
  envelope.head.smtp_utf8 = parsed.smtp_utf8;
  envelope.head.dsn_return = parsed.dsn_return;
  // A stranger may step back, but not forward [RFC 6710 §8].
  envelope.head.priority = trusted() ? parsed.priority : std::min<std::int8_t>(parsed.priority, 0);
  transaction_->priority_lowered = envelope.head.priority != parsed.priority;
  if (hold_until > now) envelope.head.hold_until = hold_until;
  if (parsed.deliver_by) {
    envelope.head.deliver_by = now + time_given;
    envelope.head.deliver_by_returns = returns;
    envelope.head.deliver_by_trace = parsed.deliver_by->trace;
  }
  envelope.head.require_tls = parsed.require_tls;
  envelope.set_dsn_envelope_id(parsed.envelope_id);
  if (lmtp()) {
    envelope.head.protocol = tls_ ? mail::Protocol::lmtps : mail::Protocol::lmtp;
  } else {
    using mail::Protocol;
    envelope.head.protocol = !esmtp_         ? Protocol::smtp
                             : user_.empty() ? (tls_ ? Protocol::esmtps : Protocol::esmtp)
                                             : (tls_ ? Protocol::esmtpsa : Protocol::esmtpa);
  }
  pending_ = Wait::mail_verdict;
}

void ServerSession::on_recipient(std::string_view arguments) {
  if (!transaction_ || transaction_->chunked) {
    reply_error(transaction_ ? "503 5.5.1 Too late for RCPT\r\n" : mail_first);
    return;
  }
  Transaction& transaction = *transaction_;
  ++transaction.recipients_tried;
  const RecipientArguments parsed = parse_recipient_arguments(
      arguments, {.smtp_utf8 = transaction.envelope.head.smtp_utf8, .dsn = esmtp_ && options_->offer_dsn});
  if (parsed.error != ArgumentError::none) {
    on_argument_error(parsed.error, "501 5.1.3 Bad forward-path\r\n");
    return;
  }
  if (transaction.envelope.recipient_count() >= options_->recipients_max) {
    reply("452 4.5.3 Too many recipients\r\n");
    // An honest client sends the rest in another transaction [RFC 5321 §4.5.3.1.10]; one that never stops is none.
    if (++transaction.recipients_excess > options_->recipients_max) ++errors_;
    return;
  }
  recipient_ = parsed.forward_path.text;
  recipient_domain_offset_ = parsed.forward_path.domain_offset;
  notify_ = parsed.notify;
  original_recipient_ = parsed.original_recipient;
  pending_ = Wait::recipient_verdict;
}

// [RFC 1985 §5]
void ServerSession::on_wake(std::string_view arguments) {
  ++junk_;
  if (!options_->offer_etrn) {
    reply_error(not_implemented);
  } else if (!esmtp_) {
    reply_error("503 5.5.1 EHLO first\r\n");
  } else if (transaction_) {
    reply_error("503 5.5.1 A transaction is open already\r\n");
  } else if (!is_hello_name(arguments)) {
    reply_error("501 5.5.4 One domain, please\r\n");
  } else if (arguments.front() == '@' || arguments.front() == '#') {
    reply_error("459 4.7.1 Neither subdomains nor queues by name\r\n");
  } else {
    recipient_ = arguments;
    pending_ = Wait::wake_verdict;
  }
}

void ServerSession::on_identity(IdentityCommand command, std::string_view arguments) {
  const bool xclient = command == IdentityCommand::xclient;
  ++junk_;
  if (!(xclient ? facts_.may_xclient : facts_.may_xforward)) {
    reply_error("550 5.7.0 Not permitted\r\n");
    return;
  }
  if (transaction_) {
    reply_error("503 5.5.1 A transaction is open already\r\n");
    return;
  }
  ClientIdentity identity = xclient ? asserted_ : forwarded_;
  if (!read_client_identity(command, arguments, identity)) {
    reply_error("501 5.5.4 Bad attributes\r\n");
    return;
  }
  (xclient ? asserted_ : forwarded_) = std::move(identity);
  if (xclient) {
    pending_ = Wait::identity_verdict;
  } else {
    reply("250 2.0.0 Ok\r\n");
  }
}

void ServerSession::on_data(std::string_view arguments) {
  if (!arguments.empty()) {
    reply_error(no_arguments);
  } else if (!transaction_) {
    reply_error(mail_first);
  } else if (transaction_->chunked) {
    // The state behind this mistake is indeterminate and must be cleared [RFC 3030 §2].
    reply_error("503 5.5.1 DATA after BDAT, RSET first\r\n");
    fail_transaction(out_of_order({}));
    transaction_->failure_told = true;
  } else if (transaction_->envelope.recipient_count() == 0) {
    reply_error(lmtp() || transaction_->recipients_tried == 0 ? recipient_first : no_recipients);
  } else if (transaction_->envelope.head.body == mail::BodyType::binary_mime) {
    reply_error("503 5.5.1 Binary content comes by BDAT\r\n");  // [RFC 3030 §3]
  } else {
    pending_ = Wait::data_verdict;
  }
}

// Whatever is wrong with it, the chunk follows: it is swallowed before the answer, or the session ends.
void ServerSession::on_chunk_command(std::string_view arguments) {
  const ChunkArguments parsed = parse_chunk_arguments(arguments);
  if (!parsed.valid) {
    // Where the chunk ends is unknown, and what is in it must not be read as commands.
    reply_error("501 5.5.4 Bad chunk size, closing connection\r\n");
    close_with({});
    return;
  }
  chunk_left_ = parsed.size;
  chunk_size_ = parsed.size;
  chunk_last_ = parsed.last;
  close_behind_chunk_ = false;
  if (!transaction_) {
    begin_chunk();
    return;
  }
  Transaction& transaction = *transaction_;
  const std::uint64_t size_max = options_->message_bytes_max;
  const bool first = !transaction.chunked;
  transaction.chunked = true;
  if (!parsed.last && parsed.size < options_->tiny_chunk_bytes &&
      ++transaction.tiny_chunks > options_->tiny_chunks_max) {
    reply_with_hostname("421 4.7.0 ", " Too many small chunks, closing connection\r\n");
    close_with({});
  } else if (transaction.failure) {
    begin_chunk();
  } else if (!esmtp_ || !options_->offer_chunking) {
    fail_chunk(out_of_order("BDAT was not offered"));
  } else if (transaction.envelope.recipient_count() == 0) {
    fail_chunk(lmtp() || transaction.recipients_tried == 0 ? out_of_order("RCPT first")
                                                           : mail::Reply{554, {5, 5, 1}, "No valid recipients"});
  } else if (size_max != 0 && parsed.size > size_max - std::min(size_max, transaction.facts().size)) {
    fail_chunk({552, {5, 3, 4}, "Message too large"});
  } else if (first) {
    pending_ = Wait::data_verdict;
  } else {
    begin_chunk();
  }
}

void ServerSession::fail_chunk(mail::Reply reply) {
  ++errors_;
  fail_transaction(std::move(reply));
  begin_chunk();
}

// What made the transaction fail is told once; what still comes for it is out of order.
void ServerSession::reply_failure() {
  Transaction& transaction = *transaction_;
  if (transaction.failure_told) {
    reply_error(transaction_failed);
    return;
  }
  transaction.failure_told = true;
  append_reply(reply_sink(), *transaction.failure);
  if (close_behind_chunk_) close_with({});
}

void ServerSession::begin_chunk() {
  const bool swallowed = !transaction_ || transaction_->dropped;
  if (swallowed && chunk_left_ > options_->swallow_bytes_max) {
    reply("552 5.3.4 Chunk too large, closing connection\r\n");
    close_with({});
    return;
  }
  begin_content(Phase::chunk);
  if (chunk_left_ == 0) on_chunk_end();
}

void ServerSession::on_chunk_end() {
  phase_ = Phase::command;
  if (!transaction_) {
    reply_error(mail_first);
  } else if (chunk_last_) {
    if (!transaction_->failure) transaction_->finish_content();
    on_content_end();
    return;
  } else if (transaction_->failure) {
    reply_failure();
  } else {
    std::string& sink = reply_sink();
    retractable_reply_ = sink.size();
    sink += "250 2.0.0 ";
    append_number(sink, chunk_size_);
    sink += " octets received\r\n";
  }
  finish_command();
}

}  // namespace postern::smtp
