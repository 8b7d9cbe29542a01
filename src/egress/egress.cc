#include "egress/egress.h"

#include <utility>

#include <postern/base/check.h>

namespace postern::egress {

Egress::Egress(const Setup& setup)
    : loop_(setup.loop),
      connections_(setup.connections),
      timers_(setup.timers),
      user_(setup.user),
      pieces_(setup.pieces),
      options_(setup.options),
      tls_(setup.tls),
      credentials_(setup.credentials),
      salted_passwords_(setup.loop, setup.dispatcher),
      clients_(setup.options.connections_max),
      maildirs_(setup.options.connections_max) {
  file_kind_ = setup.dispatcher.claim(*this);
}

Egress::~Egress() = default;

void Egress::set_tls(EgressTls tls) {
  if (tls.context != tls_.context) {
    ++tls_generation_;
    tls_memory_.clear();
  }
  tls_ = std::move(tls);
}

void Egress::set_credentials(EgressCredentials credentials) {
  bool changed = credentials.size() != credentials_.size();
  for (auto& [name, one] : credentials) {
    const auto known = credentials_.find(name);
    if (known != credentials_.end() && *known->second == *one) {
      one = known->second;
    } else {
      changed = true;
    }
  }
  if (changed) salted_passwords_.clear();
  credentials_ = std::move(credentials);
}

std::shared_ptr<const sasl::Credentials> Egress::credentials_of(const route::Route& route) const {
  const auto found = credentials_.find(route.credentials);
  return route.credentials.empty() || found == credentials_.end() ? nullptr : found->second;
}

void Egress::start(Delivery& delivery) {
  ++deliveries_;
  if (!asks_ && delivery.is_question()) delivery.answer_by = loop_.now();
  bool begun = true;
  switch (delivery.route->transport) {
    case mail::Transport::discard: {
      for (const std::uint16_t index : delivery.work.recipients) {
        delivery.outcomes.push_back(
            {.recipient = index, .result = {mail::Outcome::relayed, {250, {2, 0, 0}, "discarded"}}});
      }
      const mail::SiteId site = delivery.work.site;
      const queue::ShardIndex owner = delivery.owner;
      finish(delivery);
      slot_free(site, owner, false);
      return;
    }
    case mail::Transport::maildir:
      begun = begin_maildir(delivery);
      break;
    case mail::Transport::smtp:
    case mail::Transport::lmtp: {
      const auto pool = pools_.find(delivery.work.site);
      ClientConnection* client = nullptr;
      if (pool != pools_.end()) {
        client = pool->second->idle.front();
        // What it carries must be as safe as this delivery's path asks today.
        if (client != nullptr && !client->fits(*delivery.route)) client->quit_at_once();
        if (client == nullptr) client = pool->second->going.front();
      }
      if (client != nullptr) {
        client->deliver(delivery);
        return;
      }
      begun = begin_connection(delivery);
      break;
    }
  }
  if (begun) return;
  waiting_.push_back(&delivery);
  free_places();
}

bool Egress::begin_maildir(Delivery& delivery) {
  MaildirDelivery* maildir = maildirs_.emplace(*this);
  if (maildir == nullptr) return false;
  const SlotId id = maildirs_.id_of(*maildir);
  maildir->start(delivery, {.slot = id.slot, .generation = id.generation & SlotId::generation_max, .kind = file_kind_});
  return true;
}

bool Egress::begin_connection(Delivery& delivery) {
  ClientConnection* client = clients_.emplace(*this, delivery.work.site, loop_.now());
  if (client == nullptr) return false;
  std::unique_ptr<SitePool>& place = pools_[delivery.work.site];
  if (!place) place = std::make_unique<SitePool>();
  ++place->connections;
  client->deliver(delivery);
  return true;
}

// Each on a connection of its own: the slots' keeper counts on it, whatever has become idle meanwhile.
void Egress::start_waiting() {
  while (!waiting_.empty()) {
    Delivery& delivery = *waiting_.front();
    const bool maildir = delivery.route->transport == mail::Transport::maildir;
    if (maildir ? maildirs_.full() : clients_.full()) return;
    waiting_.pop_front();
    const bool begun = maildir ? begin_maildir(delivery) : begin_connection(delivery);
    POSTERN_CHECK(begun);
  }
}

bool Egress::may_start(mail::SiteId site) const {
  if (has_place()) return true;
  const auto pool = pools_.find(site);
  return pool != pools_.end() && (!pool->second->idle.empty() || !pool->second->going.empty());
}

void Egress::free_places() {
  while (clients_.size() + places_ahead > options_.connections_max + leaving_ && !idle_by_age_.empty()) {
    idle_by_age_.front()->make_room();
  }
}

void Egress::on_completion(const io::Completion& completion) {
  MaildirDelivery* maildir = maildirs_.find({completion.token.slot, completion.token.generation});
  POSTERN_CHECK(maildir != nullptr, "a file operation outlived its delivery");
  maildir->on_completion(completion);
}

void Egress::finish(Delivery& delivery) {
  --deliveries_;
  user_.on_outcomes(delivery);
}

void Egress::slot_free(mail::SiteId site, queue::ShardIndex owner, bool kept) {
  user_.on_slot_free(site, owner, kept);
}

void Egress::make_idle(ClientConnection& client) {
  pools_.at(client.site())->idle.push_front(client);
  idle_by_age_.push_back(client);
}

void Egress::make_going(ClientConnection& client) {
  pools_.at(client.site())->going.push_back(client);
}

void Egress::close_idle(mail::SiteId site, std::uint32_t count) {
  const auto pool = pools_.find(site);
  if (pool == pools_.end()) return;
  for (; count > 0; --count) {
    // Those that go already stand in the order in which they began to; they are told in turn.
    ClientConnection* client = pool->second->idle.back();
    if (client == nullptr) client = pool->second->going.front();
    if (client == nullptr) return;
    client->quit_at_once();
    client->ListHook<IdleTag>::unlink();
    pool->second->going.push_back(*client);
  }
}

void Egress::close_all_idle() {
  closing_ = true;
  clients_.for_each([](SlotId, ClientConnection& client) {
    if (client.is_idle()) client.quit();
  });
}

void Egress::give_up_questions() {
  asks_ = false;
  for (Delivery* const delivery : waiting_) {
    if (delivery->is_question()) delivery->answer_by = loop_.now();
  }
  clients_.for_each([](SlotId, ClientConnection& client) { client.give_up_question(); });
}

void Egress::abort_all() {
  closing_ = true;
  while (!waiting_.empty()) {
    Delivery& delivery = *waiting_.front();
    waiting_.pop_front();
    const mail::SiteId site = delivery.work.site;
    const queue::ShardIndex owner = delivery.owner;
    finish(delivery);
    slot_free(site, owner, false);
  }
  clients_.for_each([](SlotId, ClientConnection& client) { client.abort(); });
  maildirs_.for_each([](SlotId, MaildirDelivery& maildir) { maildir.abort(); });
}

void Egress::remove(ClientConnection& client) {
  const auto pool = pools_.find(client.site());
  POSTERN_CHECK(pool != pools_.end() && pool->second->connections > 0);
  if (client.makes_room()) --leaving_;
  clients_.erase(clients_.id_of(client));
  if (--pool->second->connections == 0) pools_.erase(pool);
  start_waiting();
}

void Egress::remove(MaildirDelivery& delivery) {
  maildirs_.erase(maildirs_.id_of(delivery));
  start_waiting();
}

}  // namespace postern::egress
