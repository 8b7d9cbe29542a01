// Takes mail out: carries one shard's deliveries to next hops and Maildirs, and keeps its connections to them.
//
// It decides neither what is due nor how many connections there may be: the shard starts a delivery when a slot is
// there (queue/owner_slots.h, queue/slot_broker.h), and hears in two steps: the outcomes as soon as they are known, and
// that the slot is free when the connection is idle or really closed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include <postern/base/intrusive_list.h>
#include <postern/base/slot_map.h>
#include <postern/base/timer_wheel.h>
#include <postern/mail/site.h>
#include <postern/smtp/client_session.h>

#include "egress/client_connection.h"
#include "egress/content_reader.h"
#include "egress/delivery.h"
#include "egress/maildir_delivery.h"
#include "net/connection.h"
#include "net/dispatcher.h"

namespace postern::egress {

struct EgressOptions {
  smtp::ClientOptions session;
  std::string hostname;  // in Maildir file names
  Duration connect_timeout = std::chrono::seconds(30);
  Duration idle = std::chrono::seconds(5);  // how long an unused connection is kept
  std::uint32_t messages_per_connection = 1000;
  std::uint32_t hosts_per_attempt = 5;  // addresses tried before a delivery is deferred [RFC 5321 §5.1: at least two]
  Duration linger = std::chrono::seconds(2);  // for the next hop's FIN behind our QUIT
  std::uint32_t deliveries_max = 16'384;      // of this shard at one moment, idle connections included
};

// The shard. Calls may come from within start().
class EgressUser {
 public:
  // The delivery is the caller's again: its outcomes, path and next_hop are set.
  virtual void on_outcomes(Delivery& delivery) = 0;
  // The delivery's slot is free; `kept`: its connection is idle now and still counts as a connection. Behind
  // on_outcomes().
  virtual void on_slot_free(mail::SiteId site, queue::ShardIndex owner, bool kept) = 0;
  // An idle connection was closed by its idle time or its peer.
  virtual void on_idle_closed(mail::SiteId site) = 0;
  // For counters: a TCP connection stands; one could not be had.
  virtual void on_connection_opened() = 0;
  virtual void on_connection_failed() = 0;

 protected:
  ~EgressUser() = default;
};

class Egress final : private net::CompletionHandler {
 public:
  struct Setup {
    io::Loop& loop;
    net::ConnectionTable& connections;
    net::Dispatcher& dispatcher;
    TimerWheel& timers;
    EgressUser& user;
    PieceSource& pieces;
    EgressOptions options;
  };
  explicit Egress(const Setup& setup);
  ~Egress();

  // Begins the attempt, on an idle connection to its site or on a new one. The delivery stays lent until on_outcomes().
  void start(Delivery& delivery);
  // Closes up to `count` idle connections without waiting for 221; on_idle_closed() for each when it is gone.
  void close_idle(mail::SiteId site, std::uint32_t count);
  void close_all_idle();

  [[nodiscard]] std::size_t open_connections() const { return clients_.size(); }
  [[nodiscard]] std::size_t deliveries() const { return deliveries_; }
  [[nodiscard]] bool idle() const { return deliveries_ == 0 && clients_.size() == 0 && maildirs_.size() == 0; }
  // Ends everything at once; outcomes: not attempted.
  void abort_all();

 private:
  friend class ClientConnection;
  friend class MaildirDelivery;

  struct SitePool {
    IntrusiveList<ClientConnection, IdleTag> idle;   // most recently used first
    IntrusiveList<ClientConnection, IdleTag> going;  // were idle, are being closed, count until they are
    std::uint32_t connections = 0;
  };

  void on_completion(const io::Completion& completion) override;

  // --- from client connections and Maildir deliveries
  void finish(Delivery& delivery);
  void slot_free(mail::SiteId site, queue::ShardIndex owner, bool kept);
  void make_idle(ClientConnection& client);
  void make_going(ClientConnection& client);
  void remove(ClientConnection& client);
  void remove(MaildirDelivery& delivery);

  io::Loop& loop_;
  net::ConnectionTable& connections_;
  TimerWheel& timers_;
  EgressUser& user_;
  PieceSource& pieces_;
  std::uint8_t file_kind_;  // io::Token::kind of Maildir file operations
  EgressOptions options_;
  SlotMap<ClientConnection> clients_;
  SlotMap<MaildirDelivery> maildirs_;
  absl::flat_hash_map<mail::SiteId, std::unique_ptr<SitePool>> pools_;
  std::size_t deliveries_ = 0;
  bool closing_ = false;  // connections are kept no longer
};

}  // namespace postern::egress
