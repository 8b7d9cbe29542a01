// The server session's replies: what they look like, and the order in which they leave.
//
// A finished transaction opens a slot; every reply behind it is kept with that slot until it and all slots before it
// are answered. So output() only ever holds what may leave now.
#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/bytes.h>
#include <postern/base/check.h>
#include <postern/base/planted.h>
#include <postern/base/time.h>
#include <postern/mail/queue_id.h>
#include <postern/mail/reply.h>
#include <postern/smtp/server_options.h>
#include <postern/smtp/server_session.h>

#include "server_reply.h"

namespace postern::smtp {
namespace {

void append_line_start(std::string& out, const mail::Reply& reply, bool last) {
  append_number(out, reply.code);
  out += last ? ' ' : '-';
  if (!reply.status.present()) return;
  append_number(out, reply.code / 100u);  // a status of another class would contradict the code [RFC 2034 §4]
  out += '.';
  append_number(out, reply.status.subject);
  out += '.';
  append_number(out, reply.status.detail);
  out += ' ';
}

}  // namespace

void append_number(std::string& out, std::uint64_t value) {
  char digits[20];
  const auto end = std::to_chars(std::begin(digits), std::end(digits), value).ptr;
  out.append(digits, static_cast<std::size_t>(end - digits));
}

void append_reply(std::string& out, const mail::Reply& reply) {
  POSTERN_CHECK(reply.code >= 400 && reply.code <= 599, "a refusal has a code of 4xx or 5xx");
  std::string_view text = reply.text;
  for (std::size_t lines = 1;; ++lines) {
    const std::size_t end = text.find('\n');
    const bool last = end == std::string_view::npos || lines == reply_text_lines_max;
    append_line_start(out, reply, last);
    for (const char c : text.substr(0, std::min(end, reply_text_line_max))) out += c >= 0x20 && c < 0x7F ? c : '?';
    out += "\r\n";
    if (last) return;
    text.remove_prefix(end + 1);
  }
}

std::string& ServerSession::reply_sink() {
  return open_slots() == 0 || POSTERN_PLANTED(reply_out_of_order) ? output_
                                                                  : slots_[(next_slot_ - 1) % slots_.size()].behind;
}

void ServerSession::reply_with_hostname(std::string_view code, std::string_view text) {
  std::string& sink = reply_sink();
  sink += code;
  sink += options_->hostname;
  sink += text;
}

void ServerSession::greet() {
  reply_with_hostname("220 ", " ");
  reply(options_->banner);
  reply("\r\n");
}

// The client's mistake.
void ServerSession::reply_error(std::string_view lines) {
  reply(lines);
  ++errors_;
}

// The verdict's refusal.
void ServerSession::reply_refusal(const Verdict& verdict) {
  append_reply(reply_sink(), verdict.refusal);
  ++refusals_;
  if (verdict.disconnect) close_with({});
}

// One for each accepted recipient [RFC 2033 §4.2]; what none was accepted for is answered like any other command.
std::uint32_t ServerSession::content_replies() const {
  return lmtp() ? std::max(transaction_->recipients_accepted, 1u) : 1u;
}

// Said more than once, it is its first line: so that a thousand recipients cannot make megabytes of it.
void ServerSession::repeat_reply(std::string& sink, std::size_t begin, std::uint32_t times) {
  if (times < 2) return;
  sink.resize(sink.find('\n', begin) + 1);
  sink[begin + 3] = ' ';  // behind the code: '-' in all but a reply's last line
  const std::size_t size = sink.size() - begin;
  sink.reserve(begin + size * times);
  for (std::uint32_t said = 1; said < times; ++said) sink.append(sink, begin, size);
}

void ServerSession::close_with(std::string_view lines) {
  reply(lines);
  end_transaction();
  exchange_.reset();
  content_ = {};
  phase_ = Phase::command;
  pending_ = Wait::bytes;
  closing_ = true;
}

// The reply to a command (or to a content) has been made: what may end the session between two commands does so here.
void ServerSession::finish_command() {
  renew_deadline();
  if (closing_) return;
  if (errors_ >= options_->errors_max || refusals_ >= options_->refusals_max || junk_ >= options_->junk_max) {
    reply_with_hostname("421 4.7.0 ", " Too many errors, closing connection\r\n");
    close_with({});
  } else if (early_input_) {
    close_with("554 5.5.0 Input came before its turn, closing connection\r\n");
  } else if (shutting_down_ && at_command_boundary()) {
    reply_with_hostname("421 4.3.2 ", " Shutting down, closing connection\r\n");
    close_with({});
  }
}

std::size_t ServerSession::bytes_behind_slots() const {
  std::size_t bytes = 0;
  for (std::uint64_t slot = first_slot_; slot != next_slot_; ++slot)
    bytes += slots_[slot % slots_.size()].behind.size();
  return bytes;
}

// Where the answer to an open slot is written: straight to the output when it is its turn.
std::string& ServerSession::answer_sink(ReplySlot slot) {
  POSTERN_CHECK(slot.value >= first_slot_ && slot.value < next_slot_, "no such reply slot");
  std::string& answer = slots_[slot.value % slots_.size()].answer;
  POSTERN_CHECK(answer.empty(), "a reply slot is answered once");
  retractable_reply_.reset();
  return slot.value == first_slot_ ? output_ : answer;
}

// The answer of the first open slot stands in the output, from `begin` on; those that are answered behind it follow.
void ServerSession::settle_slot(ReplySlot answered, std::size_t begin) {
  if (answered.value != first_slot_) return;
  do {
    Slot& slot = slots_[first_slot_ % slots_.size()];
    output_ += slot.answer;
    repeat_reply(output_, begin, slot.replies);
    output_ += slot.behind;
    begin = output_.size();
    slot.answer.clear();
    slot.behind.clear();
    ++first_slot_;
  } while (first_slot_ != next_slot_ && !slots_[first_slot_ % slots_.size()].answer.empty());
  output_urgent_ = true;
  renew_deadline();  // it is the client's turn again
}

void ServerSession::on_content_durable(ReplySlot slot, mail::QueueId id, Instant now) {
  note_time(now);
  std::string& sink = answer_sink(slot);
  const std::size_t begin = sink.size();
  sink += "250 2.0.0 Ok: queued as ";
  const auto name = id.to_text();
  sink.append(name.data(), name.size());
  sink += "\r\n";
  settle_slot(slot, begin);
}

void ServerSession::on_content_refused(ReplySlot slot, const mail::Reply& reply, Instant now) {
  note_time(now);
  std::string& sink = answer_sink(slot);
  const std::size_t begin = sink.size();
  append_reply(sink, reply);
  settle_slot(slot, begin);
}

// The last chunk's positive reply is the end of what was said; if it has not left, the failure takes its place.
void ServerSession::fail_transaction(mail::Reply reply) {
  transaction_->dropped = true;
  if (transaction_->content_began) content_dropped_ = true;
  content_ = {};
  if (transaction_->failure) return;
  transaction_->failure = std::move(reply);
  if (!retractable_reply_) return;
  std::string& sink = reply_sink();
  sink.resize(*retractable_reply_);
  retractable_reply_.reset();
  append_reply(sink, *transaction_->failure);
  transaction_->failure_told = true;
}

Bytes ServerSession::output() const {
  return as_bytes(std::string_view(output_).substr(taken_));
}

void ServerSession::on_output_taken(std::size_t bytes) {
  POSTERN_CHECK(bytes <= output_.size() - taken_, "more was taken than there was");
  retractable_reply_.reset();
  taken_ += bytes;
  taken_total_ += bytes;
  if (taken_ == output_.size()) output_urgent_ = false;
  if (taken_ == output_.size() || taken_ >= output_bytes_max) {
    output_.erase(0, taken_);
    taken_ = 0;
  }
}

void ServerSession::on_output_sent(std::uint64_t total) {
  POSTERN_CHECK(total <= taken_total_, "more was sent than was taken");
  sent_total_ = std::max(sent_total_, total);
}

std::string farewell_line(const ServerOptions& options, Farewell reason) {
  switch (reason) {
    case Farewell::connections_exhausted:
      return "421 4.3.2 " + options.hostname + " Too many connections, try again later\r\n";
    case Farewell::too_many_from_peer:
      return "421 4.7.0 " + options.hostname + " Too many connections from your address\r\n";
    case Farewell::too_often_from_peer:
      return "421 4.7.0 " + options.hostname + " Too many connections from your address in this minute\r\n";
    case Farewell::shutting_down:
      return "421 4.3.2 " + options.hostname + " Shutting down, closing connection\r\n";
  }
  return "421 4.3.0 " + options.hostname + " Service not available\r\n";
}

}  // namespace postern::smtp
