// The simulated network: streams and datagrams between addresses, with latency, splitting and joining of bytes, loss,
// partitions and limits of what is under way.
//
// A Stream is one end of a connection, held by a descriptor of a loop or by a Peer. Bytes arrive in order, in pieces
// that have nothing to do with how they were sent. What happens to an end is told to its watcher.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/base/time.h>

#include "io/address.h"

namespace postern::io::sim {

class World;
class Network;

struct NetworkOptions {
  Duration latency_min = std::chrono::microseconds(20);
  Duration latency_max = std::chrono::microseconds(20);
  std::size_t window_bytes = 256u << 10;  // sent and not yet read, per direction
  // In hundred: pieces of a send that are cut further; connects that nobody answers; datagrams lost, and doubled.
  unsigned splits = 0;
  unsigned connects_unanswered = 0;
  unsigned datagrams_lost = 0;
  unsigned datagrams_doubled = 0;
  unsigned connections_lost = 0;  // in ten thousand sends: the connection is lost for both ends
};

// Bytes in and out at the ends.
class ByteQueue {
 public:
  [[nodiscard]] std::size_t size() const { return bytes_.size() - head_; }
  void push(std::string_view bytes) { bytes_.append(bytes); }
  [[nodiscard]] std::string_view front(std::size_t size) const { return std::string_view(bytes_).substr(head_, size); }
  void pop(std::size_t size) {
    head_ += size;
    if (head_ > bytes_.size() / 2) {
      bytes_.erase(0, head_);
      head_ = 0;
    }
  }

 private:
  std::string bytes_;
  std::size_t head_ = 0;
};

class Stream;
using StreamPtr = std::shared_ptr<Stream>;

class Stream final : public std::enable_shared_from_this<Stream> {
 public:
  enum class State : std::uint8_t { fresh, connecting, open, closed };
  class Watcher {
   public:
    virtual void on_change(Stream& stream) = 0;

   protected:
    ~Watcher() = default;
  };

  Stream(World& world, const Address& local, const Address& remote) : world_(world), local_(local), remote_(remote) {}

  void watch(Watcher* watcher) { watcher_ = watcher; }
  [[nodiscard]] State state() const { return state_; }
  [[nodiscard]] const Address& local() const { return local_; }
  [[nodiscard]] const Address& remote() const { return remote_; }

  // --- sending
  [[nodiscard]] std::size_t room() const;  // how much send() takes now
  std::size_t send(std::string_view bytes);
  void send_end();
  // --- receiving
  [[nodiscard]] std::size_t available() const { return received_.size(); }
  [[nodiscard]] std::string_view front(std::size_t size) const { return received_.front(size); }
  void pop(std::size_t size);
  [[nodiscard]] bool ended() const { return received_.size() == 0 && (end_came_ || receive_shut_); }
  void shut_receive() { receive_shut_ = true; }
  // What is wrong with the connection: ECONNREFUSED, ETIMEDOUT, ECONNRESET; 0: nothing.
  [[nodiscard]] int error() const { return error_; }
  [[nodiscard]] bool end_sent() const { return end_sent_; }

  // The holder lets go. With bytes unread, or `reset`, the other end sees a reset.
  void close(bool reset = false);
  // The holder is gone without a word (a power cut); what comes later is answered by a reset.
  void vanish();

 private:
  friend class Network;
  struct Piece {
    Instant when;
    std::string bytes;
    bool end = false;
    int error = 0;
  };
  void arrive(Piece piece);
  void deliver();
  void fail(int error);
  void tell();

  World& world_;
  Address local_;
  Address remote_;
  State state_ = State::fresh;
  std::weak_ptr<Stream> other_;
  Watcher* watcher_ = nullptr;
  std::deque<Piece> coming_;
  std::size_t coming_bytes_ = 0;
  Instant last_arrival_{};
  ByteQueue received_;
  bool end_came_ = false;
  bool end_sent_ = false;
  bool receive_shut_ = false;
  bool wants_room_ = false;  // its sender was told that there is none
  bool outgoing_ = false;    // counted by Network::outgoing()
  int error_ = 0;
};

// A listening socket of a loop.
struct Listener {
  Address address;
  bool reuse_port = false;
  std::size_t backlog = 0;
  bool closed = false;
  std::deque<StreamPtr> waiting;     // open, not yet accepted
  std::deque<StreamPtr> unanswered;  // the connecting ends that found the backlog full
  std::function<void()> on_change;
};
using ListenerPtr = std::shared_ptr<Listener>;

struct DatagramSocket {
  struct Datagram {
    Address from;
    std::string bytes;
  };
  Address local;
  Address remote;
  std::deque<Datagram> received;  // at most datagrams_max: more are lost
  int error = 0;
  bool closed = false;
  std::function<void()> on_change;
};
using DatagramSocketPtr = std::shared_ptr<DatagramSocket>;

class Network {
 public:
  static constexpr std::size_t datagrams_max = 64;
  // Linux gives up on a connect that nobody answers after six retries.
  static constexpr Duration connect_gives_up = std::chrono::seconds(127);

  Network(World& world, const NetworkOptions& options) : world_(world), options_(options) {}
  [[nodiscard]] NetworkOptions& options() { return options_; }

  // --- streams
  using Service = std::function<void(StreamPtr)>;
  // A program outside that answers at `address`; nullptr: no longer. Its end is open when it gets it.
  void serve(const Address& address, Service service);
  [[nodiscard]] StatusOr<ListenerPtr> listen(const Address& address, bool reuse_port, std::size_t backlog);
  void close(Listener& listener);
  // What Listener::waiting held went down: those unanswered are let in.
  void on_accepted(Listener& listener);
  // `source`: empty, or what to come from; port 0: any.
  [[nodiscard]] StreamPtr make(const Address& remote, const Address& source);
  void connect(const StreamPtr& stream, const Address& remote);

  // Connections that loops of the process hold or try to `remote`; those no longer that it has closed or ended (FIN).
  [[nodiscard]] std::size_t outgoing(const Address& remote) const;
  // Told when that number grew.
  std::function<void(const Address& remote, std::size_t count)> on_outgoing;
  void count_outgoing(Stream& stream);

  // --- datagrams
  using Answer = std::function<void(const Address& from, std::string_view bytes)>;
  void answer_datagrams(const Address& address, Answer answer);
  [[nodiscard]] StatusOr<DatagramSocketPtr> open_datagram(const Address& remote, const Address& source);
  void close(DatagramSocket& socket);
  void send_datagram(const Address& from, const Address& to, std::string_view bytes);

  // Nothing passes to or from `ip` before `until`: streams stall, connects go unanswered, datagrams are lost.
  void partition(const IpAddress& ip, Instant until);
  void heal() { partitions_.clear(); }

  [[nodiscard]] static bool is_own(const IpAddress& ip);

 private:
  friend class Stream;
  [[nodiscard]] Instant cut_until(const Address& a, const Address& b) const;
  [[nodiscard]] Instant arrival(const Address& from, const Address& to);
  [[nodiscard]] std::uint16_t free_port(const IpAddress& ip, bool datagram);
  void on_connect_arrives(const StreamPtr& stream);
  void let_in(const std::shared_ptr<Listener>& listener, const StreamPtr& stream);
  void open_soon(const StreamPtr& stream);
  void count_down(const Stream& stream);

  World& world_;
  NetworkOptions options_;
  std::map<std::string, Service> services_;
  std::multimap<std::string, ListenerPtr> listeners_;
  std::map<std::string, Answer> answers_;
  std::map<std::string, std::weak_ptr<DatagramSocket>> sockets_;
  std::map<std::string, Instant> partitions_;
  std::map<std::string, std::size_t> outgoing_;
  std::uint16_t next_port_ = 32768;
};

}  // namespace postern::io::sim
