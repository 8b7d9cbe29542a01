// One listening socket of one shard: accepts, and keeps accepting whatever the kernel says.
//
// It hands over plain descriptors; limits on connections and what a connection is for are the user's.
#pragma once

#include <cstdint>
#include <string>

#include <postern/base/status.h>
#include <postern/base/timer_wheel.h>

#include "io/loop.h"
#include "net/descriptor_waiters.h"
#include "net/dispatcher.h"

namespace postern::net {

class Listener;

class ListenerUser {
 public:
  // `descriptor` is the user's from here on. `peer` is valid during the call. Not called from within open().
  virtual void on_connection(Listener& listener, io::Descriptor descriptor, const io::Address& peer) = 0;

 protected:
  ~ListenerUser() = default;
};

struct ListenerOptions {
  // What clients hear that connect while the process has no descriptor left, with its CRLF. Empty: they are closed.
  std::string farewell;
  // After accept() failed for want of descriptors or memory, it is tried again when a descriptor was closed, and after
  // this time in any case.
  Duration retry = std::chrono::milliseconds(100);
};

class Listener final : private CompletionHandler, private TimerHandler, private DescriptorWaiter {
 public:
  // All references outlive it.
  Listener(io::Loop& loop, Dispatcher& dispatcher, TimerWheel& timers, DescriptorWaiters& descriptor_waiters,
           ListenerUser& user, ListenerOptions options);
  // When it never opened, or stopped(), or after the loop is gone.
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  // Once: binds and accepts. kAlreadyExists: the address is taken.
  [[nodiscard]] Status open(const io::Address& address, const io::ListenOptions& options = {});
  // Once, instead of open(): accepts on a socket that listens already, and owns it.
  void adopt(io::Descriptor listening);
  // With the port that 0 became.
  [[nodiscard]] StatusOr<io::Address> local_address() const { return loop_.local_address(descriptor_); }

  // Stops accepting and closes the socket as soon as the kernel has let go of it. Connections that the kernel accepted
  // before are still handed over.
  void stop();
  [[nodiscard]] bool stopped() const { return descriptor_ < 0; }

  // Connections turned away because there was no descriptor for them.
  [[nodiscard]] std::uint64_t refused() const { return refused_; }

 private:
  void on_completion(const io::Completion& completion) override;
  void on_timer(Timer& timer, Instant now) override;
  void on_descriptor_free() override;

  void arm();
  void retry_later();
  bool refuse_waiting();

  // One listen queue's worth would be thousands; this many in one go keep a turn short.
  static constexpr int refusals_per_go = 64;

  io::Loop& loop_;
  Dispatcher& dispatcher_;
  TimerWheel& timers_;
  DescriptorWaiters& descriptor_waiters_;
  ListenerUser& user_;
  ListenerOptions options_;
  Timer retry_timer_{*this};
  std::uint64_t refused_ = 0;
  io::Descriptor descriptor_ = -1;
  std::uint8_t kind_;
  bool armed_ = false;  // an accept is pending
  bool stopping_ = false;
};

}  // namespace postern::net
