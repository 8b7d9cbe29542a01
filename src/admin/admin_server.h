// The admin listener: GET /metrics and GET /healthz over HTTP, on a thread of its own.
//
// Nothing here is on the mail path: the thread reads what the shards publish. Bounded for the case that the listener is
// reachable by strangers: so many connections, so much memory for each, so much time; a request's body is never read.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>

#include <postern/base/status.h>

#include "io/address.h"
#include "shard/metrics.h"

struct MHD_Daemon;

namespace postern::admin {

class AdminServer {
 public:
  static constexpr unsigned connections_max = 32;
  static constexpr std::size_t connection_memory_bytes = 16u << 10;
  static constexpr std::chrono::seconds connection_timeout{10};

  // Binds and listens; nobody is answered before serve(). A stale unix socket file is replaced; a new one is for the
  // owner and group only. kAlreadyExists: the address is taken.
  [[nodiscard]] static StatusOr<std::unique_ptr<AdminServer>> bind(const io::Address& address);
  // Stops the thread; connections are closed.
  ~AdminServer();
  AdminServer(const AdminServer&) = delete;
  AdminServer& operator=(const AdminServer&) = delete;

  // Starts the thread. `source` outlives this object. Once.
  [[nodiscard]] Status serve(shard::MetricsSource& source);
  // Where it listens: with the port that port 0 became.
  [[nodiscard]] io::Address local_address() const;

 private:
  AdminServer(int listener, const io::Address& address) : listener_(listener), address_(address) {}

  int listener_;
  io::Address address_;  // as asked for
  bool bound_ = false;   // the unix socket file is ours to remove
  MHD_Daemon* daemon_ = nullptr;
};

}  // namespace postern::admin
