#include "net/connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/planted.h>

#include "io/errors.h"
#include "net/connection_tls.h"

namespace postern::net {

Connection::Connection(ConnectionTable& table, SlotId id, io::Descriptor descriptor, ConnectionUser& user)
    : table_(table), user_(user), id_(id), descriptor_(descriptor) {}

Connection::~Connection() = default;

io::Token Connection::token(std::uint8_t kind) const {
  return {.slot = id_.slot,
          .generation = id_.generation & SlotId::generation_max,
          .kind = static_cast<std::uint8_t>(table_.first_kind_ + kind)};
}

// --- receiving -------------------------------------------------------------------------------------------------------

void Connection::arm_recv() {
  if (recv_pending_ || starving() || end_of_stream_) return;
  recv_pending_ = true;
  table_.loop_.recv(descriptor_, !more_in_socket_, token(ConnectionTable::recv_kind));
}

void Connection::on_recv(const io::Completion& completion) {
  recv_pending_ = false;
  if (state_ == State::ending) {
    table_.release(completion.buffer);
    defer_when_idle();
    return;
  }
  if (completion.result == -ENOBUFS) {
    table_.starve(*this);
    return;
  }
  if (completion.result < 0) {
    table_.release(completion.buffer);
    fail(io::errno_status(-completion.result, "receive"));
    return;
  }
  more_in_socket_ = completion.more_in_socket;
  if (completion.result == 0) {
    table_.release(completion.buffer);
    end_of_stream_ = true;
    if (state_ == State::lingering) {
      end();
    } else if (state_ == State::open && tls_ != nullptr && !tls_->secured) {
      fail(error(StatusCode::kUnavailable, "TLS handshake: the peer closed the connection"));
    } else if (state_ == State::open) {
      user_.on_end_of_stream();
    }
    return;
  }
  if (state_ != State::open) {  // being closed: drained
    table_.release(completion.buffer);
    arm_recv();
    return;
  }
  Held received{.bytes = completion.bytes, .buffer = completion.buffer, .memory = nullptr};
  if (reading_) {
    deliver(std::move(received));
  } else {
    hold(std::move(received));
  }
}

void Connection::deliver(Held received) {
  if (tls_ != nullptr) {
    deliver_secured(std::move(received));
    return;
  }
  delivering_ = true;
  resumed_ = false;
  if (POSTERN_PLANTED(buffer_reused_early)) table_.release(received.buffer);
  const std::size_t taken = user_.on_received(received.bytes);
  delivering_ = false;
  POSTERN_CHECK(taken <= received.bytes.size());
  if (state_ != State::open || taken == received.bytes.size()) {
    if (!POSTERN_PLANTED(buffer_reused_early)) table_.release(received.buffer);
    // A connection being closed goes on receiving, to drain.
    if (state_ != State::ending && (reading_ || state_ != State::open)) arm_recv();
    return;
  }
  received.bytes = received.bytes.subspan(taken);
  hold(std::move(received));
  reading_ = resumed_;
  if (resumed_) table_.defer(*this);
}

void Connection::hold(Held rest) {
  POSTERN_CHECK(held_.bytes.empty(), "nothing is received while something is held");
  held_ = std::move(rest);
  if (held_.buffer.held() && table_.loop_.buffers_free() <= table_.options_.buffers_reserved) {
    held_.memory = std::make_unique<std::byte[]>(held_.bytes.size());
    std::memcpy(held_.memory.get(), held_.bytes.data(), held_.bytes.size());
    held_.bytes = {held_.memory.get(), held_.bytes.size()};
    table_.release(std::exchange(held_.buffer, {}));
  }
}

void Connection::drop_held() {
  table_.release(held_.buffer);
  held_ = {};
}

void Connection::pause() {
  reading_ = false;
  resumed_ = false;
}

void Connection::resume() {
  if (state_ != State::open) return;
  reading_ = true;
  if (delivering_) {
    resumed_ = true;
  } else if (!held_.bytes.empty() || tls_ != nullptr) {
    table_.defer(*this);  // under TLS there may be a rest of plain bytes too
  } else {
    arm_recv();
  }
}

// --- sending ---------------------------------------------------------------------------------------------------------

void Connection::send(Bytes bytes) {
  if (state_ != State::open) return;
  POSTERN_CHECK(!sending_, "one send at a time");
  single_ = {.data = bytes.data(), .size = bytes.size()};
  send({&single_, 1});
}

void Connection::send(std::span<const io::Slice> slices) {
  if (state_ != State::open) return;
  POSTERN_CHECK(!sending_, "one send at a time");
  POSTERN_CHECK(tls_ == nullptr || tls_->secured, "nothing is sent before the handshake is complete");
  sending_ = true;
  slices_ = slices;
  send_offset_ = 0;
  advance_send(0);
  if (slices_.empty()) {
    table_.defer(*this);  // nothing to send: on_sent(), but not from here
  } else {
    start_send();
  }
}

// As many whole slices as one operation may carry, straight from the user's array; of a slice that is too large, or of
// which a part has gone, one piece.
void Connection::start_send() {
  if (tls_ != nullptr) {
    send_cipher_text();
    return;
  }
  constexpr std::size_t bytes_max = ConnectionTable::send_bytes_max;
  std::span<const io::Slice> batch;
  const io::Slice& first = slices_.front();
  if (send_offset_ > 0 || first.size > bytes_max) {
    piece_ = {.data = first.data + send_offset_, .size = std::min(first.size - send_offset_, bytes_max)};
    batch = {&piece_, 1};
  } else {
    const std::size_t count_max = std::min(slices_.size(), io::Loop::slices_max);
    std::size_t count = 0, bytes = 0;
    while (count < count_max && slices_[count].size <= bytes_max - bytes) bytes += slices_[count++].size;
    batch = slices_.first(count);
  }
  send_pending_ = true;
  table_.loop_.send(descriptor_, batch, token(ConnectionTable::send_kind));
}

// Takes off `size` bytes that have left, and empty slices behind them.
void Connection::advance_send(std::size_t size) {
  send_offset_ += size;
  while (!slices_.empty() && send_offset_ >= slices_.front().size) {
    send_offset_ -= slices_.front().size;
    slices_ = slices_.subspan(1);
  }
}

void Connection::on_send(const io::Completion& completion) {
  send_pending_ = false;
  if (state_ == State::ending) {
    defer_when_idle();
    return;
  }
  if (completion.result <= 0) {
    fail(completion.result == 0 ? error(StatusCode::kUnavailable, "send: connection closed")
                                : io::errno_status(-completion.result, "send"));
    return;
  }
  if (tls_ != nullptr) {
    on_cipher_text_sent(static_cast<std::size_t>(completion.result));
    return;
  }
  advance_send(static_cast<std::size_t>(completion.result));
  if (!slices_.empty()) {
    start_send();
  } else {
    finish_send();
  }
}

void Connection::finish_send() {
  sending_ = false;
  if (state_ == State::open) {
    user_.on_sent();
  } else if (state_ == State::closing) {
    finish_close();
  }
}

// --- beginning and end -----------------------------------------------------------------------------------------------

void Connection::on_connect(const io::Completion& completion) {
  connect_pending_ = false;
  if (state_ == State::ending) {
    defer_when_idle();
    return;
  }
  if (completion.result < 0) {
    fail(io::errno_status(-completion.result, "connect"));
    return;
  }
  timer_.cancel();
  state_ = State::open;
  arm_recv();
  user_.on_connected();
}

void Connection::on_timer(Timer& /*timer*/, Instant /*now*/) {
  if (state_ == State::connecting) {
    fail(error(StatusCode::kDeadlineExceeded, "connect: timed out"));
  } else if (state_ == State::open) {
    fail(error(StatusCode::kDeadlineExceeded, "TLS handshake: timed out"));
  } else {
    end();  // the peer takes too long over its FIN
  }
}

void Connection::close_orderly(Duration linger) {
  if (state_ == State::connecting) end();
  if (state_ != State::open) return;
  state_ = State::closing;
  drop_held();
  table_.timers_.arm(timer_, table_.loop_.now() + linger);
  if (!sending_) finish_close();
  if (state_ != State::ending) arm_recv();
}

// What was to be sent has been; under TLS the last bytes are a close_notify, and may still be on their way.
void Connection::finish_close() {
  if (tls_ != nullptr) {
    if (tls_->secured && !std::exchange(tls_->closed, true)) tls_->stream->close();
    send_cipher_text();
    if (send_pending_ || state_ == State::ending) return;
  }
  send_fin();
}

void Connection::send_fin() {
  state_ = State::lingering;
  table_.loop_.shutdown_send(descriptor_);
  if (end_of_stream_) end();
}

void Connection::abort() {
  end();
}

void Connection::fail(const Status& status) {
  const bool tell = state_ == State::open || state_ == State::connecting;
  end();
  if (tell) user_.on_lost(status);
}

void Connection::end() {
  if (state_ == State::ending) return;
  state_ = State::ending;
  timer_.cancel();
  drop_held();
  ListHook<StarvingTag>::unlink();
  if (connect_pending_) table_.loop_.cancel(token(ConnectionTable::connect_kind));
  if (task_pending_) table_.loop_.cancel(token(ConnectionTable::task_kind));
  if (recv_pending_ || send_pending_) table_.loop_.shutdown(descriptor_);
  defer_when_idle();
}

void Connection::defer_when_idle() {
  if (!operation_pending()) table_.defer(*this);
}

void Connection::on_turn() {
  if (state_ == State::ending) {
    table_.remove(*this);
    return;
  }
  if (sending_ && slices_.empty() && !send_pending_) finish_send();
  if (state_ == State::open && reading_ && (!held_.bytes.empty() || tls_ != nullptr)) deliver(std::exchange(held_, {}));
}

// --- the table -------------------------------------------------------------------------------------------------------

ConnectionTable::ConnectionTable(io::Loop& loop, Dispatcher& dispatcher, TimerWheel& timers)
    : ConnectionTable(loop, dispatcher, timers, Options{}) {}

ConnectionTable::ConnectionTable(io::Loop& loop, Dispatcher& dispatcher, TimerWheel& timers, const Options& options)
    : loop_(loop),
      dispatcher_(dispatcher),
      timers_(timers),
      options_(options),
      first_kind_(dispatcher.claim(*this, kinds)),
      connections_(options.capacity) {}

ConnectionTable::~ConnectionTable() {
  dispatcher_.release(first_kind_, kinds);
}

Connection* ConnectionTable::adopt(io::Descriptor descriptor, ConnectionUser& user) {
  Connection* const connection = connections_.emplace(*this, connections_.next_id(), descriptor, user);
  if (connection != nullptr) connection->arm_recv();
  return connection;
}

StatusOr<Connection*> ConnectionTable::connect(const io::Address& remote, const io::Address& source, Duration timeout,
                                               ConnectionUser& user) {
  if (connections_.full()) return error(StatusCode::kResourceExhausted, "connect: too many connections");
  const StatusOr<io::Descriptor> descriptor = loop_.open_stream(remote, source);
  if (!descriptor.ok()) return descriptor.status();
  Connection* const connection = connections_.emplace(*this, connections_.next_id(), *descriptor, user);
  connection->state_ = Connection::State::connecting;
  connection->connect_pending_ = true;
  timers_.arm(connection->timer_, loop_.now() + timeout);
  loop_.connect(*descriptor, remote, connection->token(connect_kind));
  return connection;
}

void ConnectionTable::abort_all() {
  connections_.for_each([](SlotId, Connection& connection) { connection.abort(); });
}

void ConnectionTable::on_completion(const io::Completion& completion) {
  Connection* const connection = connections_.find({completion.token.slot, completion.token.generation});
  POSTERN_CHECK(connection != nullptr, "a connection was closed before its operations ended");
  switch (completion.token.kind - first_kind_) {
    case recv_kind:
      connection->on_recv(completion);
      break;
    case send_kind:
      connection->on_send(completion);
      break;
    case task_kind:
      connection->on_task(completion);
      break;
    default:
      connection->on_connect(completion);
  }
}

void ConnectionTable::defer(Connection& connection) {
  if (connection.ListHook<DeferredTag>::linked()) return;
  deferred_.push_back(connection);
  if (!deferred_timer_.armed()) timers_.arm(deferred_timer_, Instant{});
}

void ConnectionTable::on_timer(Timer& timer, Instant /*now*/) {
  if (&timer == &starving_timer_) {
    feed_starving();
    return;
  }
  // What these calls defer in turn waits for the next turn.
  IntrusiveList<Connection, DeferredTag> now_due;
  for (std::size_t i = 0; i < deferred_per_turn; ++i) {
    Connection* const connection = deferred_.pop_front();
    if (connection == nullptr) break;
    now_due.push_back(*connection);
  }
  if (!deferred_.empty()) timers_.arm(deferred_timer_, Instant{});
  while (Connection* const connection = now_due.pop_front()) connection->on_turn();
}

void ConnectionTable::starve(Connection& connection) {
  ++starvations_;
  connection.more_in_socket_ = true;  // no buffer is asked for before there is something to put into it
  starving_.push_back(connection);
  feed_starving();
}

// First come, first served, and no more at a time than there are buffers for. Each takes its buffer in the kernel only
// when the receive starts; those that lose it to a newcomer come back to the end of the list.
void ConnectionTable::feed_starving() {
  for (std::size_t free = loop_.buffers_free(); free > 0; --free) {
    Connection* const connection = starving_.pop_front();
    if (connection == nullptr) break;
    connection->arm_recv();
  }
  if (!starving_.empty() && !starving_timer_.armed()) timers_.arm(starving_timer_, loop_.now() + starvation_retry);
}

void ConnectionTable::release(io::BufferId buffer) {
  if (!buffer.held()) return;
  loop_.release(buffer);
  if (!starving_.empty()) feed_starving();
}

void ConnectionTable::remove(Connection& connection) {
  ConnectionUser& user = connection.user_;
  const io::Descriptor descriptor = connection.descriptor_;
  connections_.erase(connection.id_);
  loop_.close(descriptor);
  descriptor_waiters_.on_closed();
  user.on_closed();
}

}  // namespace postern::net
