#include "ingress/ingress.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include <postern/base/check.h>

namespace postern::ingress {

// A client that is told why it is turned away, and nothing else: no session, no count, a bounded number at a time.
class Ingress::Refusal final : public net::ConnectionUser {
 public:
  Refusal(Ingress& ingress, std::string line) : ingress_(ingress), line_(std::move(line)) {}
  void start(net::Connection& connection) {
    if (!line_.empty()) connection.send(as_bytes(line_));
    connection.close_orderly(ingress_.options_.linger);
  }
  std::size_t on_received(MutableBytes bytes) override { return bytes.size(); }
  void on_end_of_stream() override {}
  void on_sent() override {}
  void on_lost(const Status& /*status*/) override {}
  void on_closed() override { ingress_.refusals_->erase(ingress_.refusals_->id_of(*this)); }

 private:
  Ingress& ingress_;
  std::string line_;
};

// One socket listened on, and what its sessions share.
struct Ingress::Listening {
  Listening(Ingress& ingress, net::Dispatcher& dispatcher, std::shared_ptr<const ListenerContext> shared)
      : context(std::move(shared)),
        listener(ingress.loop_, dispatcher, ingress.timers_, ingress.connections_.descriptor_waiters(), ingress,
                 {.farewell = context->tls_at_once
                                  ? std::string()
                                  : smtp::farewell_line(*context->session, smtp::Farewell::connections_exhausted)}) {}
  std::shared_ptr<const ListenerContext> context;
  net::Listener listener;
};

bool ListenerContext::may_relay(const net::TlsFacts& facts) const {
  return (relay_verified && facts.peer_verified) ||
         (facts.peer_fingerprint && std::ranges::binary_search(relay_certificates, *facts.peer_fingerprint));
}

Ingress::Ingress(const Setup& setup)
    : connections_(setup.connections),
      timers_(setup.timers),
      loop_(setup.loop),
      door_(setup.door),
      observer_(setup.observer),
      connection_count_(setup.connection_count),
      peer_counts_(setup.peer_counts),
      handshake_rates_(setup.handshake_rates),
      connection_rates_(setup.connection_rates),
      message_rates_(setup.message_rates),
      auth_failures_(setup.auth_failures),
      relay_policy_(setup.relay_policy),
      recipients_(setup.recipients),
      users_(setup.users),
      options_(setup.options),
      authenticator_(setup.loop, setup.dispatcher, *this),
      clients_(setup.options.connections_max),
      refusals_(std::make_unique<SlotMap<Refusal>>(refusals_max)) {}

Ingress::~Ingress() = default;

Status Ingress::listen(net::Dispatcher& dispatcher, const io::Address& address, int inherited,
                       std::shared_ptr<const ListenerContext> context) {
  auto listening = std::make_unique<Listening>(*this, dispatcher, std::move(context));
  if (inherited >= 0) {
    listening->listener.adopt(inherited);
  } else {
    POSTERN_RETURN_IF_ERROR(listening->listener.open(address));
  }
  listening_.push_back(std::move(listening));
  return OkStatus();
}

std::vector<io::Address> Ingress::addresses() const {
  std::vector<io::Address> found;
  for (const auto& listening : listening_) {
    const StatusOr<io::Address> address = listening->listener.local_address();
    found.push_back(address.ok() ? *address : io::Address{});
  }
  return found;
}

void Ingress::set_context(std::size_t listener, std::shared_ptr<const ListenerContext> context) {
  listening_.at(listener)->context = std::move(context);
}

void Ingress::on_connection(net::Listener& listener, io::Descriptor descriptor, const io::Address& peer) {
  const Listening* listening = nullptr;
  for (const auto& candidate : listening_) {
    if (&candidate->listener == &listener) listening = candidate.get();
  }
  POSTERN_CHECK(listening != nullptr);
  // A balancer stands for many clients: they are counted when it has named them.
  const ListenerContext& context = *listening->context;
  const bool proxied = peer.is_ip() && context.proxy_protocol_from.contains(peer.ip());
  const bool counted = peer.is_ip() && !proxied;
  std::optional<smtp::Farewell> refusal;
  if (stopping_ || clients_.full() || !connection_count_.try_acquire()) {
    refusal = stopping_ ? smtp::Farewell::shutting_down : smtp::Farewell::connections_exhausted;
  } else if (counted && !peer_counts_.try_acquire(peer.ip())) {
    connection_count_.release();
    refusal = smtp::Farewell::too_many_from_peer;
  } else if (counted && !takes_connection(context, peer.ip())) {
    connection_count_.release();
    peer_counts_.release(peer.ip());
    refusal = smtp::Farewell::too_often_from_peer;
  }
  if (refusal) return refuse(descriptor, peer, smtp::farewell_line(*context.session, *refusal), context.tls_at_once);

  ServerConnection* const client = clients_.emplace(*this, listening->context, peer, loop_.now());
  if (counted) client->set_counted(peer.ip());
  net::Connection* const connection = connections_.adopt(descriptor, *client);
  if (connection == nullptr) {
    clients_.erase(clients_.id_of(*client));
    connection_count_.release();
    if (counted) peer_counts_.release(peer.ip());
    return refuse(descriptor, peer, smtp::farewell_line(*context.session, smtp::Farewell::connections_exhausted),
                  context.tls_at_once);
  }
  look_for_stress();
  if (stressed_) client->set_idle_max(options_.stress_idle);
  client->start(*connection, proxied, loop_.now());
}

void Ingress::look_for_stress() {
  if (options_.stress_percent == 0) return;
  constexpr std::uint32_t relief_percent = 10;
  const std::uint32_t from =
      options_.stress_percent - (stressed_ ? std::min(relief_percent, options_.stress_percent) : 0);
  const std::uint32_t count = connection_count_.value();
  const bool stressed = std::uint64_t{count} * 100 >= std::uint64_t{connection_count_.limit()} * from && count > 0;
  if (stressed == stressed_) return;
  stressed_ = stressed;
  if (connection_count_.note_short(stressed)) observer_.on_stress(stressed, count);
  const std::optional<Duration> most = stressed ? std::optional(options_.stress_idle) : std::nullopt;
  clients_.for_each([most](SlotId, ServerConnection& client) { client.set_idle_max(most); });
}

bool Ingress::takes_connection(const ListenerContext& context, const IpAddress& peer) {
  return context.connections_per_minute == 0 || context.relay_from.contains(peer) ||
         connection_rates_.try_count(peer, context.connections_per_minute, loop_.now());
}

bool Ingress::takes_message(const ListenerContext& context, const io::Address& peer) {
  return context.messages_per_minute == 0 || !peer.is_ip() ||
         message_rates_.try_count(peer.ip(), context.messages_per_minute, loop_.now());
}

void Ingress::refuse(io::Descriptor descriptor, const io::Address& peer, const std::string& line, bool silently) {
  observer_.on_turned_away(peer, line);
  Refusal* const refusal = refusals_->emplace(*this, silently ? std::string() : line);
  net::Connection* const connection = refusal == nullptr ? nullptr : connections_.adopt(descriptor, *refusal);
  if (connection != nullptr) return refusal->start(*connection);
  // A flood: those beyond refusals_max are closed without a word.
  if (refusal != nullptr) refusals_->erase(refusals_->id_of(*refusal));
  loop_.close(descriptor);
  connections_.descriptor_waiters().on_closed();
}

void Ingress::remove(ServerConnection& client) {
  if (client.announced()) observer_.on_disconnected(client.peer(), client.messages());
  connection_count_.release();
  if (const std::optional<IpAddress>& counted = client.counted()) peer_counts_.release(*counted);
  clients_.erase(clients_.id_of(client));
}

const mail::Reply* Ingress::begin_handshake(const ListenerContext& context, const io::Address& peer, bool may_relay) {
  static const mail::Reply too_many{421, {4, 3, 2}, "Too many TLS handshakes at once, try again later"};
  static const mail::Reply too_many_from_peer{421, {4, 7, 0}, "Too many TLS handshakes from your address"};
  if (handshakes_ >= context.handshakes_max) return &too_many;
  if (context.handshakes_per_peer != 0 && !may_relay && peer.is_ip() &&
      !handshake_rates_.try_count(peer.ip(), context.handshakes_per_peer, loop_.now())) {
    return &too_many_from_peer;
  }
  ++handshakes_;
  return nullptr;
}

void Ingress::end_handshake() {
  POSTERN_CHECK(handshakes_ > 0, "more handshakes end than began");
  --handshakes_;
}

void Ingress::on_accepted(const Submission& submission, mail::QueueId id, Instant now) {
  ServerConnection* client = clients_.find({submission.connection_slot, submission.connection_generation});
  if (client != nullptr) client->on_accepted(submission.reply_slot, id, now);
}

void Ingress::on_refused(const Submission& submission, const mail::Reply& reply, Instant now) {
  ServerConnection* client = clients_.find({submission.connection_slot, submission.connection_generation});
  if (client != nullptr) client->on_refused(submission.reply_slot, reply, now);
}

void Ingress::on_recipient_answered(const Asker& asker, const mail::Reply* refusal, Instant now) {
  ServerConnection* const client = clients_.find({asker.connection_slot, asker.connection_generation});
  if (client != nullptr) client->on_recipient_answered(refusal, now);
}

void Ingress::on_password_checked(SlotId client, PasswordCheck result) {
  if (ServerConnection* const found = clients_.find(client)) found->on_password_checked(result, loop_.now());
}

void Ingress::on_resources() {
  // Those that stall again go to the end, and wait for the next call.
  ServerConnection* const last = stalled_.back();
  while (ServerConnection* client = stalled_.pop_front()) {
    client->on_resources();
    if (client == last) return;
  }
}

void Ingress::on_tick(Instant now) {
  look_for_stress();
  // All of them, each once: who was tried in between stands behind those who came later.
  IntrusiveList<ServerConnection, WaitingTag> waiting;
  while (ServerConnection* client = stalled_.pop_front()) waiting.push_back(*client);
  while (ServerConnection* client = waiting.pop_front()) {
    if (now - client->stalled_since() < options_.resource_patience) {
      stalled_.push_back(*client);
    } else {
      client->on_stalled_too_long(now);
    }
  }
}

void Ingress::stop_accepting() {
  stopping_ = true;
  for (const auto& listening : listening_) listening->listener.stop();
}

bool Ingress::stopped() const {
  for (const auto& listening : listening_) {
    if (!listening->listener.stopped()) return false;
  }
  return clients_.size() == 0 && refusals_->size() == 0 && authenticator_.idle();
}

void Ingress::shut_down() {
  clients_.for_each([](SlotId, ServerConnection& client) { client.on_shutdown(); });
}

void Ingress::abort_all() {
  clients_.for_each([](SlotId, ServerConnection& client) { client.abort(); });
}

}  // namespace postern::ingress
