#include "ingress/server_connection.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/base/check.h>
#include <postern/base/text.h>
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

// What waits in the socket behind a handshake may be a client's that talks before the greeting; it is there already, so
// it is looked at in the loop's next turns.
constexpr Duration early_input_patience = std::chrono::milliseconds(20);

// The domain begins behind the last '@'; at the end, where there is none.
mail::PathView path_of(std::string_view text) {
  const std::size_t at = text.rfind('@');
  return {text, static_cast<std::uint16_t>(at == std::string_view::npos ? text.size() : at + 1)};
}

const mail::Reply memory_reply{452, {4, 3, 1}, "Insufficient memory, try again later"};
const mail::Reply message_rate_reply{450, {4, 7, 1}, "Too many messages from your address in this minute"};

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
  if (closing_) return;
  if (handshaking_) return begin_tls();
  after_progress();
}

// `input_waits`: some is here already.
void ServerConnection::begin_session(bool input_waits, Instant now) {
  ingress_.observer_.on_connected(peer_);
  announced_ = true;
  if (listener_->tls_at_once) {
    // Whom nothing can be told yet is closed without a word.
    if (admit_handshake() != nullptr) return drop_silently();
    handshaking_ = true;
    return;
  }
  if (input_waits || ingress_.loop_.input_waiting(connection_->descriptor())) return;
  if (const Duration delay = greeting_delay(); delay > Duration::zero()) return greet_at(now + delay);
  session_.on_connect_verdict(smtp::Verdict::accept(), now);
}

Duration ServerConnection::greeting_delay() const {
  return may_relay_ ? Duration::zero() : listener_->greeting_delay;
}

// after_progress() arms the timer, in whatever way this call ends.
void ServerConnection::greet_at(Instant at) {
  greeting_due_ = true;
  greeting_at_ = at;
}

const mail::Reply* ServerConnection::admit_handshake() {
  const mail::Reply* const refusal = ingress_.begin_handshake(*listener_, peer_, may_relay_);
  handshake_counted_ = refusal == nullptr;
  if (refusal != nullptr) ingress_.observer_.on_tls_refused(peer_, refusal->to_log_text());
  return refusal;
}

void ServerConnection::end_handshake() {
  if (std::exchange(handshake_counted_, false)) ingress_.end_handshake();
}

void ServerConnection::begin_tls() {
  handshaking_ = true;
  connection_->start_tls(listener_->tls->make_stream(), listener_->handshake_timeout);
}

void ServerConnection::on_secured(const net::TlsFacts& facts) {
  handshaking_ = false;
  end_handshake();
  const Instant now = ingress_.loop_.now();
  may_relay_ = may_relay_ || listener_->may_relay(facts);
  session_.set_trusted(may_relay_);
  ingress_.observer_.on_secured(peer_, facts);
  session_.on_secured({.version = facts.version, .cipher = facts.cipher, .peer_verified = facts.peer_verified}, now);
  if (session_.wait() == smtp::Wait::connect_verdict) {
    // What came along with the handshake's end follows this call, and was said before the greeting.
    greet_at(now + greeting_delay());
  }
  after_progress();
}

void ServerConnection::greet(Instant now) {
  if (ingress_.loop_.input_waiting(connection_->descriptor()) && !std::exchange(greeting_put_off_, true)) {
    greet_at(now + early_input_patience);
    return after_progress();
  }
  session_.on_connect_verdict(smtp::Verdict::accept(), now);
  after_progress();
}

std::size_t ServerConnection::on_received(MutableBytes bytes) {
  std::size_t used = 0;
  if (awaits_proxy_header_) {
    used = take_proxy_header(bytes, ingress_.loop_.now());
    if (awaits_proxy_header_ || closing_) return bytes.size();
    if (handshaking_) {
      // What stands behind the header is for TLS, which cannot begin in the middle of this call.
      connection_->pause();
      tls_due_ = true;
      ingress_.timers_.arm(timer_, ingress_.loop_.now());
      return used;
    }
  }
  if (used < bytes.size()) {
    greeting_due_ = false;  // feed() gives it, to who talked before it
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
      turn_away("Too many connections from your address", now);
      return used;
    }
    if (!ingress_.takes_connection(*listener_, peer_.ip())) {
      turn_away("Too many connections from your address in this minute", now);
      return used;
    }
  }
  begin_session(used < bytes.size(), now);
  return used;
}

// A client that its balancer has named, with 421 where that can be said already.
void ServerConnection::turn_away(std::string_view why, Instant now) {
  if (listener_->tls_at_once) {
    ingress_.observer_.on_turned_away(peer_, why);
    return drop_silently();
  }
  begin_session(true, now);
  session_.on_connect_verdict(smtp::Verdict::refuse({421, {4, 7, 0}, std::string(why)}, true), now);
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
  if (!may_relay() && !ingress_.relay_policy_->accepts_domain(domain)) {
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
  authenticated_here_ = false;
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
    if (used == bytes.size() || holds_replies(now)) return used;
    const Bytes rest = bytes.subspan(used);
    // Room first: what the session has consumed must be kept or the transaction is lost.
    const std::size_t most = listener_->session->normalize_bare_lf ? 2 * rest.size() : rest.size();
    if (message_ && !make_room(most, now)) return used;
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
    case smtp::Wait::auth_credentials:
      give_credentials(now);
      return true;
    case smtp::Wait::auth_verdict:
      return judge_authentication(now);
    case smtp::Wait::mail_verdict: {
      session_.set_clocks(ingress_.loop_.clocks());
      const mail::Reply* refusal = refuse_sender();
      if (refusal == nullptr) refusal = ingress_.door_.refuse_mail(*session_.envelope());
      // Last, for what is refused anyway is no message.
      if (refusal == nullptr && !may_relay() && !ingress_.takes_message(*listener_, peer_)) {
        refusal = &message_rate_reply;
      }
      if (refusal != nullptr) {
        ingress_.observer_.on_rejected(peer_, session_.envelope(), {}, *refusal);
        session_.on_mail_verdict(Verdict::refuse(*refusal), now);
      } else {
        session_.on_mail_verdict(Verdict::accept(), now);
      }
      return true;
    }
    case smtp::Wait::recipient_verdict:
      return give_recipient_verdict(now);
    case smtp::Wait::data_verdict:
      begin_content();
      session_.on_data_verdict(Verdict::accept(), now);
      return true;
    case smtp::Wait::content_verdict:
      finish_transaction(now);
      return true;
    case smtp::Wait::tls_verdict: {
      // What lies in the kernel already was sent before our 220, in the clear.
      constexpr std::byte something{};
      if (ingress_.loop_.input_waiting(connection_->descriptor())) (void)session_.on_bytes({&something, 1}, now);
      const mail::Reply* const refusal = admit_handshake();
      session_.on_tls_verdict(refusal == nullptr ? Verdict::accept() : Verdict::refuse(*refusal, true), now);
      return true;
    }
    case smtp::Wait::tls:              // on_sent() begins the handshake, on_secured() ends it
    case smtp::Wait::connect_verdict:  // given by start() or feed()
    case smtp::Wait::bytes:
    case smtp::Wait::reply_slot:
    case smtp::Wait::output:
    case smtp::Wait::close:
      return false;
  }
  return false;
}

// May the peer send there; does the recipient exist, if it is one of ours; does a route take whom the mail goes to; and
// does the next hop.
bool ServerConnection::give_recipient_verdict(Instant now) {
  if (recipient_check_ != nullptr) return false;  // its next hop is being asked
  const mail::PathView path = session_.recipient().forward_path;
  const auto refuse = [&](const mail::Reply& reply) {
    refuse_recipient(reply, now);
    return true;
  };
  const policy::RelayPolicy& relay_policy = *ingress_.relay_policy_;
  const policy::Verdict verdict = relay_policy.judge_recipient({.may_relay = may_relay()}, path, 0);
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
  if (session_.envelope()->recipient_count() + targets.size() > mail::Envelope::recipients_max) {
    return refuse({452, {4, 5, 3}, "Too many recipients"});
  }
  if (targets.empty()) {
    if (const mail::Reply* refusal = ingress_.door_.refuse_recipient(path)) return refuse(*refusal);
  }
  for (const std::string_view target : targets) {
    if (const mail::Reply* refusal = ingress_.door_.refuse_recipient(path_of(target))) return refuse(*refusal);
  }

  if (!ingress_.door_.asks_next_hops()) {
    if (targets.empty()) {
      session_.on_recipient_verdict(smtp::Verdict::accept(), now);
    } else {
      session_.on_recipient_expanded(targets, now);
    }
    return true;
  }
  recipient_check_ = std::make_unique<RecipientCheck>();
  recipient_check_->since = now;
  recipient_check_->expanded = !targets.empty();
  if (targets.empty()) {
    recipient_check_->paths.emplace_back(path.text);
  } else {
    recipient_check_->paths.assign(targets.begin(), targets.end());
  }
  return ask_next_hops(now);
}

// Of those in our own domains; whether others take their mail is not ours to ask before we have any.
bool ServerConnection::ask_next_hops(Instant now) {
  const SlotId self = ingress_.clients_.id_of(*this);
  RecipientCheck& check = *recipient_check_;
  for (; check.next < check.paths.size(); ++check.next) {
    const mail::PathView path = path_of(check.paths[check.next]);
    if (!ingress_.relay_policy_->accepts_domain(path.domain())) continue;
    // Everyone can write to a postmaster [RFC 5321 §4.5.1].
    if (equal_ignoring_case(path.local_part(), "postmaster")) continue;
    const Door::HopAnswer answer = ingress_.door_.ask_next_hop(
        path, {.connection_slot = self.slot, .connection_generation = self.generation}, check.since);
    if (answer.kind == Door::HopAnswer::Kind::later) return false;
    if (answer.kind == Door::HopAnswer::Kind::refused) {
      refuse_recipient(*answer.refusal, now);
      return true;
    }
  }
  const std::unique_ptr<RecipientCheck> done = std::move(recipient_check_);
  if (!done->expanded) {
    session_.on_recipient_verdict(smtp::Verdict::accept(), now);
    return true;
  }
  ingress_.targets_.assign(done->paths.begin(), done->paths.end());
  session_.on_recipient_expanded(ingress_.targets_, now);
  return true;
}

void ServerConnection::on_recipient_answered(const mail::Reply* refusal, Instant now) {
  if (closing_ || recipient_check_ == nullptr) return;
  if (refusal != nullptr) {
    refuse_recipient(*refusal, now);
  } else {
    ++recipient_check_->next;
    (void)ask_next_hops(now);
  }
  after_progress();
}

void ServerConnection::refuse_recipient(const mail::Reply& reply, Instant now) {
  recipient_check_.reset();
  ingress_.observer_.on_rejected(peer_, session_.envelope(), session_.recipient().forward_path.text, reply);
  session_.on_recipient_verdict(smtp::Verdict::refuse(reply), now);
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
  if (const std::optional<smtp::TlsFacts>& tls = session_.tls()) {
    message_->tls_version = tls->version;
    message_->tls_cipher = tls->cipher;
  }
  const smtp::ClientIdentity& asserted = session_.asserted_client();
  if (!asserted.login.value_or("").empty()) {
    message_->envelope.head.protocol = session_.tls() ? mail::Protocol::esmtpsa : mail::Protocol::esmtpa;
  }
  if (asserted.esmtp == false) message_->envelope.head.protocol = mail::Protocol::smtp;
  message_->envelope.set_client(asserted.hello_name ? *asserted.hello_name : session_.hello_name(), peer_text_);
  ++messages_;
  const SlotId self = ingress_.clients_.id_of(*this);
  ingress_.door_.submit(std::move(message_), std::exchange(streamed_, {}),
                        {.connection_slot = self.slot,
                         .connection_generation = self.generation,
                         .reply_slot = finished.slot,
                         .user = std::string(session_.user()),
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

void ServerConnection::set_idle_max(std::optional<Duration> most) {
  session_.set_idle_max(most);
  // Whatever else the timer stands for comes first, and what follows it arms the timer anew.
  if (connection_ == nullptr || closing_ || feeding_ || awaits_proxy_header_ || tls_due_) return;
  if (!holds_replies(ingress_.loop_.now())) arm_timer();
}

void ServerConnection::on_shutdown() {
  // There is nobody yet to say goodbye to.
  if (awaits_proxy_header_ || handshaking_) return drop_silently();
  if (std::exchange(greeting_due_, false)) {
    const smtp::Verdict goodbye = smtp::Verdict::refuse({421, {4, 3, 2}, "Shutting down"}, true);
    session_.on_connect_verdict(goodbye, ingress_.loop_.now());
  }
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
  if (holds_replies(ingress_.loop_.now())) return ingress_.timers_.arm(timer_, replies_held_until_);
  send_output();
  if (closing_) return;
  if (session_.wait() == smtp::Wait::bytes && !stalled_ && !half_closed_) connection_->resume();
  arm_timer();
}

// Whether a reply that is to cost its client time has not left yet.
bool ServerConnection::holds_replies(Instant now) {
  const std::uint32_t negative = session_.negative_replies();
  const bool more = negative > std::exchange(negative_seen_, negative);
  if (more && !may_relay() && negative > ListenerContext::errors_free) {
    const std::uint32_t beyond = negative - ListenerContext::errors_free - 1;
    replies_held_until_ = now + listener_->error_delay * (1u << std::min(beyond, ListenerContext::error_doublings_max));
  }
  return now < replies_held_until_;
}

// Replies that may leave with the one to their content: one send instead of two, and one packet for the client to read.
bool ServerConnection::gathers_replies(Instant now) {
  if (!session_.output_may_gather() || session_.wait() == smtp::Wait::output || half_closed_) return false;
  if (gathers_until_ == never) gathers_until_ = now + ingress_.options_.gathering_max;
  return now < gathers_until_;
}

void ServerConnection::arm_timer() {
  ingress_.timers_.arm(timer_, greeting_due_             ? greeting_at_
                               : auth_reply_at_ != never ? auth_reply_at_
                                                         : std::min(gathers_until_, session_.next_deadline()));
}

void ServerConnection::send_output() {
  if (send_in_flight_) return;
  const Bytes output = session_.output();
  if (output.empty()) {
    if (session_.wait() == smtp::Wait::close || (half_closed_ && session_.open_slots() == 0)) {
      closing_ = true;
      timer_.cancel();
      connection_->close_orderly(ingress_.options_.linger);
    } else if (session_.wait() == smtp::Wait::tls && !handshaking_) {
      begin_tls();  // the 220 has left
    }
    return;
  }
  if (gathers_replies(ingress_.loop_.now())) return;
  gathers_until_ = never;
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
  if (awaits_proxy_header_ || tls_due_) return drop_silently();
  drop_content();
  half_closed_ = true;
  after_progress();
}

void ServerConnection::on_lost(const Status& status) {
  closing_ = true;
  if (handshaking_) ingress_.observer_.on_tls_failed(peer_, status);
  drop_content();
}

void ServerConnection::on_closed() {
  end_handshake();
  ingress_.remove(*this);
}

void ServerConnection::on_timer(Timer& /*timer*/, Instant now) {
  if (closing_) return;
  if (awaits_proxy_header_) {
    ingress_.observer_.on_turned_away(peer_, "its PROXY header did not come in time");
    return drop_silently();
  }
  if (std::exchange(tls_due_, false)) return begin_tls();
  if (std::exchange(greeting_due_, false)) return greet(now);
  (void)reply_to_failure(now);
  if (!holds_replies(now)) session_.on_deadline(now);
  if (session_.take_content_dropped()) drop_content();
  after_progress();
}

}  // namespace postern::ingress
