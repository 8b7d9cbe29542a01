// Byte-stream connections on a loop, without a protocol. Each owns its descriptor and its pending operations, and
// closes the one only when the others have been reaped: else the FIN is lost, or a reused number receives old
// completions.
//
// All of a shard's connections live in its ConnectionTable; users hold a Connection* until on_closed(). Deadlines of
// protocols are the user's own timers. Between socket and user all bytes pass through deliver() and start_send(), which
// is where TLS has its place: connection_tls.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <postern/base/bytes.h>
#include <postern/base/intrusive_list.h>
#include <postern/base/slot_map.h>
#include <postern/base/status.h>
#include <postern/base/timer_wheel.h>

#include "io/loop.h"
#include "net/descriptor_waiters.h"
#include "net/dispatcher.h"
#include "net/tls_stream.h"

namespace postern::net {

// Calls come from within run_once() or TimerWheel::advance(), never from within a call to the connection. Every call
// may do anything to the connection and to others, but none may destroy the user before on_closed().
class ConnectionUser {
 public:
  // connect() succeeded; reading has begun.
  virtual void on_connected() {}
  // The handshake that start_tls() began is complete: bytes are secured from here on. `facts` live as long as the
  // connection.
  virtual void on_secured(const TlsFacts& facts) { (void)facts; }
  // Returns how many bytes it took. When fewer than all, the connection keeps the rest, stops reading, and offers the
  // rest again after resume(). `bytes` may be written to, and are gone after the call.
  [[nodiscard]] virtual std::size_t on_received(MutableBytes bytes) = 0;
  // The peer will send no more, after the last byte was taken. Sending goes on working. Under TLS a FIN says so as a
  // close_notify does: whoever can cut a connection can cut it anywhere, so an end proves nothing to be complete.
  virtual void on_end_of_stream() = 0;
  // Everything handed to the last send() has left for the kernel; its memory is the user's again.
  virtual void on_sent() = 0;
  // The connection broke, or never came to be. Only on_closed() follows.
  virtual void on_lost(const Status& status) = 0;
  // The last call, exactly once, whatever ended the connection: the descriptor is closed, nothing refers to memory of
  // the user any more, and the Connection is gone. Not called for connections that die with their table.
  virtual void on_closed() = 0;

 protected:
  ~ConnectionUser() = default;
};

class ConnectionTable;
struct DeferredTag;
struct StarvingTag;

class Connection final : private ListHook<DeferredTag>, private ListHook<StarvingTag>, private TimerHandler {
 public:
  Connection(ConnectionTable& table, SlotId id, io::Descriptor descriptor, ConnectionUser& user);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;
  ~Connection();

  // Connected, and neither lost nor being closed.
  [[nodiscard]] bool open() const { return state_ == State::open; }
  [[nodiscard]] io::Descriptor descriptor() const { return descriptor_; }

  // Sends all slices, in as many operations as it takes. One send at a time: the next one after on_sent(). The slices
  // and what they point to stay untouched until on_sent() or on_closed(). Does nothing unless open(): on_closed()
  // comes then.
  void send(std::span<const io::Slice> slices);
  void send(Bytes bytes);  // the same for one piece
  [[nodiscard]] bool sending() const { return sending_; }

  // From here on the connection speaks TLS, and the user sees plain bytes as before: on_secured() comes, or on_lost()
  // when the handshake fails or takes longer than `timeout`. What was received and not taken is the handshake's first
  // input. Nothing is being sent; nothing is sent before on_secured(). Once. Does nothing unless open().
  void start_tls(std::unique_ptr<TlsStream> stream, Duration timeout);
  [[nodiscard]] bool secured() const;
  // TlsStream::take_session(); null when nothing is secured.
  [[nodiscard]] std::shared_ptr<const TlsSession> take_tls_session();
  // As TlsStream has it; empty when not secured().
  [[nodiscard]] std::string channel_binding(std::string_view name) const;

  // Stops on_received(). What the kernel had under way, at most one receive buffer, is kept.
  void pause();
  // Goes on reading; a rest is offered again first, in the loop's next turn.
  void resume();

  // Sends what send() was given, then FIN; takes and drops what still comes until the peer's FIN, so that no reset
  // destroys our last words on their way, or until `linger` from now is over. Then on_closed(), and nothing before it.
  void close_orderly(Duration linger);
  // Ends at once, or as soon as the kernel lets go. Only on_closed() follows.
  void abort();

 private:
  friend class ConnectionTable;
  friend class IntrusiveList<Connection, DeferredTag>;
  friend class IntrusiveList<Connection, StarvingTag>;

  enum class State : std::uint8_t {
    connecting,
    open,
    closing,    // orderly: what was to be sent is being sent
    lingering,  // our FIN is out; waits for the peer's
    ending,     // shut down; waits until no operation is pending
  };
  // Beside a connection that speaks TLS; absent, it costs a pointer.
  struct Tls;
  // What arrived and was not taken: in a buffer of the loop or, when these are scarce, in memory of its own.
  struct Held {
    MutableBytes bytes;
    io::BufferId buffer;
    std::unique_ptr<std::byte[]> memory;
  };

  void on_timer(Timer& timer, Instant now) override;
  void on_recv(const io::Completion& completion);
  void on_send(const io::Completion& completion);
  void on_connect(const io::Completion& completion);
  void on_task(const io::Completion& completion);
  void on_turn();  // what defer() asked for

  void arm_recv();
  void deliver(Held received);
  void hold(Held rest);
  void drop_held();
  void start_send();
  void advance_send(std::size_t size);
  void finish_send();
  void finish_close();
  void send_fin();

  // TLS, in connection_tls.cc.
  void deliver_secured(Held received);
  [[nodiscard]] bool advance_handshake();
  [[nodiscard]] bool deliver_plain();
  void send_cipher_text();
  void on_cipher_text_sent(std::size_t size);
  void fail_tls(const Status& status);

  void fail(const Status& status);
  void end();
  void defer_when_idle();
  [[nodiscard]] bool starving() const { return ListHook<StarvingTag>::linked(); }
  [[nodiscard]] bool operation_pending() const {
    return recv_pending_ || send_pending_ || connect_pending_ || task_pending_;
  }
  [[nodiscard]] io::Token token(std::uint8_t kind) const;

  ConnectionTable& table_;
  ConnectionUser& user_;
  SlotId id_;
  io::Descriptor descriptor_;
  State state_ = State::open;
  bool recv_pending_ : 1 = false;
  bool send_pending_ : 1 = false;
  bool connect_pending_ : 1 = false;
  bool task_pending_ : 1 = false;
  bool sending_ : 1 = false;         // send() was called, on_sent() not
  bool reading_ : 1 = true;          // the user wants bytes
  bool delivering_ : 1 = false;      // within on_received()
  bool resumed_ : 1 = false;         // resume() was called meanwhile
  bool end_of_stream_ : 1 = false;   // the peer's FIN was seen
  bool more_in_socket_ : 1 = false;  // as the last receive said
  Held held_;
  std::span<const io::Slice> slices_;  // still to be sent, the first one from send_offset_ on
  std::size_t send_offset_ = 0;
  io::Slice piece_;  // part of a slice too large for one operation, or the one slice of send(Bytes)
  io::Slice single_;
  Timer timer_{*this};  // connect, handshake, linger
  std::unique_ptr<Tls> tls_;
};
// An idle connection costs this, its slot's 8 bytes and nothing else here.
static_assert(sizeof(Connection) <= 256);

class ConnectionTable final : private CompletionHandler, private TimerHandler {
 public:
  struct Options {
    std::uint32_t capacity = 65'536;
    // A rest that a user leaves lies in the loop's own buffer while more than this many are free; below, it is copied
    // to memory of the connection's (at most receive_buffer_bytes()), so that those who wait for something cannot keep
    // all others from receiving what they wait for.
    std::size_t buffers_reserved = 64;
  };
  // One operation carries at most this, so that no connection keeps the kernel busy for long.
  static constexpr std::size_t send_bytes_max = 256u << 10;

  // All references outlive it.
  ConnectionTable(io::Loop& loop, Dispatcher& dispatcher, TimerWheel& timers, const Options& options);
  ConnectionTable(io::Loop& loop, Dispatcher& dispatcher, TimerWheel& timers);
  // When empty(), or after the loop is gone.
  ~ConnectionTable();

  // Takes over a connected descriptor and begins to read. nullptr when the table is full: `descriptor` stays the
  // caller's then.
  [[nodiscard]] Connection* adopt(io::Descriptor descriptor, ConnectionUser& user);
  // Connects from `source` (empty: any). on_connected() or on_lost() will tell; kDeadlineExceeded after `timeout`.
  // kResourceExhausted: no descriptor, or the table is full; then nothing was begun.
  [[nodiscard]] StatusOr<Connection*> connect(const io::Address& remote, const io::Address& source, Duration timeout,
                                              ConnectionUser& user);
  void abort_all();

  [[nodiscard]] std::uint32_t size() const { return connections_.size(); }
  [[nodiscard]] bool empty() const { return size() == 0; }
  // Told of every descriptor that is closed here.
  [[nodiscard]] DescriptorWaiters& descriptor_waiters() { return descriptor_waiters_; }
  // Receives that found no buffer, so far.
  [[nodiscard]] std::uint64_t starvations() const { return starvations_; }
  // Without the loop's buffers and the rests held in memory of their own.
  [[nodiscard]] std::size_t memory_bytes() const { return sizeof(*this) + connections_.memory_bytes(); }

 private:
  friend class Connection;
  static constexpr std::uint8_t recv_kind = 0, send_kind = 1, connect_kind = 2, task_kind = 3, kinds = 4;
  // Deferred work of so many connections a turn: at a few µs each, a turn stays below 1 ms.
  static constexpr std::size_t deferred_per_turn = 256;
  // Buffers are given back by others too, who do not say so here.
  static constexpr Duration starvation_retry = std::chrono::milliseconds(5);
  // For the alert that says why a handshake or a record was refused.
  static constexpr Duration alert_linger = std::chrono::seconds(1);

  void on_completion(const io::Completion& completion) override;
  void on_timer(Timer& timer, Instant now) override;

  // on_turn() is called for it by the next TimerWheel::advance(). The wheel carries this so that whoever drives loop
  // and wheel needs to do nothing more, and does not sleep over it.
  void defer(Connection& connection);
  void starve(Connection& connection);
  void feed_starving();
  void release(io::BufferId buffer);
  void remove(Connection& connection);
  // Where one record is decrypted to before its connection's user has it: one for all, since users take or leave bytes
  // within one call. There from the first TLS connection on.
  [[nodiscard]] MutableBytes plain_buffer();

  io::Loop& loop_;
  Dispatcher& dispatcher_;
  TimerWheel& timers_;
  Options options_;
  std::uint8_t first_kind_;
  std::uint64_t starvations_ = 0;
  DescriptorWaiters descriptor_waiters_;
  IntrusiveList<Connection, DeferredTag> deferred_;
  IntrusiveList<Connection, StarvingTag> starving_;  // in the order in which they get buffers
  Timer deferred_timer_{*this};
  Timer starving_timer_{*this};
  std::unique_ptr<std::byte[]> plain_buffer_;
  SlotMap<Connection> connections_;
};

}  // namespace postern::net
