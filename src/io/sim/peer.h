// A program outside the process under test, as its one connection sees it: bytes in, bytes out, how fast it reads.
//
// Derive, and answer the calls; each comes from an event of the world, never from within a call of this class.
#pragma once

#include <string>
#include <string_view>

#include "io/sim/network.h"
#include "io/sim/world.h"

namespace postern::io::sim {

class Peer : private Stream::Watcher {
 public:
  explicit Peer(World& world) : world_(world) {}
  virtual ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  // Takes an end that a service was given (open), or connects from `source`.
  void take(StreamPtr stream);
  void connect(const Address& source, const Address& remote);

  // All of it, however slowly the other end reads.
  void send(std::string_view bytes);
  // No more is sent once all went out; receiving goes on.
  void finish();
  // The end; nothing is called any more. `reset`: as a process that was killed.
  void close(bool reset = false);
  [[nodiscard]] bool closed() const { return stream_ == nullptr; }
  // At most `bytes` are read every `interval`; 0: at once what comes.
  void read_slowly(std::size_t bytes, Duration interval);

 protected:
  virtual void on_open() {}
  virtual void on_bytes(std::string_view bytes) = 0;
  virtual void on_end() = 0;            // the other end sends no more
  virtual void on_lost(int error) = 0;  // refused, reset, timed out; closed already
  [[nodiscard]] World& world() { return world_; }
  // False once this object is gone: for events that look after it.
  [[nodiscard]] const std::shared_ptr<bool>& alive() const { return alive_; }

 private:
  void on_change(Stream& stream) override;
  void push();
  void read();

  World& world_;
  StreamPtr stream_;
  std::string unsent_;
  bool finish_ = false;
  bool opened_ = false;
  bool end_told_ = false;
  std::size_t read_most_ = 0;
  Duration read_interval_{0};
  bool read_waits_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace postern::io::sim
