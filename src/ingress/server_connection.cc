#include "ingress/server_connection.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/base/check.h>
#include <postern/smtp/proxy_header.h>

#include "ingress/ingress.h"

namespace postern::ingress {
namespace {

// Peers of a unix socket are this machine's, whose rights the socket's mode has judged.
bool is_in(const policy::NetworkSet& networks, const io::Address& peer) {
  return peer.is_ip() && networks.contains(peer.ip());
}

smtp::ServerFacts facts_of(const ListenerContext& listener, const io::Address& peer) {
  return {.peer_address = peer.is_ip() ? peer.ip().to_string() : "unix",
          .may_xclient = is_in(listener.xclient_from, peer),
          .may_xforward = is_in(listener.xforward_from, peer)};
}

// The bookkeeping of a message beside its content: object, envelope, queue entry.
constexpr std::uint64_t message_overhead_bytes = 1024;

const mail::Reply memory_reply{452, {4, 3, 1}, "Insufficient memory, try again later"};

}  // namespace

ServerConnection::ServerConnection(Ingress& ingress, std::shared_ptr<const ListenerContext> listener,
                                   const io::Address& peer, Instant now)
    : ingress_(ingress),
      listener_(std::move(listener)),
      peer_(peer),
      peer_text_(peer.to_string()),
      session_(listener_->session, facts_of(*listener_, peer), now),
      timer_(*this),
      may_relay_(!peer.is_ip() || listener_->relay_from.contains(peer.ip())) {
  session_.set_clocks(ingress_.loop_.clocks());
  session_.set_trusted(may_relay_);
}

ServerConnection::~ServerConnection() {
  drop_content();
}

void ServerConnection::start(net::Connection& connection, bool proxied, Instant now) {
  connection_ = &connection;
  if (proxied) {
    awaits_proxy_header_ = true;
    ingress_.timers_.arm(timer_, now + ingress_.options_.proxy_header_max);
    return;
  }
  begin_session(false, now);
  after_progress();
}

// `input_waits`: some is here already.
void ServerConnection::begin_session(bool input_waits, Instant now) {
  ingress_.observer_.on_connected(peer_);
  announced_ = true;
  if (!input_waits && !ingress_.loop_.input_waiting(connection_->descriptor())) {
    session_.on_connect_verdict(smtp::Verdict::accept(), now);
  }
}

std::size_t ServerConnection::on_received(MutableBytes bytes) {
  std::size_t used = 0;
  if (awaits_proxy_header_) {
    used = take_proxy_header(bytes, ingress_.loop_.now());
    if (awaits_proxy_header_ || closing_) return bytes.size();
  }
  if (used < bytes.size()) {
    feeding_ = true;
    used += feed(Bytes(bytes).subspan(used));
    feeding_ = false;
  }
  after_progress();
  return used;
}

std::size_t ServerConnection::take_proxy_header(Bytes bytes, Instant now) {
  const std::size_t before = proxy_header_.size();
  proxy_header_ += as_text(bytes.first(std::min(bytes.size(), smtp::proxy_header_bytes_max - before)));
  const smtp::ProxyProgress progress = smtp::parse_proxy_header(as_bytes(proxy_header_));
  switch (progress.state) {
    case smtp::ProxyProgress::State::incomplete:
      return bytes.size();
    case smtp::ProxyProgress::State::malformed:
      ingress_.observer_.on_turned_away(peer_, "its connection does not begin with a PROXY header");
      drop_silently();
      return bytes.size();
    case smtp::ProxyProgress::State::complete:
      break;
  }
  const std::size_t used = progress.consumed - before;
  awaits_proxy_header_ = false;
  proxy_header_ = {};
  timer_.cancel();
  if (progress.header.local) {
    // A health check, or a client that the balancer cannot name: neither relays.
    may_relay_ = false;
    session_.set_trusted(false);
    session_.set_facts({.peer_address = session_.facts().peer_address});
  } else {
    set_peer(io::Address::ip(progress.header.source, progress.header.source_port), false);
    session_.set_facts(facts_of(*listener_, peer_));
    if (ingress_.peer_counts_.try_acquire(peer_.ip())) {
      counted_ = peer_.ip();
    } else {
      begin_session(true, now);
      session_.on_connect_verdict(
          smtp::Verdict::refuse({421, {4, 7, 0}, "Too many connections from your address"}, true), now);
      return used;
    }
  }
  begin_session(used < bytes.size(), now);
  return used;
}

// Whoever does not speak the protocol learns nothing of what is here.
void ServerConnection::drop_silently() {
  closing_ = true;
  timer_.cancel();
  connection_->abort();
}

void ServerConnection::set_peer(const io::Address& peer, bool authenticated) {
  peer_ = peer;
  peer_text_ = peer.empty() ? "unknown" : peer.to_string();
  may_relay_ = authenticated || is_in(listener_->relay_from, peer_);
  session_.set_trusted(may_relay_);
}

// ETRN, from whoever may have mail queued for that domain.
void ServerConnection::wake(Instant now) {
  using smtp::Verdict;
  const std::string_view domain = session_.wake_domain();
  if (!may_relay_ && !ingress_.relay_policy_->accepts_domain(domain)) {
    const mail::Reply reply{459, {4, 7, 1}, "Not permitted for that node"};
    ingress_.observer_.on_rejected(peer_, nullptr, domain, reply);
    return session_.on_wake_verdict(Verdict::refuse(reply), false, now);
  }
  switch (ingress_.door_.wake(domain)) {
    case Door::Woken::waiting:
      return session_.on_wake_verdict(Verdict::accept(), true, now);
    case Door::Woken::nothing:
      return session_.on_wake_verdict(Verdict::accept(), false, now);
    case Door::Woken::too_soon:
      return session_.on_wake_verdict(Verdict::refuse({458, {4, 7, 0}, "Asked for a moment ago, wait"}), false, now);
    case Door::Woken::no_domain:
      return session_.on_wake_verdict(Verdict::refuse({459, {4, 1, 2}, "That is no domain"}), false, now);
  }
}

// XCLIENT: the client is who the listed peer says it is, for all that follows.
void ServerConnection::on_identity_asserted(Instant now) {
  const smtp::ClientIdentity& identity = session_.asserted_client();
  io::Address peer = peer_;
  if (identity.address_given && !identity.address) peer = {};
  if (identity.address) peer = io::Address::ip(*identity.address, identity.port.value_or(0));
  set_peer(peer, !identity.login.value_or("").empty());
  session_.on_identity_verdict(smtp::Verdict::accept(), now);
}

std::size_t ServerConnection::feed(Bytes bytes) {
  const Instant now = ingress_.loop_.now();
  std::size_t used = 0;
  if (session_.wait() == smtp::Wait::connect_verdict) {
    // It came before the greeting: the session notes that, and says so behind it.
    (void)session_.on_bytes(bytes, now);
    session_.on_connect_verdict(smtp::Verdict::accept(), now);
  }
  for (;;) {
    if (session_.wait() != smtp::Wait::bytes) {
      if (give_verdict(now)) continue;
      // Nothing is consumed now; that more has come already is what the session wants to know of early talkers.
      if (used < bytes.size()) (void)session_.on_bytes(bytes.subspan(used), now);
      return session_.wait() == smtp::Wait::close ? bytes.size() : used;
    }
    if (used == bytes.size()) return used;
    const Bytes rest = bytes.subspan(used);
    // Room first: what the session has consumed must be kept or the transaction is lost.
    if (message_ && !make_room(rest.size(), now)) return used;
    used += session_.on_bytes(rest, now);
    if (session_.take_content_dropped()) drop_content();
    if (const Bytes piece = session_.take_content(); !piece.empty() && message_) message_->content.append(piece);
  }
}

// One verdict for the wait the session is in; false when it waits for something that comes later.
bool ServerConnection::give_verdict(Instant now) {
  using smtp::Verdict;
  switch (session_.wait()) {
    case smtp::Wait::wake_verdict:
      wake(now);
      return true;
    case smtp::Wait::identity_verdict:
      on_identity_asserted(now);
      return true;
    case smtp::Wait::hello_verdict:
      session_.set_clocks(ingress_.loop_.clocks());
      session_.on_hello_verdict(Verdict::accept(), now);
      return true;
    case smtp::Wait::mail_verdict:
      session_.set_clocks(ingress_.loop_.clocks());
      if (const mail::Reply* refusal = ingress_.door_.refuse_mail(*session_.envelope())) {
        ingress_.observer_.on_rejected(peer_, session_.envelope(), {}, *refusal);
        session_.on_mail_verdict(Verdict::refuse(*refusal), now);
      } else {
        session_.on_mail_verdict(Verdict::accept(), now);
      }
      return true;
    case smtp::Wait::recipient_verdict:
      give_recipient_verdict(now);
      return true;
    case smtp::Wait::data_verdict:
      begin_content();
      session_.on_data_verdict(Verdict::accept(), now);
      return true;
    case smtp::Wait::content_verdict:
      finish_transaction(now);
      return true;
    case smtp::Wait::connect_verdict:  // given by start() or feed()
    case smtp::Wait::bytes:
    case smtp::Wait::reply_slot:
    case smtp::Wait::output:
    case smtp::Wait::close:
      return false;
  }
  return false;
}

// May the peer send there; does the recipient exist, if it is one of ours; does a route take whom the mail goes to.
void ServerConnection::give_recipient_verdict(Instant now) {
  const mail::PathView path = session_.recipient().forward_path;
  const auto refuse = [&](const mail::Reply& reply) {
    ingress_.observer_.on_rejected(peer_, session_.envelope(), path.text, reply);
    session_.on_recipient_verdict(smtp::Verdict::refuse(reply), now);
  };
  const policy::RelayPolicy& relay_policy = *ingress_.relay_policy_;
  const policy::Verdict verdict = relay_policy.judge_recipient({.may_relay = may_relay_}, path, 0);
  if (verdict.kind == policy::Verdict::Kind::refuse) {
    return refuse({verdict.code, verdict.status, std::string(verdict.text)});
  }

  std::vector<std::string_view>& targets = ingress_.targets_;
  targets.clear();
  const std::string_view domain = path.domain().empty() ? relay_policy.postmaster_domain() : path.domain();
  if (ingress_.recipients_ && relay_policy.accepts_domain(domain)) {
    std::string postmaster;  // without a domain [RFC 5321 §4.5.1]
    mail::PathView looked_up = path;
    if (path.domain().empty()) {
      postmaster.append(path.text).append("@").append(domain);
      looked_up = {postmaster, static_cast<std::uint16_t>(path.text.size() + 1)};
    }
    if (ingress_.recipients_->find(looked_up, targets) == policy::RecipientTable::Found::unknown) {
      return refuse({550, {5, 1, 1}, "No such recipient here"});
    }
  }
  if (targets.empty()) {
    if (const mail::Reply* refusal = ingress_.door_.refuse_recipient(path)) return refuse(*refusal);
    return session_.on_recipient_verdict(smtp::Verdict::accept(), now);
  }
  if (session_.envelope()->recipient_count() + targets.size() > mail::Envelope::recipients_max) {
    return refuse({452, {4, 5, 3}, "Too many recipients"});
  }
  for (const std::string_view target : targets) {
    const mail::PathView target_path{target, static_cast<std::uint16_t>(target.rfind('@') + 1)};
    if (const mail::Reply* refusal = ingress_.door_.refuse_recipient(target_path)) return refuse(*refusal);
  }
  session_.on_recipient_expanded(targets, now);
}

void ServerConnection::begin_content() {
  drop_content();
  message_ = ingress_.door_.new_message();
  const mail::EnvelopeHead& head = session_.envelope()->head;
  // A declared size is the client's word: believed only as far as it saves an allocation.
  if (head.declared_size > 0) message_->content.expect(std::min<std::uint64_t>(head.declared_size, 64u << 10));
}

// Sees to it that `bytes` more of content can be kept: memory from the budget, or by streaming out what is here.
// False: not now; the connection stalls and is resumed by on_resources().
bool ServerConnection::make_room(std::size_t bytes, Instant now) {
  const IngressOptions& options = ingress_.options_;
  if (streamed_.value != 0 || message_->content.size() + bytes > options.inline_content_max) {
    if (!stream_out(options.chunk_bytes, now) && stalled_) return false;
    if (!message_) return true;  // it failed: the session swallows the rest
  }
  // What was taken for bytes that turned out to be commands behind a chunk is still there.
  const auto growth = [&] {
    const mail::Message& message = *message_;
    const std::uint64_t needed =
        message_overhead_bytes + message.content.memory_bytes() + message.content.growth_for(bytes);
    return needed - std::min(needed, message.budget_bytes);
  };
  if (ingress_.door_.take_memory(*message_, growth())) {
    stalled_since_ = never;
    return true;
  }
  // No memory: let the disk hold this one, if there is enough of it to be worth a chunk.
  if (message_->content.size() >= ChunkList::small_bytes) {
    if (!stream_out(0, now) && stalled_) return false;
    if (!message_) return true;
    if (ingress_.door_.take_memory(*message_, growth())) {
      stalled_since_ = never;
      return true;
    }
  }
  stall(now);
  return false;
}

// Waits for on_resources(). A client that is tried again and stalls again has waited all the time.
void ServerConnection::stall(Instant now) {
  if (std::exchange(stalled_, true)) return;
  if (stalled_since_ == never) stalled_since_ = now;
  ingress_.stalled_.push_back(*this);
}

// Moves content from memory into the spool until fewer than `keep_bytes` + 1 are left (whole chunks only, but for 0).
// False when the spool had no room (the connection stalls) or failed (the content is given up).
bool ServerConnection::stream_out(std::size_t keep_bytes, Instant now) {
  ChunkList& content = message_->content;
  while (content.size() > keep_bytes && content.chunk_count() > 0) {
    const Bytes chunk = content.chunk(0);
    if (keep_bytes > 0 && content.chunk_count() == 1 && chunk.size() < ChunkList::chunk_bytes) break;
    if (streamed_.value == 0) streamed_ = ingress_.door_.begin_content();
    const Status status = ingress_.door_.append_chunk(streamed_, chunk);
    if (status.code() == StatusCode::kResourceExhausted) {
      stall(now);
      return false;
    }
    if (!status.ok()) {
      refuse_content({451, {4, 3, 0}, "Local error in storage"}, now);
      return false;
    }
    const std::size_t before = content.memory_bytes();
    content.drop_front();
    stalled_since_ = never;
    ingress_.door_.give_memory(*message_, before - content.memory_bytes());
  }
  return true;
}

void ServerConnection::refuse_content(const mail::Reply& reply, Instant now) {
  drop_content();
  session_.on_content_failed(reply, now);
}

void ServerConnection::drop_content() {
  if (streamed_.value != 0) ingress_.door_.abandon_content(streamed_);
  streamed_ = {};
  stalled_since_ = never;
  if (message_) ingress_.door_.discard_message(std::move(message_));
  message_.reset();
}

void ServerConnection::finish_transaction(Instant now) {
  if (!message_) {  // its content was given up: the session knows, and has answered
    session_.on_content_failed(memory_reply, now);
    return;
  }
  std::string forwarded;
  if (const smtp::ClientIdentity& client = session_.forwarded_client(); client.address) {
    forwarded = io::Address::ip(*client.address, client.port.value_or(0)).to_string();
  }
  const smtp::FinishedTransaction finished = session_.take_transaction(message_->envelope);
  message_->facts = finished.facts;
  const smtp::ClientIdentity& asserted = session_.asserted_client();
  if (!asserted.login.value_or("").empty()) message_->envelope.head.protocol = mail::Protocol::esmtpa;
  if (asserted.esmtp == false) message_->envelope.head.protocol = mail::Protocol::smtp;
  message_->envelope.set_client(asserted.hello_name ? *asserted.hello_name : session_.hello_name(), peer_text_);
  ++messages_;
  const SlotId self = ingress_.clients_.id_of(*this);
  ingress_.door_.submit(std::move(message_), std::exchange(streamed_, {}),
                        {.connection_slot = self.slot,
                         .connection_generation = self.generation,
                         .reply_slot = finished.slot,
                         .forwarded_client = std::move(forwarded)});
}

void ServerConnection::on_accepted(smtp::ReplySlot slot, mail::QueueId id, Instant now) {
  session_.on_content_durable(slot, id, now);
  after_progress();
}

void ServerConnection::on_refused(smtp::ReplySlot slot, const mail::Reply& reply, Instant now) {
  ingress_.observer_.on_rejected(peer_, nullptr, {}, reply);
  session_.on_content_refused(slot, reply, now);
  after_progress();
}

void ServerConnection::on_resources() {
  stalled_ = false;
  after_progress();
}

void ServerConnection::on_stalled_too_long(Instant now) {
  stalled_ = false;
  refuse_content(memory_reply, now);
  after_progress();
}

void ServerConnection::on_shutdown() {
  if (awaits_proxy_header_) return drop_silently();
  session_.on_shutdown();
  after_progress();
}

void ServerConnection::abort() {
  closing_ = true;
  connection_->abort();
}

// Whatever happened: replies go out, reading goes on or stops, the timer stands right.
void ServerConnection::after_progress() {
  if (feeding_ || closing_ || awaits_proxy_header_) return;
  send_output();
  if (closing_) return;
  if (session_.wait() == smtp::Wait::bytes && !stalled_ && !half_closed_) connection_->resume();
  ingress_.timers_.arm(timer_, session_.next_deadline());
}

void ServerConnection::send_output() {
  if (send_in_flight_) return;
  const Bytes output = session_.output();
  if (output.empty()) {
    if (session_.wait() == smtp::Wait::close || (half_closed_ && session_.open_slots() == 0)) {
      closing_ = true;
      timer_.cancel();
      connection_->close_orderly(ingress_.options_.linger);
    }
    return;
  }
  sending_.assign(as_text(output));
  session_.on_output_taken(sending_.size());
  send_in_flight_ = true;
  slice_ = {reinterpret_cast<const std::byte*>(sending_.data()), sending_.size()};
  connection_->send({&slice_, 1});
  session_.on_output_sent(session_.output_total());
}

void ServerConnection::on_sent() {
  send_in_flight_ = false;
  after_progress();
}

void ServerConnection::on_end_of_stream() {
  // The client has said all it will. What is accepted stays accepted; what was under way is gone with the connection.
  // Replies that are still due are sent before the connection is closed.
  if (awaits_proxy_header_) return drop_silently();
  drop_content();
  half_closed_ = true;
  after_progress();
}

void ServerConnection::on_lost(const Status& /*status*/) {
  closing_ = true;
  drop_content();
}

void ServerConnection::on_closed() {
  ingress_.remove(*this);
}

void ServerConnection::on_timer(Timer& /*timer*/, Instant now) {
  if (awaits_proxy_header_) {
    ingress_.observer_.on_turned_away(peer_, "its PROXY header did not come in time");
    return drop_silently();
  }
  session_.on_deadline(now);
  if (session_.take_content_dropped()) drop_content();
  after_progress();
}

}  // namespace postern::ingress
