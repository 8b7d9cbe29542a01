// A next hop that counts and checks what arrives, and misbehaves when told to.
//
// Every message accepted is told to the ledger; its content is read once and kept nowhere. One listener and its
// sessions on one engine; driven by it alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <absl/container/flat_hash_map.h>

#include <postern/base/random.h>
#include <postern/base/status.h>
#include <postern/smtp/server_session.h>

#include "bench/behaviour.h"
#include "bench/engine.h"
#include "bench/ledger.h"
#include "net/listener.h"

namespace postern::bench {

class SinkSession;

struct SinkOptions {
  io::Address listen;
  std::string hostname = "sink.postern-bench.test";
  bool chunking = true;
  Behaviour behaviour;
  std::uint64_t seed = 1;                     // of the shares of the behaviour
  std::uint32_t messages_per_connection = 0;  // then 421; 0: as many as come
  std::uint32_t connections = 0;              // at a time; more are told 421. 0: as many as descriptors allow
  std::uint32_t recipients = 1000;            // per transaction; more are told 452
};

class Sink final : private net::ListenerUser {
 public:
  struct Counts {
    std::uint64_t connections = 0;
    std::uint64_t connections_now = 0;
    std::uint64_t connections_most = 0;
    std::uint64_t messages = 0;  // accepted
    std::uint64_t recipients = 0;
    std::uint64_t bytes = 0;     // of content accepted
    std::uint64_t refusals = 0;  // replies that the behaviour asked for
    std::uint64_t hang_ups = 0;  // the same
  };

  // The ledger outlives it, or its successor does.
  Sink(Engine& engine, SinkOptions options, Ledger& ledger);
  ~Sink();  // never opened, or stopped()
  Sink(const Sink&) = delete;
  Sink& operator=(const Sink&) = delete;

  // kAlreadyExists: the address is taken.
  [[nodiscard]] Status open();
  // Accepts no more connections; sessions end behind what they have begun to answer, 421.
  void stop();
  // Counts from zero, into another ledger: what came before was warming up.
  void begin_anew(Ledger& ledger);
  // The listener is gone and all sessions have ended.
  [[nodiscard]] bool stopped() const { return listener_.stopped() && counts_.connections_now == 0; }
  [[nodiscard]] StatusOr<io::Address> address() const { return listener_.local_address(); }
  [[nodiscard]] const Counts& counts() const { return counts_; }
  [[nodiscard]] Instant last_message_at() const { return last_message_at_; }  // accepted, of whatever kind

 private:
  friend class SinkSession;

  void on_connection(net::Listener& listener, io::Descriptor descriptor, const io::Address& peer) override;
  void remove(SinkSession& session);

  Engine& engine_;
  SinkOptions options_;
  Ledger* ledger_;
  std::shared_ptr<const smtp::ServerOptions> session_options_;
  Random random_;
  Counts counts_;
  Instant last_message_at_{};
  std::uint64_t next_id_ = 1;
  absl::flat_hash_map<SinkSession*, std::unique_ptr<SinkSession>> sessions_;
  net::Listener listener_;
};

}  // namespace postern::bench
