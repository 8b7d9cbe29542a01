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
      clients_(setup.options.deliveries_max),
      maildirs_(setup.options.deliveries_max) {
  file_kind_ = setup.dispatcher.claim(*this);
}

Egress::~Egress() = default;

void Egress::start(Delivery& delivery) {
  ++deliveries_;
  switch (delivery.route->transport) {
    case mail::Transport::discard:
      for (const std::uint16_t index : delivery.work.recipients) {
        delivery.outcomes.push_back(
            {.recipient = index, .result = {mail::Outcome::relayed, {250, {2, 0, 0}, "discarded"}}});
      }
      break;
    case mail::Transport::maildir:
      if (MaildirDelivery* maildir = maildirs_.emplace(*this)) {
        const SlotId id = maildirs_.id_of(*maildir);
        maildir->start(delivery,
                       {.slot = id.slot, .generation = id.generation & SlotId::generation_max, .kind = file_kind_});
        return;
      }
      break;
    case mail::Transport::smtp:
    case mail::Transport::lmtp: {
      const auto pool = pools_.find(delivery.work.site);
      ClientConnection* client = nullptr;
      if (pool != pools_.end()) {
        client = pool->second->idle.front();
        if (client == nullptr) client = pool->second->going.front();
      }
      if (client == nullptr) {
        client = clients_.emplace(*this, delivery.work.site, loop_.now());
        if (client != nullptr) {
          std::unique_ptr<SitePool>& place = pools_[delivery.work.site];
          if (!place) place = std::make_unique<SitePool>();
          ++place->connections;
        }
      }
      if (client != nullptr) {
        client->deliver(delivery);
        return;
      }
      break;
    }
  }
  // Discarded, or no room for one more delivery: not attempted.
  const mail::SiteId site = delivery.work.site;
  const queue::ShardIndex owner = delivery.owner;
  finish(delivery);
  slot_free(site, owner, false);
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
    client->unlink();
    pool->second->going.push_back(*client);
  }
}

void Egress::close_all_idle() {
  closing_ = true;
  clients_.for_each([](SlotId, ClientConnection& client) {
    if (client.is_idle()) client.quit();
  });
}

void Egress::abort_all() {
  closing_ = true;
  clients_.for_each([](SlotId, ClientConnection& client) { client.abort(); });
  maildirs_.for_each([](SlotId, MaildirDelivery& maildir) { maildir.abort(); });
}

void Egress::remove(ClientConnection& client) {
  const auto pool = pools_.find(client.site());
  POSTERN_CHECK(pool != pools_.end() && pool->second->connections > 0);
  clients_.erase(clients_.id_of(client));
  if (--pool->second->connections == 0) pools_.erase(pool);
}

void Egress::remove(MaildirDelivery& delivery) {
  maildirs_.erase(maildirs_.id_of(delivery));
}

}  // namespace postern::egress
