// Brings mail in: listeners, one ServerConnection per client, admission by the connection limits. One per shard.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <postern/base/counters.h>
#include <postern/base/intrusive_list.h>
#include <postern/base/slot_map.h>
#include <postern/base/timer_wheel.h>
#include <postern/policy/failure_limit.h>
#include <postern/policy/peer_counts.h>
#include <postern/policy/peer_rates.h>
#include <postern/policy/recipient_table.h>
#include <postern/policy/relay_policy.h>
#include <postern/policy/user_table.h>
#include <postern/smtp/server_options.h>

#include "ingress/authenticator.h"
#include "ingress/door.h"
#include "ingress/server_connection.h"
#include "net/connection.h"
#include "net/listener.h"
#include "net/tls_stream.h"

namespace postern::ingress {

// What those who fail to authenticate may.
struct AuthLimits {
  static constexpr std::uint32_t doublings_max = 5;
  std::uint32_t failures_max = 3;                    // of one session, whose last is answered 421; at least 1
  Duration failure_delay = std::chrono::seconds(1);  // before the first is answered; doubles with each
  policy::FailureLimit::Limit per_peer;
};

// What the sessions of one listener share. Immutable; replaced as a whole by a reload.
struct ListenerContext {
  std::shared_ptr<const smtp::ServerOptions> session;
  policy::NetworkSet relay_from;
  policy::NetworkSet proxy_protocol_from{};  // peers that must send the PROXY protocol's header first
  policy::NetworkSet xclient_from{};         // peers that may say XCLIENT
  policy::NetworkSet xforward_from{};        // peers that may say XFORWARD
  // What TLS is made from, where session->tls offers it or tls_at_once wants it; else null.
  std::shared_ptr<const net::TlsContext> tls = nullptr;
  bool tls_at_once = false;  // TLS from the first byte on: the greeting is said in it [RFC 8314 §3]
  // Clients that may relay by the certificate that they show.
  std::vector<net::CertificateFingerprint> relay_certificates = {};  // sorted
  bool relay_verified = false;                                       // whom an authority of the listener's vouches for
  std::uint32_t handshakes_max = 1000;                               // in progress at a time, of one shard
  std::uint32_t handshakes_per_peer = 3000;                          // begun in a minute; 0: any number
  Duration handshake_timeout = std::chrono::seconds(60);             // from its start to its end
  AuthLimits auth = {};
  // Of peers that may not relay:
  Duration greeting_delay{};                 // who talks meanwhile is an early talker
  std::uint32_t connections_per_minute = 0;  // of one peer; 0: any number
  std::uint32_t messages_per_minute = 0;     // begun by MAIL; 0: any number
  // Before the first negative reply beyond those free leaves; doubles with each, five times; 0: none waits.
  static constexpr std::uint32_t errors_free = 3;
  static constexpr std::uint32_t error_doublings_max = 5;
  Duration error_delay{};

  [[nodiscard]] bool may_relay(const net::TlsFacts& facts) const;
};

// How many connections there are, over all shards.
class ConnectionCount {
 public:
  explicit ConnectionCount(std::uint32_t limit) : limit_(limit) {}
  [[nodiscard]] bool try_acquire() {
    if (count_.fetch_add(1, std::memory_order_relaxed) < limit_) return true;
    count_.fetch_sub(1, std::memory_order_relaxed);
    return false;
  }
  void release() { count_.fetch_sub(1, std::memory_order_relaxed); }
  [[nodiscard]] std::uint32_t limit() const { return limit_; }
  // True to the one shard that is the first to see it.
  [[nodiscard]] bool note_short(bool now_short) {
    return short_.exchange(now_short, std::memory_order_relaxed) != now_short;
  }
  [[nodiscard]] std::uint32_t value() const { return count_.load(std::memory_order_relaxed); }

 private:
  std::uint32_t limit_;
  std::atomic<std::uint32_t> count_{0};
  std::atomic<bool> short_{false};
};

// What happens, told to whoever keeps counters and the event log. Views live during the call only.
class Observer {
 public:
  virtual void on_connected(const io::Address& peer) = 0;
  virtual void on_disconnected(const io::Address& peer, std::uint32_t messages) = 0;
  // Refused with `line` before there was a session.
  virtual void on_turned_away(const io::Address& peer, std::string_view line) = 0;
  virtual void on_secured(const io::Address& peer, const net::TlsFacts& facts) = 0;
  // No handshake came to be; `status` says why.
  virtual void on_tls_failed(const io::Address& peer, const Status& status) = 0;
  // None was begun: there are too many. `line` is what the client was told, or would have been.
  virtual void on_tls_refused(const io::Address& peer, std::string_view line) = 0;
  // `user`: as the client said it, whether there is one or not.
  virtual void on_authenticated(const io::Address& peer, std::string_view user, std::string_view mechanism) = 0;
  virtual void on_auth_failed(const io::Address& peer, std::string_view user, std::string_view mechanism,
                              const mail::Reply& reply) = 0;
  // Connections have become short, or are so no more: `count` of them at the moment. Once in the process.
  virtual void on_stress(bool begins, std::uint32_t count) = 0;
  virtual void on_rejected(const io::Address& peer, const mail::Envelope* envelope, std::string_view recipient,
                           const mail::Reply& reply) = 0;

 protected:
  ~Observer() = default;
};

struct IngressOptions {
  std::uint32_t connections_max = 32'768;                 // of this shard; the process's limit is ConnectionCount's
  std::uint64_t inline_content_max = 256u << 10;          // larger content is streamed into the spool while it arrives
  std::size_t chunk_bytes = 64u << 10;                    // of a streamed piece
  Duration resource_patience = std::chrono::seconds(60);  // waiting for memory or the spool, then 452 4.3.1
  Duration proxy_header_max = std::chrono::seconds(10);   // for all of a PROXY header, then the end without a word
  Duration linger = std::chrono::seconds(2);              // for the client's FIN behind our last reply
  // Replies to a group that ends with a content leave with the content's. A durable write takes a tenth of this; where
  // it takes longer, they leave before it.
  Duration gathering_max = std::chrono::milliseconds(5);
  // Stress: from so many percent of ConnectionCount's limit on, until they are 10 less, no session waits longer for its
  // client than stress_idle. 0: never.
  std::uint32_t stress_percent = 0;
  Duration stress_idle = std::chrono::seconds(10);
};

class Ingress final : private net::ListenerUser, private AuthenticatorUser {
 public:
  // All references outlive it.
  struct Setup {
    net::ConnectionTable& connections;
    net::Dispatcher& dispatcher;
    TimerWheel& timers;
    io::Loop& loop;
    Door& door;
    Observer& observer;
    ConnectionCount& connection_count;
    policy::PeerCounts& peer_counts;
    policy::PeerRates& handshake_rates;
    policy::PeerRates& connection_rates;
    policy::PeerRates& message_rates;
    policy::FailureLimit& auth_failures;
    std::shared_ptr<const policy::RelayPolicy> relay_policy;
    std::shared_ptr<const policy::RecipientTable> recipients = nullptr;  // null: everyone exists
    std::shared_ptr<const policy::UserTable> users = nullptr;            // null: nobody may authenticate
    IngressOptions options;
  };
  explicit Ingress(const Setup& setup);
  ~Ingress();

  // Starts to accept on `listener`; `inherited` ≥ 0 is a listening descriptor to use instead of binding `address`.
  [[nodiscard]] Status listen(net::Dispatcher& dispatcher, const io::Address& address, int inherited,
                              std::shared_ptr<const ListenerContext> context);
  // The addresses listened on (port 0 resolved).
  [[nodiscard]] std::vector<io::Address> addresses() const;
  // For sessions that begin from now on.
  void set_policy(std::shared_ptr<const policy::RelayPolicy> relay_policy,
                  std::shared_ptr<const policy::RecipientTable> recipients,
                  std::shared_ptr<const policy::UserTable> users) {
    relay_policy_ = std::move(relay_policy);
    recipients_ = std::move(recipients);
    users_ = std::move(users);
  }
  void set_context(std::size_t listener, std::shared_ptr<const ListenerContext> context);

  // --- from the door -----------------------------------------------------------------------------------------------
  // Of a submission whose connection is gone nothing is told: the mail is accepted all the same [RFC 5321 §4.1.1.4].
  void on_accepted(const Submission& submission, mail::QueueId id, Instant now);
  void on_refused(const Submission& submission, const mail::Reply& reply, Instant now);
  // Null: the next hop takes the recipient, or what could not be asked is taken.
  void on_recipient_answered(const Asker& asker, const mail::Reply* refusal, Instant now);
  // Memory or room in the spool came back: connections that stalled for it go on, oldest first.
  void on_resources();
  [[nodiscard]] bool anyone_stalled() const { return !stalled_.empty(); }
  // Connections that have stalled for longer than the patience get their 452.
  void on_tick(Instant now);

  // --- the end -----------------------------------------------------------------------------------------------------
  void stop_accepting();
  void shut_down();  // 421 4.3.2 to every session at its next command boundary
  void abort_all();
  // No socket of ours is open, nor any client's.
  [[nodiscard]] bool stopped() const;
  [[nodiscard]] std::uint32_t connection_count() const { return clients_.size(); }
  [[nodiscard]] bool stressed() const { return stressed_; }

 private:
  friend class ServerConnection;
  struct Listening;
  class Refusal;
  static constexpr std::uint32_t refusals_max = 256;  // being told at a time

  void on_connection(net::Listener& listener, io::Descriptor descriptor, const io::Address& peer) override;
  void on_password_checked(SlotId client, PasswordCheck result) override;
  // `silently`: who expects TLS is not told in the clear.
  void refuse(io::Descriptor descriptor, const io::Address& peer, const std::string& line, bool silently);
  void remove(ServerConnection& client);
  void look_for_stress();
  // Whether a peer that may not relay has this connection, and message, within its rate; then it counts.
  [[nodiscard]] bool takes_connection(const ListenerContext& context, const IpAddress& peer);
  [[nodiscard]] bool takes_message(const ListenerContext& context, const io::Address& peer);
  // Null: one more handshake is under way until end_handshake(). Else the refusal. Peers that may relay have no rate.
  [[nodiscard]] const mail::Reply* begin_handshake(const ListenerContext& context, const io::Address& peer,
                                                   bool may_relay);
  void end_handshake();

  net::ConnectionTable& connections_;
  TimerWheel& timers_;
  io::Loop& loop_;
  Door& door_;
  Observer& observer_;
  ConnectionCount& connection_count_;
  policy::PeerCounts& peer_counts_;
  policy::PeerRates& handshake_rates_;
  policy::PeerRates& connection_rates_;
  policy::PeerRates& message_rates_;
  policy::FailureLimit& auth_failures_;
  std::shared_ptr<const policy::RelayPolicy> relay_policy_;
  std::shared_ptr<const policy::RecipientTable> recipients_;
  std::shared_ptr<const policy::UserTable> users_;
  std::vector<std::string_view> targets_;  // of the alias being looked at
  IngressOptions options_;
  Authenticator authenticator_;
  SlotMap<ServerConnection> clients_;
  IntrusiveList<ServerConnection, WaitingTag> stalled_;
  std::vector<std::unique_ptr<Listening>> listening_;
  std::unique_ptr<SlotMap<Refusal>> refusals_;
  std::uint32_t handshakes_ = 0;  // in progress
  bool stressed_ = false;         // as far as this shard has seen
  bool stopping_ = false;
};

}  // namespace postern::ingress
