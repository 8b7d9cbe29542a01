#include "bench/sink_session.h"

#include <utility>

#include "bench/sink.h"

namespace postern::bench {
namespace {

constexpr Duration linger = std::chrono::seconds(2);

smtp::ServerFacts facts_of(const io::Address& peer) {
  return {.peer_address = peer.is_ip() ? peer.ip().to_string() : "unix"};
}

smtp::Verdict verdict_of(const mail::Reply* refusal) {
  return refusal == nullptr ? smtp::Verdict::accept() : smtp::Verdict::refuse(*refusal, refusal->code == 421);
}

}  // namespace

SinkSession::SinkSession(Sink& sink, const io::Address& peer, Instant now)
    : sink_(sink), session_(sink.session_options_, facts_of(peer), now), delay_timer_(*this) {}

void SinkSession::start(net::Connection& connection) {
  connection_ = &connection;
  (void)give_verdict(sink_.engine_.loop->now());
  after_progress();
}

std::size_t SinkSession::on_received(MutableBytes bytes) {
  feeding_ = true;
  const std::size_t used = feed(bytes);
  feeding_ = false;
  if (closing_) return bytes.size();
  after_progress();
  return used;
}

std::size_t SinkSession::feed(Bytes bytes) {
  const Instant now = sink_.engine_.loop->now();
  std::size_t used = 0;
  for (;;) {
    if (session_.wait() != smtp::Wait::bytes) {
      if (give_verdict(now)) continue;
      // Nothing is consumed now; that more has come already is what the session wants to know of early talkers.
      if (used < bytes.size()) (void)session_.on_bytes(bytes.subspan(used), now);
      return session_.wait() == smtp::Wait::close ? bytes.size() : used;
    }
    if (used == bytes.size()) return used;
    used += session_.on_bytes(bytes.subspan(used), now);
    if (session_.take_content_dropped()) {
      check_.begin();
      content_bytes_ = 0;
    }
    if (const Bytes piece = session_.take_content(); !piece.empty()) {
      check_.append(piece);
      content_bytes_ += piece.size();
    }
  }
}

bool SinkSession::give_verdict(Instant now) {
  static const mail::Reply enough_messages{421, {4, 3, 2}, "enough messages on this connection"};
  static const mail::Reply enough_connections{421, {4, 3, 2}, "enough connections"};
  if (delaying_ || closing_) return false;
  Stage stage = Stage::connect;
  const mail::Reply* limit = nullptr;
  switch (session_.wait()) {
    case smtp::Wait::connect_verdict:
      if (sink_.options_.connections > 0 && sink_.counts_.connections_now > sink_.options_.connections) {
        limit = &enough_connections;
      }
      break;
    case smtp::Wait::hello_verdict:
      stage = Stage::hello;
      break;
    case smtp::Wait::mail_verdict:
      stage = Stage::mail;
      if (sink_.options_.messages_per_connection > 0 && messages_ >= sink_.options_.messages_per_connection) {
        limit = &enough_messages;
      }
      break;
    case smtp::Wait::recipient_verdict:
      stage = Stage::rcpt;
      break;
    case smtp::Wait::data_verdict:
      stage = Stage::data;
      break;
    case smtp::Wait::content_verdict:
      stage = Stage::end;
      break;
    case smtp::Wait::tls_verdict:  // not offered here, nor are the next five
    case smtp::Wait::tls:
    case smtp::Wait::auth_credentials:
    case smtp::Wait::auth_verdict:
    case smtp::Wait::wake_verdict:
    case smtp::Wait::identity_verdict:
    case smtp::Wait::bytes:
    case smtp::Wait::reply_slot:
    case smtp::Wait::output:
    case smtp::Wait::close:
      return false;
  }
  if (limit != nullptr) return carry_out(stage, {.reply = limit, .delay = {}, .hang_up = false}, now);
  const Behaviour& behaviour = sink_.options_.behaviour;
  return carry_out(stage, behaviour.good() ? Act{} : behaviour.at(stage, sink_.random_), now);
}

bool SinkSession::carry_out(Stage stage, const Act& act, Instant now) {
  if (act.delay > Duration::zero()) {
    delayed_ = act;
    delayed_.delay = Duration::zero();
    delaying_ = stage;
    sink_.engine_.timers.arm(delay_timer_, now + act.delay);
    return false;
  }
  if (act.hang_up) {
    hang_up();
    return false;
  }
  if (act.reply != nullptr) ++sink_.counts_.refusals;
  switch (stage) {
    case Stage::connect:
      session_.on_connect_verdict(verdict_of(act.reply), now);
      break;
    case Stage::hello:
      session_.on_hello_verdict(verdict_of(act.reply), now);
      break;
    case Stage::mail:
      session_.on_mail_verdict(verdict_of(act.reply), now);
      break;
    case Stage::rcpt:
      session_.on_recipient_verdict(verdict_of(act.reply), now);
      break;
    case Stage::data:
      check_.begin();
      content_bytes_ = 0;
      session_.on_data_verdict(verdict_of(act.reply), now);
      break;
    case Stage::end:
      finish_message(act.reply, now);
      break;
  }
  return true;
}

void SinkSession::finish_message(const mail::Reply* refusal, Instant now) {
  const smtp::FinishedTransaction finished = session_.take_transaction(envelope_);
  const ContentCheck::Result content = check_.finish();
  const std::uint64_t bytes = std::exchange(content_bytes_, 0);
  if (refusal != nullptr) {
    session_.on_content_refused(finished.slot, *refusal, now);
    return;
  }
  ++messages_;
  ++sink_.counts_.messages;
  sink_.last_message_at_ = now;
  sink_.counts_.recipients += envelope_.recipient_count();
  sink_.counts_.bytes += bytes;
  for (std::size_t i = 0; i < envelope_.recipient_count(); ++i) {
    sink_.ledger_->on_arrived(content, parse_recipient(envelope_.recipient(i).forward_path.text), now);
  }
  session_.on_content_durable(finished.slot, mail::QueueId{sink_.next_id_++}, now);
}

void SinkSession::shut_down() {
  if (closing_) return;
  session_.on_shutdown();
  after_progress();
}

void SinkSession::hang_up() {
  ++sink_.counts_.hang_ups;
  closing_ = true;
  delay_timer_.cancel();
  connection_->abort();
}

void SinkSession::on_timer(Timer& /*timer*/, Instant now) {
  const std::optional<Stage> stage = std::exchange(delaying_, std::nullopt);
  if (!stage || closing_) return;
  (void)carry_out(*stage, delayed_, now);
  after_progress();
}

// Replies go out, reading goes on.
void SinkSession::after_progress() {
  if (feeding_ || closing_ || send_in_flight_) {
    if (!feeding_ && !closing_ && session_.wait() == smtp::Wait::bytes && !half_closed_) connection_->resume();
    return;
  }
  const Bytes output = session_.output();
  if (!output.empty()) {
    sending_.assign(as_text(output));
    session_.on_output_taken(sending_.size());
    send_in_flight_ = true;
    connection_->send(as_bytes(sending_));
    session_.on_output_sent(session_.output_total());
  } else if (session_.wait() == smtp::Wait::close || (half_closed_ && session_.open_slots() == 0 && !delaying_)) {
    closing_ = true;
    delay_timer_.cancel();
    connection_->close_orderly(linger);
    return;
  }
  if (session_.wait() == smtp::Wait::bytes && !half_closed_) connection_->resume();
}

void SinkSession::on_sent() {
  send_in_flight_ = false;
  after_progress();
}

void SinkSession::on_end_of_stream() {
  half_closed_ = true;
  after_progress();
}

void SinkSession::on_lost(const Status& /*status*/) {
  closing_ = true;
  delay_timer_.cancel();
}

void SinkSession::on_closed() {
  sink_.remove(*this);  // destroys this
}

}  // namespace postern::bench
