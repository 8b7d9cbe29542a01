// Takes mail out: carries one shard's deliveries to next hops and Maildirs, and keeps its connections to them.
//
// It decides neither what is due nor how many connections there may be: the shard starts a delivery when a slot is
// there (queue/owner_slots.h, queue/slot_broker.h), and hears in two steps: the outcomes as soon as they are known, and
// that the slot is free when the connection is idle or really closed.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include <postern/base/intrusive_list.h>
#include <postern/base/slot_map.h>
#include <postern/base/timer_wheel.h>
#include <postern/mail/site.h>
#include <postern/route/route.h>
#include <postern/sasl/client_exchange.h>
#include <postern/smtp/client_session.h>

#include "egress/client_connection.h"
#include "egress/content_reader.h"
#include "egress/delivery.h"
#include "egress/maildir_delivery.h"
#include "egress/salted_passwords.h"
#include "egress/tls_memory.h"
#include "net/connection.h"
#include "net/dispatcher.h"
#include "net/tls_stream.h"

namespace postern::egress {

struct EgressOptions {
  smtp::ClientOptions session;
  std::string hostname;  // in Maildir file names
  Duration connect_timeout = std::chrono::seconds(30);
  Duration idle = std::chrono::seconds(5);  // how long an unused connection is kept
  std::uint32_t messages_per_connection = 1000;
  std::uint32_t hosts_per_attempt = 5;  // addresses tried before a delivery is deferred [RFC 5321 §5.1: at least two]
  Duration linger = std::chrono::seconds(2);  // for the next hop's FIN behind our QUIT
  // Of this shard, idle ones included; and as many deliveries to Maildirs at a time. What finds no place waits for one
  // that goes.
  std::uint32_t connections_max = 16'384;
  Duration tls_timeout = std::chrono::minutes(1);  // for a handshake
};

// How TLS is spoken with next hops. Without a context it is not: opportunistic is none then, and the rest fails.
struct EgressTls {
  std::shared_ptr<const net::TlsClientContext> context;
  route::TlsPolicy usual;  // where a route has no policy of its own

  [[nodiscard]] const route::TlsPolicy& policy_of(const route::Route& route) const {
    return route.tls ? *route.tls : usual;
  }
};

// By the names that routes have for them (route::Route::credentials).
using EgressCredentials = std::map<std::string, std::shared_ptr<const sasl::Credentials>, std::less<>>;

// How AUTH with a next hop ended.
struct HopAuthentication {
  std::string_view site{};
  std::string_view peer{};
  std::string_view user{};
  std::string_view mechanism{};  // empty: none was chosen, or it failed
  smtp::ClientSession::AuthTrouble trouble = smtp::ClientSession::AuthTrouble::none;
  std::string_view why{};  // of the trouble
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
  // A handshake with `peer`, a next hop of `site`, is complete; or came to nothing, and `plain` says whether the host
  // is tried without.
  virtual void on_peer_secured(std::string_view site, std::string_view peer, const net::TlsFacts& facts) = 0;
  virtual void on_peer_tls_failed(std::string_view site, std::string_view peer, std::string_view why, bool plain) = 0;
  virtual void on_peer_authenticated(const HopAuthentication& authentication) = 0;

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
    EgressTls tls{};
    EgressCredentials credentials{};
  };
  explicit Egress(const Setup& setup);
  ~Egress();

  // For connections from now on; one that was made under another policy or context takes no further delivery.
  void set_tls(EgressTls tls);
  // Likewise. Those that say what they said before stay what they were, and so do connections that they were used for.
  void set_credentials(EgressCredentials credentials);

  // Begins the attempt, on an idle connection to its site or on a new one, once there is place for it. The delivery
  // stays lent until on_outcomes().
  void start(Delivery& delivery);
  // A delivery to `site` would not wait for a place. Who may not start asks for one: free_places().
  [[nodiscard]] bool may_start(mail::SiteId site) const;
  [[nodiscard]] bool has_place() const { return clients_.size() < options_.connections_max; }
  // Some deliveries will need places soon: the connections idle for longest go, of whatever sites, so that there are
  // `places_ahead`. They are told by on_idle_closed().
  void free_places();
  // Closes up to `count` idle connections without waiting for 221; on_idle_closed() for each when it is gone.
  void close_idle(mail::SiteId site, std::uint32_t count);
  void close_all_idle();
  // What is asked is given up, also what start() brings from now on: nobody waits for answers when the process stops.
  void give_up_questions();

  [[nodiscard]] std::size_t open_connections() const { return clients_.size(); }
  [[nodiscard]] std::size_t deliveries() const { return deliveries_; }
  // Nothing under way.
  [[nodiscard]] bool idle() const {
    return deliveries_ == 0 && clients_.size() == 0 && maildirs_.size() == 0 && salted_passwords_.idle();
  }
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

  static constexpr std::size_t places_ahead = 64;

  void on_completion(const io::Completion& completion) override;
  // Null: the route names none, or what it names is gone.
  [[nodiscard]] std::shared_ptr<const sasl::Credentials> credentials_of(const route::Route& route) const;
  [[nodiscard]] bool begin_maildir(Delivery& delivery);
  [[nodiscard]] bool begin_connection(Delivery& delivery);
  void start_waiting();

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
  EgressTls tls_;
  std::uint64_t tls_generation_ = 0;  // how often the context was replaced
  TlsMemory tls_memory_;
  EgressCredentials credentials_;
  SaltedPasswords salted_passwords_;
  SlotMap<ClientConnection> clients_;
  SlotMap<MaildirDelivery> maildirs_;
  absl::flat_hash_map<mail::SiteId, std::unique_ptr<SitePool>> pools_;
  IntrusiveList<ClientConnection, AgeTag> idle_by_age_;  // oldest first
  std::size_t leaving_ = 0;                              // asked to go by free_places(), and not gone yet
  std::deque<Delivery*> waiting_;  // for a place: of pulled paths, at most connections_per_path each, and of Maildirs
  std::size_t deliveries_ = 0;
  bool closing_ = false;  // connections are kept no longer
  bool asks_ = true;      // until give_up_questions()
};

}  // namespace postern::egress
