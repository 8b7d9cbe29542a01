// One shard's worth of net on the real loop, driven by the test; and plain blocking-free sockets as its peers.
#pragma once

#include <chrono>
#include <cstddef>
#include <deque>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>
#include <vector>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <postern/base/timer_wheel.h>

#include "io/uring/uring_loop.h"
#include "net/connection.h"
#include "net/dispatcher.h"
#include "net/listener.h"

namespace postern::net {

inline std::size_t open_descriptors() {
  const std::filesystem::directory_iterator begin("/proc/self/fd"), end;
  return static_cast<std::size_t>(std::distance(begin, end));
}

inline std::unique_ptr<io::Loop> make_loop(const io::UringOptions& options) {
  StatusOr<std::unique_ptr<io::Loop>> loop = io::make_uring_loop(options);
  if (!loop.ok()) ADD_FAILURE() << loop.status().ToString();
  return std::move(loop).value();
}

struct Net {
  explicit Net(const io::UringOptions& uring = {}, const ConnectionTable::Options& options = {})
      : loop(make_loop(uring)), wheel(loop->clocks().monotonic), table(*loop, dispatcher, wheel, options) {}
  ~Net() {
    table.abort_all();
    EXPECT_TRUE(run_until([this] { return table.empty(); })) << "every connection ends when it is aborted";
  }

  void turn(Duration wait = std::chrono::milliseconds(5)) {
    const Instant until = loop->clocks().monotonic + wait;
    (void)loop->run_once(dispatcher, std::min(wheel.next_expiry(), until));
    (void)wheel.advance(loop->now());
  }
  template <class Condition>
  [[nodiscard]] bool run_until(Condition condition, Duration patience = std::chrono::seconds(10)) {
    const Instant until = loop->clocks().monotonic + patience;
    while (!condition()) {
      if (loop->clocks().monotonic > until) return false;
      turn();
    }
    return true;
  }
  void run_for(Duration duration) {
    (void)run_until([] { return false; }, duration);
  }

  std::unique_ptr<io::Loop> loop;
  Dispatcher dispatcher;
  TimerWheel wheel;
  ConnectionTable table;
};

// Records everything; what it does besides is up to the hooks.
struct User final : ConnectionUser {
  Connection* connection = nullptr;
  std::string received;
  int connected = 0, sent = 0, ends = 0, lost = 0, closed = 0;
  Status status;
  // How many of the bytes to take.
  std::function<std::size_t(std::string_view)> take = [](std::string_view bytes) { return bytes.size(); };
  std::function<void()> after_received = [] {}, after_sent = [] {}, after_end = [] {};

  void on_connected() override {
    alive();
    ++connected;
  }
  std::size_t on_received(MutableBytes bytes) override {
    alive();
    const std::size_t taken = take(as_text(bytes));
    received += as_text(bytes).substr(0, taken);
    std::fill(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken), std::byte{0xDD});
    after_received();
    return taken;
  }
  void on_end_of_stream() override {
    alive();
    ++ends;
    after_end();
  }
  void on_sent() override {
    alive();
    ++sent;
    after_sent();
  }
  void on_lost(const Status& why) override {
    alive();
    ++lost;
    status = why;
  }
  void on_closed() override {
    ++closed;
    connection = nullptr;
  }
  void alive() const {
    EXPECT_EQ(lost, 0) << "nothing but on_closed() after on_lost()";
    EXPECT_EQ(closed, 0) << "nothing after on_closed()";
  }
};

// A socket of the other side; non-blocking.
struct Peer {
  int descriptor = -1;
  std::string received;
  bool end = false;
  int error = 0;

  explicit Peer(int socket) : descriptor(socket) {}
  explicit Peer(const io::Address& address) : descriptor(::socket(AF_INET, SOCK_STREAM, 0)) {
    EXPECT_EQ(::connect(descriptor, address.kernel(), address.kernel_size()), 0);
  }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;
  ~Peer() { close(); }

  void close() {
    if (descriptor >= 0) ::close(std::exchange(descriptor, -1));
  }
  void reset() {
    const linger abortive{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &abortive, sizeof abortive);
    close();
  }
  void end_sending() const { ::shutdown(descriptor, SHUT_WR); }
  // As much as goes without waiting; returns how much.
  std::size_t send(std::string_view text) {
    const ssize_t size = ::send(descriptor, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (size < 0) {
      if (errno != EAGAIN) error = errno;
      return 0;
    }
    return static_cast<std::size_t>(size);
  }
  // Everything that is there.
  void receive() {
    char buffer[65536];
    while (!end && error == 0) {
      const ssize_t size = ::recv(descriptor, buffer, sizeof buffer, MSG_DONTWAIT);
      if (size > 0) {
        received.append(buffer, static_cast<std::size_t>(size));
      } else if (size == 0) {
        end = true;
      } else {
        if (errno != EAGAIN) error = errno;
        return;
      }
    }
  }
};

// Accepts into connections, one User each.
struct Server final : ListenerUser {
  Net& net;
  Listener listener;
  std::deque<User> users;
  std::function<void(User&)> prepare = [](User&) {};

  explicit Server(Net& n, ListenerOptions options = {})
      : net(n),
        listener(n.loop.operator*(), n.dispatcher, n.wheel, n.table.descriptor_waiters(), *this, std::move(options)) {
    const Status status = listener.open(io::Address::ip(IpAddress::v4({127, 0, 0, 1}), 0));
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  ~Server() {
    net.table.abort_all();
    listener.stop();
    EXPECT_TRUE(net.run_until([this] { return listener.stopped() && net.table.empty(); }));
  }
  [[nodiscard]] io::Address address() const { return *listener.local_address(); }
  // The user of a fresh connection from `peer`.
  User& accept() {
    const std::size_t before = users.size();
    EXPECT_TRUE(net.run_until([&] { return users.size() > before; }));
    return users.back();
  }
  void on_connection(Listener&, io::Descriptor descriptor, const io::Address& peer) override {
    EXPECT_TRUE(peer.is_ip());
    User& user = users.emplace_back();
    prepare(user);
    user.connection = net.table.adopt(descriptor, user);
    ASSERT_NE(user.connection, nullptr);
  }
};

}  // namespace postern::net
