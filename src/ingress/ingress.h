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
#include <postern/policy/peer_counts.h>
#include <postern/policy/recipient_table.h>
#include <postern/policy/relay_policy.h>
#include <postern/smtp/server_options.h>

#include "ingress/door.h"
#include "ingress/server_connection.h"
#include "net/connection.h"
#include "net/listener.h"

namespace postern::ingress {

// What the sessions of one listener share. Immutable; replaced as a whole by a reload.
struct ListenerContext {
  std::shared_ptr<const smtp::ServerOptions> session;
  policy::NetworkSet relay_from;
  policy::NetworkSet proxy_protocol_from{};  // peers that must send the PROXY protocol's header first
  policy::NetworkSet xclient_from{};         // peers that may say XCLIENT
  policy::NetworkSet xforward_from{};        // peers that may say XFORWARD
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
  [[nodiscard]] std::uint32_t value() const { return count_.load(std::memory_order_relaxed); }

 private:
  std::uint32_t limit_;
  std::atomic<std::uint32_t> count_{0};
};

// What happens, told to whoever keeps counters and the event log. Views live during the call only.
class Observer {
 public:
  virtual void on_connected(const io::Address& peer) = 0;
  virtual void on_disconnected(const io::Address& peer, std::uint32_t messages) = 0;
  // Refused with `line` before there was a session.
  virtual void on_turned_away(const io::Address& peer, std::string_view line) = 0;
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
};

class Ingress final : private net::ListenerUser {
 public:
  // All references outlive it.
  struct Setup {
    net::ConnectionTable& connections;
    TimerWheel& timers;
    io::Loop& loop;
    Door& door;
    Observer& observer;
    ConnectionCount& connection_count;
    policy::PeerCounts& peer_counts;
    std::shared_ptr<const policy::RelayPolicy> relay_policy;
    std::shared_ptr<const policy::RecipientTable> recipients = nullptr;  // null: everyone exists
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
                  std::shared_ptr<const policy::RecipientTable> recipients) {
    relay_policy_ = std::move(relay_policy);
    recipients_ = std::move(recipients);
  }
  void set_context(std::size_t listener, std::shared_ptr<const ListenerContext> context);

  // --- from the door -----------------------------------------------------------------------------------------------
  // Of a submission whose connection is gone nothing is told: the mail is accepted all the same [RFC 5321 §4.1.1.4].
  void on_accepted(const Submission& submission, mail::QueueId id, Instant now);
  void on_refused(const Submission& submission, const mail::Reply& reply, Instant now);
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

 private:
  friend class ServerConnection;
  struct Listening;
  class Refusal;
  static constexpr std::uint32_t refusals_max = 256;  // being told at a time

  void on_connection(net::Listener& listener, io::Descriptor descriptor, const io::Address& peer) override;
  void refuse(io::Descriptor descriptor, const io::Address& peer, const std::string& line);
  void remove(ServerConnection& client);

  net::ConnectionTable& connections_;
  TimerWheel& timers_;
  io::Loop& loop_;
  Door& door_;
  Observer& observer_;
  ConnectionCount& connection_count_;
  policy::PeerCounts& peer_counts_;
  std::shared_ptr<const policy::RelayPolicy> relay_policy_;
  std::shared_ptr<const policy::RecipientTable> recipients_;
  std::vector<std::string_view> targets_;  // of the alias being looked at
  IngressOptions options_;
  SlotMap<ServerConnection> clients_;
  IntrusiveList<ServerConnection, WaitingTag> stalled_;
  std::vector<std::unique_ptr<Listening>> listening_;
  std::unique_ptr<SlotMap<Refusal>> refusals_;
  bool stopping_ = false;
};

}  // namespace postern::ingress
