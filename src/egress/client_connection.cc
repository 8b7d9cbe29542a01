#include "egress/client_connection.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/planted.h>

#include "egress/egress.h"

namespace postern::egress {

ClientConnection::ClientConnection(Egress& egress, mail::SiteId site, Instant now)
    : egress_(egress),
      site_(site),
      session_(egress.options_.session, now),
      reader_(egress.pieces_, *this),
      timer_(*this) {}

void ClientConnection::deliver(Delivery& delivery) {
  POSTERN_CHECK(delivery_ == nullptr);
  leave_lists();
  delivery_ = &delivery;
  slot_owner_ = delivery.owner;
  holds_slot_ = true;
  const bool going = tell_idle_closed_;
  counted_idle_ = false;
  tell_idle_closed_ = false;
  if (std::exchange(makes_room_, false)) --egress_.leaving_;
  begun_ = false;
  attempts_ = 0;
  hop_ = 0;
  last_failure_ = {};
  unreadable_ = {};
  without_tls_ = false;
  reconnect_ = going;
  if (going) return;  // it goes on over a new connection when this one is closed: it counts as one until then
  if (state_ == State::open) {
    pump();
  } else {
    connect_next();
  }
}

// The next address of the route; the addresses are in the order of preference already.
void ClientConnection::connect_next() {
  const std::vector<route::NextHop>& hops = delivery_->route->next_hops;
  tls_policy_ = egress_.tls_.policy_of(*delivery_->route);
  tls_generation_ = egress_.tls_generation_;
  if (question_expired()) {
    state_ = State::closing;
    delivery_->outcomes.clear();
    give_back(PathState::unknown);
    return end_of_connection();
  }
  egress_.timers_.arm(timer_, delivery_->answer_by);
  if (!find_credentials()) {
    last_failure_ = {0, {4, 3, 5}, "the credentials \"" + delivery_->route->credentials + "\" are gone"};
    return out_of_hosts();
  }
  while (hop_ < hops.size() && attempts_ < egress_.options_.hosts_per_attempt) {
    const route::NextHop& hop = hops[hop_++];
    ++attempts_;
    const bool local = !hop.unix_path.empty();
    const io::Address address = local ? io::Address::unix_path(hop.unix_path) : io::Address::ip(hop.address, hop.port);
    if (local) {
      hop_text_ = address.to_string();
    } else {
      // "mx.example.net[192.0.2.1]:25"; an address that is its own name stands once.
      hop_text_ = hop.host.starts_with('[') ? hop.host : hop.host + "[" + hop.address.to_string() + "]";
      hop_text_ += ":" + std::to_string(hop.port);
    }
    StatusOr<net::Connection*> connection =
        egress_.connections_.connect(address, {}, egress_.options_.connect_timeout, *this);
    if (connection.ok()) {
      connection_ = *connection;
      state_ = State::connecting;
      lost_ = false;
      return;
    }
    without_tls_ = false;
    last_failure_ = {0, {4, 4, 1}, hop_text_ + ": " + std::string(message_of(connection.status()))};
  }
  out_of_hosts();
}

void ClientConnection::on_connected() {
  const Instant now = egress_.loop_.now();
  state_ = State::open;
  egress_.user_.on_connection_opened();
  securing_ = false;
  tls_facts_ = {};
  session_.reset(now, delivery_->route->transport == mail::Transport::lmtp ? smtp::Dialect::lmtp : smtp::Dialect::smtp,
                 start_tls(now), credentials_.get());
  authenticated_ = salting_ = false;
  begun_ = false;
  egress_.timers_.arm(timer_, std::min(session_.next_deadline(), delivery_->answer_by));
}

bool ClientConnection::question_expired() const {
  return delivery_ != nullptr && delivery_->answer_by <= egress_.loop_.now();
}

void ClientConnection::give_up_question() {
  if (delivery_ == nullptr || !delivery_->is_question()) return;
  delivery_->answer_by = egress_.loop_.now();
  egress_.timers_.arm(timer_, delivery_->answer_by);
}

std::size_t ClientConnection::on_received(MutableBytes bytes) {
  session_.on_bytes(bytes, egress_.loop_.now());
  pump();
  return bytes.size();
}

void ClientConnection::on_end_of_stream() {
  session_.on_connection_lost(egress_.loop_.now());
  pump();
}

void ClientConnection::on_lost(const Status& status) {
  if (state_ == State::connecting) {
    last_failure_ = {0, {4, 4, 1}, hop_text_ + ": " + std::string(message_of(status))};
    state_ = State::closing;
    reconnect_ = true;
    without_tls_ = false;
    return;  // on_closed() follows
  }
  lost_ = true;
  if (state_ == State::open) {
    session_.on_tls_failed(message_of(status), egress_.loop_.now());
    pump();
  }
  state_ = State::closing;
}

void ClientConnection::on_sent() {
  send_in_flight_ = false;
  if (std::exchange(commands_secret_, false)) sasl::wipe(commands_);
  pump();
}

void ClientConnection::on_content_ready() {
  pump();
}

void ClientConnection::on_timer(Timer& /*timer*/, Instant now) {
  if (question_expired() && (state_ == State::connecting || state_ == State::open)) return abort();
  if (state_ != State::open) return;
  if (session_.want() == smtp::ClientSession::Want::handshake) {
    if (delivery_ != nullptr) egress_.timers_.arm(timer_, delivery_->answer_by);
    if (!securing_) secure();
    return;
  }
  if (counted_idle_) {
    quit();
    return;
  }
  session_.on_deadline(now);
  if (send_in_flight_ && (session_.has_result() || session_.want() == smtp::ClientSession::Want::close)) {
    // The peer does not even take what we say: the kernel must let go of the delivery's memory before it is given back.
    lost_ = true;
    state_ = State::closing;
    connection_->abort();
    return;
  }
  pump();
}

void ClientConnection::begin(Instant now) {
  POSTERN_CHECK((credentials_ != nullptr) != delivery_->route->credentials.empty(), "another's connection");
  if (credentials_ != nullptr) note_authenticated();
  if (delivery_->is_question()) {
    begun_ = true;
    const std::string_view path = delivery_->question;
    return session_.begin({.forward_paths = {&path, 1}, .only_ask = true}, now);
  }
  const mail::Message& message = *delivery_->message;
  paths_.clear();
  dsn_requests_.clear();
  for (const std::uint16_t index : delivery_->work.recipients) {
    const mail::RecipientView recipient = message.envelope.recipient(index);
    paths_.push_back(recipient.forward_path.text);
    dsn_requests_.push_back({.notify = recipient.notify, .original_recipient = recipient.original_recipient});
  }
  begun_ = true;
  content_started_ = false;
  const mail::EnvelopeHead& head = message.envelope.head;
  std::optional<mail::DeliverBy> deliver_by;
  if (head.deliver_by != WallTime{}) {
    constexpr std::int64_t most = 999'999'999;
    const auto left = std::chrono::floor<std::chrono::seconds>(head.deliver_by - egress_.loop_.clocks().wall).count();
    deliver_by = {.seconds = static_cast<std::int32_t>(std::clamp(std::int64_t{left}, -most, most)),
                  .returns = head.deliver_by_returns,
                  .trace = head.deliver_by_trace};
  }
  const bool leaves_this_machine = !hop_text_.starts_with("unix:");
  session_.begin({.reverse_path = message.envelope.reverse_path().text,
                  .forward_paths = paths_,
                  .body = message.envelope.head.body,
                  .smtp_utf8 = message.envelope.head.smtp_utf8,
                  .content = message.facts,
                  .added_bytes = message.added_fields.size(),
                  .dsn_requests = dsn_requests_,
                  .dsn_return = message.envelope.head.dsn_return,
                  .envelope_id = message.envelope.dsn_envelope_id(),
                  .priority = message.envelope.head.priority,
                  .deliver_by = deliver_by,
                  .require_tls = head.require_tls && leaves_this_machine,
                  .tls_suffices = tls_suffices()},
                 now);
}

// A name out of an MX record is nobody's word until DNSSEC or a policy of the domain vouches for it [RFC 8689 §2].
bool ClientConnection::tls_suffices() const {
  const bool named_by_us = !tls_policy_.names.empty() || !delivery_->route->site_key.starts_with("mx:");
  return tls_policy_.level == route::TlsLevel::verified && tls_facts_.peer_verified && named_by_us;
}

// Carries everything that can go on: results first, then output and content, until the session waits for the peer.
void ClientConnection::pump() {
  if (pumping_ || state_ != State::open) return;
  pumping_ = true;
  const Instant now = egress_.loop_.now();
  for (;;) {
    if (session_.has_result()) {
      // A reply may come before the kernel has let go of what it answers: the memory is the delivery's until then.
      if (send_in_flight_) break;
      take_result(now);
    } else if (session_.want() == smtp::ClientSession::Want::delivery && delivery_ != nullptr && !begun_ &&
               !reconnect_) {
      begin(now);
    } else if (!go_on_with_auth(now)) {
      if (!send_in_flight_ && !lost_) flush();
      if (!session_.has_result()) break;
    }
  }
  if (session_.want() == smtp::ClientSession::Want::close && !send_in_flight_ && session_.output().empty()) {
    note_unbegun();
    if (state_ == State::open) close_connection();
  } else {
    Instant deadline = session_.next_deadline();
    if (counted_idle_) deadline = now + egress_.options_.idle;
    if (session_.has_result()) deadline = std::min(deadline, now + egress_.options_.linger);
    if (delivery_ != nullptr) deadline = std::min(deadline, delivery_->answer_by);
    // Not from here, which may be within the connection's call.
    if (session_.want() == smtp::ClientSession::Want::handshake && !securing_ && !send_in_flight_) deadline = now;
    if (POSTERN_PLANTED(timeout_never_fired) && delivery_ != nullptr) deadline = never;
    egress_.timers_.arm(timer_, deadline);
  }
  pumping_ = false;
}

// The session ended before its delivery began: greeting or EHLO refused, or a kept connection that was dying.
void ClientConnection::note_unbegun() {
  if (delivery_ == nullptr || begun_ || reconnect_) return;
  if (!session_.greeted()) last_failure_ = session_.failure();
  if (session_.tls_failed()) note_tls_failed();
  if (session_.auth_trouble() != smtp::ClientSession::AuthTrouble::none) note_auth_failed();
  reconnect_ = true;
}

// Hands over the session's commands and, when it wants that, the content behind them, in one send.
void ClientConnection::flush() {
  const Instant now = egress_.loop_.now();
  slices_.clear();
  const Bytes output = session_.output();
  if (!output.empty()) {
    commands_.assign(as_text(output));
    commands_secret_ = session_.output_is_secret();
    session_.on_output_taken(commands_.size());
    slices_.push_back({reinterpret_cast<const std::byte*>(commands_.data()), commands_.size()});
  }
  if (session_.want() == smtp::ClientSession::Want::content) gather_content(now);
  if (slices_.empty() || state_ != State::open) return;
  send_in_flight_ = true;
  connection_->send(slices_);
}

void ClientConnection::gather_content(Instant now) {
  const smtp::ContentPlan& plan = session_.content_plan();
  if (!content_started_) {
    content_started_ = true;
    reader_.start(*delivery_, plan.stuff ? std::optional(smtp::ContentConverter::Kind::stuff) : std::nullopt);
  }
  switch (reader_.next(slices_)) {
    case ContentReader::State::slices:
      session_.on_content_progress(now);
      if (!reader_.drained()) return;
      [[fallthrough]];
    case ContentReader::State::end:
      if (!plan.trailer.empty()) {
        slices_.push_back({reinterpret_cast<const std::byte*>(plan.trailer.data()), plan.trailer.size()});
      }
      session_.on_content_sent(now);
      return;
    case ContentReader::State::pending:
      return;
    case ContentReader::State::failed:
      // What was promised cannot be sent: the connection must not go on as if it were complete.
      unreadable_ = {0, {4, 3, 0}, "the spool could not be read: " + std::string(message_of(reader_.status()))};
      session_.on_connection_lost(now);
      return;
  }
}

void ClientConnection::take_result(Instant now) {
  smtp::DeliveryResult result = session_.take_result();
  reader_.stop();
  keep_tls_session();
  using Disposition = smtp::DeliveryResult::Disposition;
  if (result.disposition == Disposition::retry_on_fresh_connection) {
    begun_ = false;
    hop_ = 0;
    reconnect_ = true;
    session_.quit(now);
    return;
  }
  const bool more_hosts = hop_ < delivery_->route->next_hops.size() && attempts_ < egress_.options_.hosts_per_attempt;
  if (result.disposition == Disposition::host_lacks_extension && more_hosts) {
    begun_ = false;
    reconnect_ = true;
    session_.quit(now);
    return;
  }
  // A host that was lost before it had said anything about the message: the next one may do better [RFC 5321 §5.1].
  const auto unheard = [](const mail::RecipientResult& r) {
    return r.outcome == mail::Outcome::deferred && r.reply.code == 0;
  };
  if (result.connection == smtp::ConnectionVerdict::lost && !result.reply_unknown && more_hosts &&
      unreadable_.text.empty() && std::ranges::all_of(result.recipients, unheard)) {
    last_failure_ = result.recipients.front().reply;
    begun_ = false;
    reconnect_ = true;
    return;
  }
  delivery_->outcomes.clear();
  for (std::size_t i = 0; i < result.recipients.size(); ++i) {
    if (result.recipients[i].beyond_limit) continue;  // goes back to the front of its queue
    if (!unreadable_.text.empty()) result.recipients[i].reply = unreadable_;
    delivery_->outcomes.push_back(
        {.recipient = delivery_->work.recipients[i], .result = std::move(result.recipients[i])});
  }
  const bool usable = result.connection == smtp::ConnectionVerdict::reusable && state_ == State::open && !lost_;
  const bool keep = usable && session_.transactions() < egress_.options_.messages_per_connection &&
                    egress_.options_.idle > Duration::zero() && !egress_.closing_;
  delivery_->next_hop = hop_text_;
  delivery_->keeps_dsn = session_.extensions().dsn;
  delivery_->keeps_deadline = session_.extensions().deliver_by;
  delivery_->rcpt_answered = result.rcpt_answered;
  delivery_->tls_version = tls_facts_.version;
  delivery_->tls_cipher = tls_facts_.cipher;
  delivery_->tls_verified = tls_facts_.peer_verified;
  give_back(PathState::usable);
  if (keep) {
    counted_idle_ = true;
    holds_slot_ = false;
    egress_.make_idle(*this);
    egress_.slot_free(site_, slot_owner_, true);
  } else if (usable) {
    session_.quit(now);
  }
}

// The delivery's outcomes are complete, or it was not attempted.
void ClientConnection::give_back(PathState path) {
  Delivery& delivery = *std::exchange(delivery_, nullptr);
  begun_ = false;
  delivery.path = path;
  if (path == PathState::failed) delivery.path_reply = last_failure_;
  egress_.finish(delivery);
}

void ClientConnection::out_of_hosts() {
  state_ = State::closing;
  if (last_failure_.text.empty() && last_failure_.code == 0)
    last_failure_ = {0, {4, 4, 1}, "no next hop could be reached"};
  delivery_->outcomes.clear();
  for (const std::uint16_t index : delivery_->work.recipients) {
    delivery_->outcomes.push_back({.recipient = index, .result = {mail::Outcome::deferred, last_failure_}});
  }
  give_back(PathState::failed);
  end_of_connection();
}

void ClientConnection::quit() {
  POSTERN_CHECK(delivery_ == nullptr && state_ == State::open);
  leave_lists();
  counted_idle_ = false;
  go();
  session_.quit(egress_.loop_.now());
  pump();
}

void ClientConnection::quit_at_once() {
  if (counted_idle_) quit();
  if (state_ == State::open) close_connection();
}

void ClientConnection::make_room() {
  makes_room_ = true;
  ++egress_.leaving_;
  quit_at_once();
}

// It counts as idle until it is closed, and its site's next delivery may still claim its place.
void ClientConnection::go() {
  tell_idle_closed_ = true;
  egress_.make_going(*this);
}

void ClientConnection::abort() {
  POSTERN_CHECK(connection_ != nullptr, "a client connection lives as long as its connections");
  aborted_ = true;
  state_ = State::closing;
  timer_.cancel();
  connection_->abort();
}

void ClientConnection::close_connection() {
  state_ = State::closing;
  timer_.cancel();
  if (std::exchange(counted_idle_, false)) {
    leave_lists();
    go();
  }
  if (!lost_) connection_->close_orderly(egress_.options_.linger);
}

void ClientConnection::on_closed() {
  connection_ = nullptr;
  send_in_flight_ = false;
  if (std::exchange(commands_secret_, false)) sasl::wipe(commands_);
  SaltedPasswords::forget(*this);
  timer_.cancel();
  if (std::exchange(counted_idle_, false)) tell_idle_closed_ = true;
  leave_lists();
  if (delivery_ != nullptr && aborted_) {
    reader_.stop();
    delivery_->outcomes.clear();
    give_back(PathState::unknown);
  }
  if (delivery_ != nullptr && session_.has_result()) take_result(egress_.loop_.now());
  note_unbegun();
  lost_ = false;
  if (delivery_ != nullptr && std::exchange(reconnect_, false)) {
    state_ = State::idle_unconnected;
    connect_next();
    return;
  }
  POSTERN_CHECK(delivery_ == nullptr, "a delivery outlives its connection");
  end_of_connection();
}

// The object goes; its slot, or its place among the idle, becomes free.
void ClientConnection::end_of_connection() {
  const bool held = std::exchange(holds_slot_, false);
  const bool idle = std::exchange(tell_idle_closed_, false);
  Egress& egress = egress_;
  const mail::SiteId site = site_;
  const queue::ShardIndex owner = slot_owner_;
  egress.remove(*this);  // destroys this
  if (held) egress.slot_free(site, owner, false);
  if (idle) egress.user_.on_idle_closed(site);
}

}  // namespace postern::egress
