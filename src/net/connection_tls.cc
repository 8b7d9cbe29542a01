// TLS between a connection's socket and its user. What arrives goes through the stream in the order
// handshake, records, end; what leaves is what the stream made of the user's slices, mixed with what it has to say
// itself (its part of the handshake, tickets, key updates, alerts). One send is in flight per socket, whoever asked.
#include "net/connection_tls.h"

#include <algorithm>
#include <utility>

#include <postern/base/check.h>

#include "net/connection.h"

namespace postern::net {

bool Connection::secured() const {
  return tls_ != nullptr && tls_->secured;
}

std::shared_ptr<const TlsSession> Connection::take_tls_session() {
  return secured() ? tls_->stream->take_session() : nullptr;
}

std::string Connection::channel_binding(std::string_view name) const {
  return secured() ? tls_->stream->channel_binding(name) : std::string();
}

void Connection::start_tls(std::unique_ptr<TlsStream> stream, Duration timeout) {
  if (state_ != State::open) return;
  POSTERN_CHECK(tls_ == nullptr, "a connection is secured once");
  POSTERN_CHECK(!sending_ && !delivering_, "what comes before TLS has been said and heard");
  tls_ = std::make_unique<Tls>(std::move(stream));
  reading_ = true;
  table_.timers_.arm(timer_, table_.loop_.now() + timeout);
  table_.defer(*this);  // what is held already; and a client speaks first
}

// `received` may be empty: then the stream has something else to go on with.
void Connection::deliver_secured(Held received) {
  if (task_pending_) {
    if (!received.bytes.empty()) hold(std::move(received));
    return;
  }
  TlsStream& stream = *tls_->stream;
  stream.set_input(received.bytes);
  // Each step may end the connection, and then says so by false.
  bool more = tls_->secured || advance_handshake();
  while (more) more = deliver_plain();
  // Behind its end a peer has nothing to say.
  const std::size_t left = state_ == State::open && !tls_->ended ? stream.input_left() : 0;
  stream.set_input({});
  if (left != 0) {
    received.bytes = received.bytes.last(left);
    hold(std::move(received));
  } else {
    table_.release(received.buffer);
  }
  if (state_ == State::ending) return;
  send_cipher_text();
  // A connection being closed goes on receiving, to drain. One whose input waits for us does not.
  if (state_ != State::open || (left == 0 && reading_ && !task_pending_ && !tls_->ended)) arm_recv();
}

// True: complete. False: it waits, or has failed.
bool Connection::advance_handshake() {
  TlsStream& stream = *tls_->stream;
  switch (stream.handshake()) {
    case TlsStream::Wait::none:
      tls_->secured = true;
      timer_.cancel();
      user_.on_secured(stream.facts());
      return state_ == State::open;
    case TlsStream::Wait::task:
      task_pending_ = true;
      table_.loop_.run_task(stream.take_task(), token(ConnectionTable::task_kind));
      return false;
    case TlsStream::Wait::input:
    case TlsStream::Wait::output:
      return false;
    case TlsStream::Wait::ended:
    case TlsStream::Wait::failed:
      fail_tls(stream.status());
      return false;
  }
  return false;
}

void Connection::on_task(const io::Completion& completion) {
  task_pending_ = false;
  if (state_ == State::ending) {
    defer_when_idle();
    return;
  }
  if (completion.result < 0) {
    // More handshakes wait for a thread than are finished in a second: those beyond are turned away, not kept.
    fail(error(StatusCode::kResourceExhausted, "TLS handshake: too many wait for their signature"));
    return;
  }
  tls_->stream->on_task_done();
  if (state_ == State::open) deliver(std::exchange(held_, {}));
}

// The rest that the user left, or one record. True: there may be more.
bool Connection::deliver_plain() {
  if (!reading_) return false;
  MutableBytes plain(tls_->rest);
  plain = plain.subspan(tls_->rest_offset);
  const bool from_rest = !plain.empty();
  if (!from_rest) {
    const MutableBytes buffer = table_.plain_buffer();
    const TlsStream::Read read = tls_->stream->read(buffer);
    switch (read.wait) {
      case TlsStream::Wait::none:
        plain = buffer.first(read.size);
        break;
      case TlsStream::Wait::ended:
        if (!std::exchange(tls_->ended, true)) {
          end_of_stream_ = true;
          user_.on_end_of_stream();
        }
        return false;
      case TlsStream::Wait::failed:
        fail_tls(tls_->stream->status());
        return false;
      case TlsStream::Wait::input:
      case TlsStream::Wait::output:
      case TlsStream::Wait::task:
        return false;
    }
  }
  delivering_ = true;
  resumed_ = false;
  const std::size_t taken = user_.on_received(plain);
  delivering_ = false;
  POSTERN_CHECK(taken <= plain.size());
  if (state_ != State::open) return false;
  if (from_rest) {
    tls_->rest_offset += taken;
  } else if (taken < plain.size()) {
    tls_->rest.assign(plain.begin() + static_cast<std::ptrdiff_t>(taken), plain.end());
  }
  if (taken < plain.size()) {
    reading_ = resumed_;
    if (resumed_) table_.defer(*this);
    return false;
  }
  if (from_rest) {
    tls_->rest = {};
    tls_->rest_offset = 0;
  }
  return true;
}

// As much of the slices as the stream has room for, then all that it has to say.
void Connection::send_cipher_text() {
  if (send_pending_) return;
  TlsStream& stream = *tls_->stream;
  if (tls_->secured) {
    while (!slices_.empty()) {
      const io::Slice& slice = slices_.front();
      const std::size_t written = stream.write({slice.data + send_offset_, slice.size - send_offset_});
      if (written == 0) break;
      advance_send(written);
    }
  }
  if (!stream.output_waiting()) {
    if (!slices_.empty()) fail(stream.status());
    return;
  }
  tls_->in_flight = stream.take_output();
  piece_ = {.data = tls_->in_flight.data(), .size = tls_->in_flight.size()};
  send_pending_ = true;
  table_.loop_.send(descriptor_, {&piece_, 1}, token(ConnectionTable::send_kind));
}

void Connection::on_cipher_text_sent(std::size_t size) {
  POSTERN_CHECK(size <= tls_->in_flight.size());
  tls_->in_flight = tls_->in_flight.subspan(size);
  if (!tls_->in_flight.empty()) {
    piece_ = {.data = tls_->in_flight.data(), .size = tls_->in_flight.size()};
    send_pending_ = true;
    table_.loop_.send(descriptor_, {&piece_, 1}, token(ConnectionTable::send_kind));
    return;
  }
  tls_->stream->on_output_sent();
  if (state_ == State::open && !tls_->secured && !task_pending_) {
    deliver(std::exchange(held_, {}));  // it may have waited for that
    return;
  }
  send_cipher_text();
  if (send_pending_ || state_ == State::ending) return;
  if (sending_) {
    finish_send();
  } else if (state_ == State::closing) {
    finish_close();
  }
}

// The alert that says why leaves first; then the end.
void Connection::fail_tls(const Status& status) {
  if (!tls_->stream->output_waiting() || sending_) {
    fail(status);
    return;
  }
  state_ = State::closing;
  tls_->closed = true;
  drop_held();
  table_.timers_.arm(timer_, table_.loop_.now() + ConnectionTable::alert_linger);
  finish_close();
  user_.on_lost(status);
}

MutableBytes ConnectionTable::plain_buffer() {
  if (plain_buffer_ == nullptr) plain_buffer_ = std::make_unique<std::byte[]>(TlsStream::record_bytes_max);
  return {plain_buffer_.get(), TlsStream::record_bytes_max};
}

}  // namespace postern::net
