// Input of the server session: lines, content, verdicts, time. server_commands.cc has the commands, server_output.cc
// the replies.
//
// Nothing is decided at the border of a read: a line is judged at its LF, a content at its end, and whether input came
// early by what had been sent. So the replies do not depend on how the input was cut; the transcripts and the fuzzer
// hold the session to that.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/bytes.h>
#include <postern/base/check.h>
#include <postern/base/time.h>
#include <postern/mail/content.h>
#include <postern/mail/envelope.h>
#include <postern/mail/reply.h>
#include <postern/sasl/digest.h>
#include <postern/smtp/content_scanner.h>
#include <postern/smtp/server_options.h>
#include <postern/smtp/server_session.h>

namespace postern::smtp {
namespace {

constexpr std::string_view line_too_long = "500 5.5.2 Line too long\r\n";
constexpr std::string_view auth_line_too_long = "500 5.5.6 Line too long\r\n";  // [RFC 4954 §4]
constexpr std::string_view bad_line =
    "501 5.5.2 Lines end with CR LF and hold no other CR, LF or NUL, closing connection\r\n";

// "rfc822;" and the address as xtext [RFC 3461 §4]; empty for one beyond ASCII, which that type does not have.
std::string original_recipient_of(std::string_view address) {
  constexpr std::string_view hex = "0123456789ABCDEF";
  std::string text = "rfc822;";
  for (const char c : address) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80) return {};
    if (byte > ' ' && byte < 0x7F && c != '+' && c != '=') {
      text += c;
    } else {
      text += '+';
      text += hex[byte >> 4];
      text += hex[byte & 15];
    }
  }
  return text;
}

}  // namespace

ServerSession::ServerSession(std::shared_ptr<const ServerOptions> options, ServerFacts facts, Instant now)
    : options_(std::move(options)),
      facts_(std::move(facts)),
      now_(now),
      waits_since_(now),
      deadline_at_(now + options_->command_idle),
      session_deadline_at_(now + options_->session_max) {
  POSTERN_CHECK(options_->reply_slots_max >= 1 && options_->reply_slots_max <= reply_slots_limit, "reply_slots_max");
  POSTERN_CHECK(options_->recipients_max <= mail::Envelope::recipients_max, "recipients_max");
}

Wait ServerSession::wait() const {
  const std::size_t open = open_slots();
  if (closing_) return open == 0 ? Wait::close : Wait::reply_slot;
  if (pending_ == Wait::tls && open != 0) return Wait::reply_slot;  // its 220 stands behind them
  if (pending_ != Wait::bytes) return pending_;
  if (open == options_->reply_slots_max || (open != 0 && bytes_behind_slots() >= output_bytes_max))
    return Wait::reply_slot;
  if (output_.size() - taken_ >= output_bytes_max) return Wait::output;
  return Wait::bytes;
}

std::size_t ServerSession::on_bytes(Bytes bytes, Instant now) {
  note_time(now);
  content_ = {};
  retractable_reply_.reset();
  const bool dropped_before = content_dropped_;
  std::size_t used = 0;
  while (used < bytes.size() && wait() == Wait::bytes && content_.empty() && content_dropped_ == dropped_before) {
    if (group_ended_ && (early_input_ || !all_replies_sent())) {
      early_input_ = true;
      finish_command();
      break;
    }
    group_ended_ = false;
    const Bytes rest = bytes.subspan(used);
    switch (phase_) {
      case Phase::command:
        used += read_command(rest);
        break;
      case Phase::data:
        used += read_data(rest);
        break;
      case Phase::chunk:
        used += read_chunk(rest);
        break;
    }
  }
  // What stays behind a command that ends a group was sent before that command's reply was even made.
  // (What comes behind the 220 to STARTTLS is the handshake's.)
  if (used < bytes.size() && group_ended_ && !closing_ &&
      ((pending_ != Wait::bytes && pending_ != Wait::tls) || !all_replies_sent())) {
    early_input_ = true;
    if (pending_ == Wait::tls) {
      pending_ = Wait::bytes;
      finish_command();
    }
  }
  return used;
}

// --- command lines ---------------------------------------------------------------------------------------------------

std::size_t ServerSession::read_command(Bytes bytes) {
  const void* lf = std::memchr(bytes.data(), '\n', bytes.size());
  const std::size_t size =
      lf == nullptr ? bytes.size() : static_cast<std::size_t>(static_cast<const std::byte*>(lf) - bytes.data()) + 1;
  const std::string_view piece = as_text(bytes.first(size));

  const auto note_overlong = [this](std::string_view text) {
    overlong_bytes_ += text.size();
    for (const char c : text) {
      overlong_bad_ |= c == '\0' || overlong_cr_ != (c == '\n');
      overlong_cr_ = c == '\r';
    }
  };
  // Of a line that has become too long, the piece is not the begin.
  const bool auth =
      overlong_bytes_ != 0 ? overlong_auth_ : line_.size() + size > command_line_bytes_max && is_auth_line(piece);
  const std::size_t line_bytes_max = auth ? auth_line_bytes_max : command_line_bytes_max;
  if (overlong_bytes_ + line_.size() + size > line_bytes_max) {
    if (overlong_bytes_ == 0) {
      overlong_auth_ = auth;
      note_overlong(line_);
    }
    line_.clear();
    note_overlong(piece);
    if (overlong_bytes_ > command_line_swallow_max) {
      reply_error(overlong_auth_ ? auth_line_too_long : line_too_long);
      close_with({});
    } else if (lf != nullptr) {
      if (overlong_bad_) {
        close_with(bad_line);
      } else if (overlong_auth_) {
        end_auth(auth_line_too_long);
        finish_command();
      } else {
        reply_error(line_too_long);
        finish_command();
      }
      overlong_bytes_ = 0;
      overlong_cr_ = false;
      overlong_bad_ = false;
      overlong_auth_ = false;
    }
    return size;
  }
  if (lf == nullptr) {
    line_ += piece;
  } else if (line_.empty()) {
    on_line(piece);
  } else {
    line_ += piece;
    const bool secret = is_auth_line({});
    on_line(line_);
    if (secret) {
      sasl::wipe(line_);
    } else {
      line_.clear();
    }
  }
  return size;
}

void ServerSession::on_line(std::string_view line) {
  retractable_reply_.reset();  // what is said to this line stands behind it
  line.remove_suffix(1);
  if (line.empty() || line.find('\r') != line.size() - 1 || line.find('\0') != std::string_view::npos) {
    close_with(bad_line);
    return;
  }
  line.remove_suffix(1);
  if (exchange_ != nullptr) {
    on_auth_line(line);
  } else {
    on_command(parse_command(line));
  }
}

// --- content ---------------------------------------------------------------------------------------------------------

std::size_t ServerSession::read_data(Bytes bytes) {
  Transaction& transaction = *transaction_;
  // What the scanner holds back is no longer in anyone's buffer. The next byte is scanned alone, so that the two make
  // one small piece of our own if they turn out to be content.
  const bool carry = held_back_ != 0;
  const ContentScanner before = transaction.scanner;
  const ContentScanner::Piece piece = transaction.scanner.scan(carry ? bytes.first(1) : bytes);
  const bool done = transaction.scanner.done();
  const std::size_t held = piece.held.size();
  if (carry) {
    std::transform(piece.held.begin(), piece.held.end(), carried_.begin(), [](char c) { return std::byte(c); });
    if (piece.content != 0) carried_[held] = bytes.front();
    content_ = Bytes(carried_).first(held + piece.content);
  } else {
    content_ = bytes.first(piece.content);
  }
  held_back_ = done ? 0 : held_back_ - held + (piece.consumed - piece.content);
  normalize_content(before, held);
  if (done) transaction.finish_content();
  note_content_progress(piece.consumed);
  if (done && !closing_) {
    phase_ = Phase::command;
    on_content_end();
  }
  return piece.consumed;
}

std::size_t ServerSession::read_chunk(Bytes bytes) {
  const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), chunk_left_));
  chunk_left_ -= size;
  if (transaction_ && !transaction_->failure) {
    const ContentScanner before = transaction_->scanner;
    content_ = bytes.first(transaction_->scanner.scan(bytes.first(size)).content);
    normalize_content(before, 0);
  }
  note_content_progress(size);
  if (chunk_left_ == 0 && !closing_) on_chunk_end();
  return size;
}

// content_ as it is to be handed out. `before`: the scanner before it found that; its first `held` bytes had been held
// back.
void ServerSession::normalize_content(const ContentScanner& before, std::size_t held) {
  Transaction& transaction = *transaction_;
  const mail::ContentFacts& facts = transaction.scanner.facts();
  if (!options_->normalize_bare_lf || !facts.has_bare_lf || facts.form == mail::ContentForm::binary) return;
  const bool first = transaction.normalizer == nullptr;
  if (first) transaction.normalizer = std::make_unique<NewlineNormalizer>(before);
  content_ = transaction.normalizer->append(content_, first ? held : 0);
}

void ServerSession::Transaction::finish_content() {
  if (scanner.facts().form != mail::ContentForm::dot_stuffed) scanner.finish();
  if (normalizer != nullptr) normalizer->finish();
}

// A trickle is silence: only progress_bytes_ in a lump move the deadline.
void ServerSession::note_content_progress(std::size_t bytes) {
  content_bytes_ += bytes;
  progress_bytes_ += bytes;
  window_bytes_ += bytes;
  if (progress_bytes_ >= options_->data_progress_bytes) renew_deadline();
  if (window_bytes_ >= options_->data_window_bytes) renew_data_window();
  const bool kept = transaction_ && !transaction_->dropped;
  if (kept && content_refusal().empty()) return;
  if (kept) {
    transaction_->dropped = true;
    content_dropped_ = true;
  }
  content_ = {};
  // Counted from the content's first byte, so that no one's cuts decide where this ends.
  if (content_bytes_ > options_->message_bytes_max + options_->swallow_bytes_max) {
    close_with("552 5.3.4 Message too large, closing connection\r\n");
  }
}

// Why the content so far can never be accepted; empty: it may still be. The order is fixed, so that the answer depends
// only on the whole content.
std::string_view ServerSession::content_refusal() const {
  const mail::ContentFacts& facts = transaction_->facts();
  if (options_->message_bytes_max != 0 && facts.size > options_->message_bytes_max)
    return "552 5.3.4 Message too large\r\n";
  const bool binary = facts.form == mail::ContentForm::binary;
  if (!binary && (facts.has_bare_cr || facts.has_bare_lf || facts.has_nul)) {
    return "550 5.6.11 Content holds a CR, LF or NUL that stands alone\r\n";
  }
  if (facts.received_count >= options_->received_max) return "554 5.4.6 Too many Received fields, this is a loop\r\n";
  if (!binary && facts.longest_line > options_->text_line_bytes_max)
    return "554 5.6.0 A line of the content is too long\r\n";
  return {};
}

void ServerSession::on_content_end() {
  Transaction& transaction = *transaction_;
  const std::uint32_t replies = content_replies();
  std::string& sink = reply_sink();
  const std::size_t begin = sink.size();
  if (transaction.failure) {
    reply_failure();
  } else if (const std::string_view refusal = content_refusal(); !refusal.empty()) {
    reply_error(refusal);
  } else {
    pending_ = Wait::content_verdict;
    return;
  }
  repeat_reply(sink, begin, replies);
  end_transaction();
  finish_command();
}

void ServerSession::begin_content(Phase phase) {
  phase_ = phase;
  progress_bytes_ = 0;
  content_bytes_ = 0;
  held_back_ = 0;
  renew_deadline();
  renew_data_window();
}

FinishedTransaction ServerSession::take_transaction(mail::Envelope& envelope) {
  POSTERN_CHECK(pending_ == Wait::content_verdict, "no transaction is finished");
  envelope.clear();
  std::swap(envelope, transaction_->envelope);
  spare_envelope_ = std::move(transaction_->envelope);
  const FinishedTransaction finished{ReplySlot{next_slot_}, transaction_->facts()};
  const std::uint32_t replies = content_replies();
  transaction_.reset();
  if (forwarded_.address_given || forwarded_.hello_name) forwarded_ = {};
  if (slots_.empty()) slots_.resize(options_->reply_slots_max);
  slots_[next_slot_ % slots_.size()].replies = replies;
  ++next_slot_;
  pending_ = Wait::bytes;
  errors_ = 0;
  refusals_ = 0;
  junk_ = 0;
  finish_command();
  return finished;
}

Bytes ServerSession::take_content() {
  return std::exchange(content_, {});
}

bool ServerSession::take_content_dropped() {
  return std::exchange(content_dropped_, false);
}

void ServerSession::on_content_failed(mail::Reply reply, Instant now) {
  note_time(now);
  if (!transaction_ || !transaction_->content_began) return;
  fail_transaction(std::move(reply));
  if (pending_ != Wait::content_verdict) return;
  pending_ = Wait::bytes;
  on_content_end();
}

// The only way out of a transaction but take_transaction(): nothing of it stays but its storage.
void ServerSession::end_transaction() {
  if (forwarded_.address_given || forwarded_.hello_name) forwarded_ = {};
  if (!transaction_) return;
  if (transaction_->content_began) content_dropped_ = true;
  spare_envelope_ = std::move(transaction_->envelope);
  transaction_.reset();
}

// --- verdicts --------------------------------------------------------------------------------------------------------

void ServerSession::take_verdict(Wait expected, Instant now) {
  POSTERN_CHECK(pending_ == expected, "a verdict that was not asked for");
  note_time(now);
  pending_ = Wait::bytes;
}

void ServerSession::on_connect_verdict(const Verdict& verdict, Instant now) {
  take_verdict(Wait::connect_verdict, now);
  if (verdict.accepted()) {
    greet();
  } else {
    reply_refusal(verdict);
    if (!closing_) close_with({});
  }
  finish_command();
}

void ServerSession::on_wake_verdict(const Verdict& verdict, bool waiting, Instant now) {
  take_verdict(Wait::wake_verdict, now);
  if (!verdict.accepted()) {
    reply_refusal(verdict);
  } else if (waiting) {
    reply("250 2.0.0 Ok, what waits for that node is tried now\r\n");
  } else {
    reply("251 2.0.0 Ok, nothing waits for that node\r\n");
  }
  finish_command();
}

void ServerSession::on_identity_verdict(const Verdict& verdict, Instant now) {
  take_verdict(Wait::identity_verdict, now);
  if (verdict.accepted()) {
    greeted_ = false;
    esmtp_ = false;
    hello_name_.clear();
    forwarded_ = {};
    user_ = asserted_.login.value_or("");
    greet();
  } else {
    reply_refusal(verdict);
  }
  finish_command();
}

void ServerSession::on_hello_verdict(const Verdict& verdict, Instant now) {
  take_verdict(Wait::hello_verdict, now);
  if (verdict.accepted()) {
    end_transaction();  // as RSET does [RFC 5321 §4.1.4]
    greeted_ = true;
    esmtp_ = next_esmtp_;
    std::swap(hello_name_, next_hello_name_);
    reply_to_hello();
  } else {
    reply_refusal(verdict);
  }
  next_hello_name_.clear();
  finish_command();
}

void ServerSession::on_mail_verdict(const Verdict& verdict, Instant now) {
  take_verdict(Wait::mail_verdict, now);
  if (verdict.accepted()) {
    reply(transaction_->priority_lowered ? "250 2.3.6 Ok, with priority 0\r\n" : "250 2.1.0 Ok\r\n");
  } else {
    end_transaction();
    reply_refusal(verdict);
  }
  finish_command();
}

void ServerSession::on_recipient_verdict(const Verdict& verdict, Instant now) {
  take_verdict(Wait::recipient_verdict, now);
  if (verdict.accepted()) {
    if (!transaction_->expanded || !transaction_->has_recipient(recipient_)) {
      transaction_->envelope.add_recipient(recipient());
    }
    ++transaction_->recipients_accepted;
    reply("250 2.1.5 Ok\r\n");
  } else {
    reply_refusal(verdict);
  }
  finish_command();
}

bool ServerSession::Transaction::has_recipient(std::string_view path) const {
  for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
    if (envelope.recipient(i).forward_path.text == path) return true;
  }
  return false;
}

void ServerSession::on_recipient_expanded(std::span<const std::string_view> forward_paths, Instant now) {
  take_verdict(Wait::recipient_verdict, now);
  mail::Envelope& envelope = transaction_->envelope;
  mail::RecipientView added = recipient();
  std::string original;
  if (added.original_recipient.empty()) {
    original = original_recipient_of(recipient_);
    added.original_recipient = original;
  }
  transaction_->expanded = true;
  for (const std::string_view path : forward_paths) {
    if (transaction_->has_recipient(path)) continue;
    added.forward_path = {path, static_cast<std::uint16_t>(path.rfind('@') + 1)};
    envelope.add_recipient(added);
  }
  ++transaction_->recipients_accepted;
  reply("250 2.1.5 Ok\r\n");
  finish_command();
}

// The content is about to come: behind our 354 for DATA, without waiting for BDAT.
void ServerSession::on_data_verdict(const Verdict& verdict, Instant now) {
  take_verdict(Wait::data_verdict, now);
  Transaction& transaction = *transaction_;
  if (!verdict.accepted()) {
    if (!transaction.chunked) {
      reply_refusal(verdict);
      finish_command();
      return;
    }
    ++refusals_;
    fail_transaction(verdict.refusal);
    close_behind_chunk_ = verdict.disconnect;
    begin_chunk();
    return;
  }
  transaction.content_began = true;
  transaction.normalizer.reset();
  if (transaction.chunked) {
    transaction.scanner.reset(transaction.envelope.head.body == mail::BodyType::binary_mime ? mail::ContentForm::binary
                                                                                            : mail::ContentForm::plain);
    begin_chunk();
    return;
  }
  transaction.scanner.reset(mail::ContentForm::dot_stuffed);
  begin_content(Phase::data);
  reply("354 End data with <CR><LF>.<CR><LF>\r\n");
  finish_command();
}

void ServerSession::on_tls_verdict(const Verdict& verdict, Instant now) {
  take_verdict(Wait::tls_verdict, now);
  if (!verdict.accepted()) {
    reply_refusal(verdict);
  } else {
    end_transaction();
    reply("220 2.0.0 Ready to start TLS\r\n");
    if (!early_input_) pending_ = Wait::tls;
  }
  finish_command();
}

void ServerSession::on_secured(const TlsFacts& tls, Instant now) {
  POSTERN_CHECK(pending_ == Wait::tls || pending_ == Wait::connect_verdict, "nobody asked for TLS");
  note_time(now);
  tls_ = tls;
  if (pending_ == Wait::connect_verdict) return;
  pending_ = Wait::bytes;
  group_ended_ = false;
  greeted_ = false;
  esmtp_ = false;
  user_.clear();
  hello_name_.clear();
  renew_deadline();
}

std::string_view ServerSession::hello_name() const {
  return pending_ == Wait::hello_verdict ? next_hello_name_ : hello_name_;
}

mail::RecipientView ServerSession::recipient() const {
  return {{recipient_, recipient_domain_offset_}, notify_, original_recipient_};
}

// --- time ------------------------------------------------------------------------------------------------------------

void ServerSession::renew_deadline() {
  progress_bytes_ = 0;
  waits_since_ = now_;
  deadline_at_ = now_ + (phase_ == Phase::command ? options_->command_idle : options_->data_idle);
}

// Not before a window has brought its bytes is there another one: so no client is measured against less than one.
void ServerSession::renew_data_window() {
  window_bytes_ = 0;
  window_ends_at_ = options_->data_window_bytes == 0 ? never : now_ + options_->data_window;
}

Instant ServerSession::next_deadline() const {
  if (closing_ || (pending_ != Wait::bytes && pending_ != Wait::tls) || open_slots() != 0) return never;
  Instant at = std::min(deadline_at_, session_deadline_at_);
  if (idle_max_) at = std::min(at, waits_since_ + *idle_max_);
  return phase_ == Phase::command ? at : std::min(at, window_ends_at_);
}

void ServerSession::on_deadline(Instant now) {
  note_time(now);
  if (now_ < next_deadline()) return;
  // Words would stand in the middle of a handshake.
  if (pending_ != Wait::tls) reply_with_hostname("421 4.4.2 ", " Timeout, closing connection\r\n");
  close_with({});
}

WallTime ServerSession::wall_now() const {
  return clocks_.to_wall(now_);
}

bool ServerSession::at_command_boundary() const {
  return phase_ == Phase::command && pending_ == Wait::bytes && !closing_ && exchange_ == nullptr &&
         !(transaction_ && transaction_->content_began);
}

void ServerSession::on_shutdown() {
  shutting_down_ = true;
  if (at_command_boundary()) finish_command();
}

}  // namespace postern::smtp
