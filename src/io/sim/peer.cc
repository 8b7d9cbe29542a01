#include "io/sim/peer.h"

#include <algorithm>
#include <utility>

namespace postern::io::sim {

Peer::~Peer() {
  *alive_ = false;
  if (stream_) stream_->close(true);
}

void Peer::take(StreamPtr stream) {
  stream_ = std::move(stream);
  stream_->watch(this);
  // Not from within this call, and not before the other end knows that the connection stands.
  world_.at(world_.now() + world_.network().options().latency_max, [this, alive = alive_] {
    if (*alive && stream_) on_change(*stream_);
  });
}

void Peer::connect(const Address& source, const Address& remote) {
  stream_ = world_.network().make(remote, source);
  stream_->watch(this);
  world_.network().connect(stream_, remote);
}

void Peer::send(std::string_view bytes) {
  unsent_.append(bytes);
  push();
}

void Peer::finish() {
  finish_ = true;
  push();
}

void Peer::close(bool reset) {
  if (stream_) std::exchange(stream_, nullptr)->close(reset);
  unsent_.clear();
}

void Peer::read_slowly(std::size_t bytes, Duration interval) {
  read_most_ = bytes;
  read_interval_ = interval;
}

void Peer::push() {
  if (!stream_ || stream_->state() != Stream::State::open) return;
  if (!unsent_.empty()) unsent_.erase(0, stream_->send(unsent_));
  if (finish_ && unsent_.empty()) stream_->send_end();
}

void Peer::on_change(Stream& /*stream*/) {
  const std::shared_ptr<bool> alive = alive_;
  if (!opened_ && stream_->state() == Stream::State::open) {
    opened_ = true;
    on_open();
    if (!*alive || !stream_) return;
  }
  push();
  read();
  if (!*alive || !stream_) return;
  if (stream_->state() == Stream::State::closed && stream_->available() == 0) {
    const int error = stream_->error();
    close();
    on_lost(error);
  }
}

void Peer::read() {
  const std::shared_ptr<bool> alive = alive_;
  while (*alive && stream_ && stream_->available() > 0 && !read_waits_) {
    const std::size_t size = read_most_ == 0 ? stream_->available() : std::min(read_most_, stream_->available());
    const std::string bytes(stream_->front(size));
    stream_->pop(size);
    if (read_interval_ > Duration::zero()) {
      read_waits_ = true;
      world_.at(world_.now() + read_interval_, [this, alive] {
        if (!*alive) return;
        read_waits_ = false;
        if (stream_) on_change(*stream_);
      });
    }
    on_bytes(bytes);
  }
  if (*alive && stream_ && stream_->ended() && !std::exchange(end_told_, true)) on_end();
}

}  // namespace postern::io::sim
