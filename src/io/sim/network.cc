#include "io/sim/network.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <postern/base/hash.h>

#include "io/errors.h"
#include "io/sim/world.h"

namespace postern::io::sim {
namespace {

Address unnamed_unix() {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  return Address::from_kernel(reinterpret_cast<const sockaddr*>(&name), sizeof name.sun_family);
}

bool is_any(const IpAddress& ip) {
  return ip == IpAddress() || ip == IpAddress::v4({0, 0, 0, 0});
}

// The wildcard listener that serves `address` too.
Address wildcard_of(const Address& address) {
  return Address::ip(address.ip().is_v4() ? IpAddress::v4({0, 0, 0, 0}) : IpAddress(), address.port());
}

}  // namespace

// --- one end ---------------------------------------------------------------------------------------------------------

std::size_t Stream::room() const {
  const StreamPtr other = other_.lock();
  if (state_ != State::open || end_sent_ || !other) return 0;
  const std::size_t used = other->coming_bytes_ + other->received_.size();
  const std::size_t window = world_.network().options().window_bytes;
  return used < window ? window - used : 0;
}

std::size_t Stream::send(std::string_view bytes) {
  const std::size_t most = room();
  const std::size_t size = std::min(bytes.size(), most);
  if (size < bytes.size()) wants_room_ = true;
  const StreamPtr other = other_.lock();
  if (size == 0 || !other) return 0;
  Network& network = world_.network();
  world_.note("stream: sent", size, hash_bytes(as_bytes(bytes.substr(0, size))));
  if (network.options().connections_lost > 0 && world_.random().below(10'000) < network.options().connections_lost) {
    world_.note("stream: connection lost");
    for (const StreamPtr& end : {shared_from_this(), other}) {
      end->coming_.clear();
      end->coming_bytes_ = 0;
      end->arrive({.when = network.arrival(local_, remote_), .bytes = {}, .error = ECONNRESET});
    }
    return size;
  }
  bytes = bytes.substr(0, size);
  while (!bytes.empty()) {
    std::size_t piece = bytes.size();
    if (piece > 1 && world_.chance(network.options().splits)) piece = 1 + world_.random().below(piece - 1);
    other->coming_bytes_ += piece;
    other->arrive({.when = network.arrival(local_, remote_), .bytes = std::string(bytes.substr(0, piece))});
    bytes.remove_prefix(piece);
  }
  return size;
}

void Stream::send_end() {
  if (state_ != State::open || end_sent_) return;
  end_sent_ = true;
  if (outgoing_) world_.network().count_down(*this);
  outgoing_ = false;
  if (const StreamPtr other = other_.lock()) {
    other->arrive({.when = world_.network().arrival(local_, remote_), .bytes = {}, .end = true});
  }
}

void Stream::pop(std::size_t size) {
  received_.pop(size);
  const StreamPtr other = other_.lock();
  if (!other || !std::exchange(other->wants_room_, false)) return;
  world_.at(world_.network().arrival(local_, remote_), [weak = std::weak_ptr(other)] {
    if (const StreamPtr stream = weak.lock()) stream->tell();
  });
}

void Stream::close(bool reset) {
  watcher_ = nullptr;
  if (outgoing_) world_.network().count_down(*this);
  outgoing_ = false;
  if (state_ == State::closed) return;
  const bool was_open = state_ == State::open;
  state_ = State::closed;
  const StreamPtr other = other_.lock();
  if (!was_open || !other) return;
  const bool unread = received_.size() > 0 && !receive_shut_;
  const Instant when = world_.network().arrival(local_, remote_);
  if (reset || unread) {
    other->arrive({.when = when, .bytes = {}, .error = ECONNRESET});
  } else if (!end_sent_) {
    other->arrive({.when = when, .bytes = {}, .end = true});
  }
}

void Stream::vanish() {
  watcher_ = nullptr;
  if (outgoing_) world_.network().count_down(*this);
  outgoing_ = false;
  state_ = State::closed;
}

void Stream::arrive(Piece piece) {
  piece.when = std::max(piece.when, last_arrival_);
  last_arrival_ = piece.when;
  const Instant when = piece.when;
  coming_.push_back(std::move(piece));
  // The event keeps the end alive: bytes arrive although their sender has closed.
  world_.at(when, [self = shared_from_this()] { self->deliver(); });
}

void Stream::deliver() {
  bool any = false;
  while (!coming_.empty() && coming_.front().when <= world_.now()) {
    const Piece piece = std::move(coming_.front());
    coming_.pop_front();
    coming_bytes_ -= piece.bytes.size();
    if (state_ == State::closed) {
      const StreamPtr other = other_.lock();
      if (!piece.bytes.empty() && other && other->state_ == State::open) {
        other->arrive({.when = world_.network().arrival(local_, remote_), .bytes = {}, .error = ECONNRESET});
      }
      continue;
    }
    any = true;
    if (piece.error != 0) {
      fail(piece.error);
      return;
    }
    received_.push(piece.bytes);
    if (piece.end) end_came_ = true;
  }
  if (any) tell();
}

void Stream::fail(int error) {
  error_ = error;
  state_ = State::closed;
  coming_.clear();
  coming_bytes_ = 0;
  other_.reset();
  tell();
}

void Stream::tell() {
  if (watcher_ != nullptr) watcher_->on_change(*this);
}

// --- addresses, time -------------------------------------------------------------------------------------------------

bool Network::is_own(const IpAddress& ip) {
  static const IpNetwork loopback = *IpNetwork::parse("127.0.0.0/8");
  static const IpNetwork own = *IpNetwork::parse("10.0.0.0/24");
  static const IpAddress loopback6 = *IpAddress::parse("::1");
  return loopback.contains(ip) || own.contains(ip) || ip == loopback6 || is_any(ip);
}

Instant Network::cut_until(const Address& a, const Address& b) const {
  Instant until = Instant::min();
  for (const Address* each : {&a, &b}) {
    if (!each->is_ip()) continue;
    const auto found = partitions_.find(each->ip().to_string());
    if (found != partitions_.end()) until = std::max(until, found->second);
  }
  return until;
}

Instant Network::arrival(const Address& from, const Address& to) {
  const Instant start = partitions_.empty() ? world_.now() : std::max(world_.now(), cut_until(from, to));
  return start + world_.between(options_.latency_min, options_.latency_max);
}

void Network::partition(const IpAddress& ip, Instant until) {
  partitions_[ip.to_string()] = until;
}

std::uint16_t Network::free_port(const IpAddress& ip, bool datagram) {
  for (;;) {
    if (++next_port_ < 32768) next_port_ = 32768;
    const std::string name = Address::ip(ip, next_port_).to_string();
    if (datagram ? sockets_.contains(name) : listeners_.contains(name)) continue;
    return next_port_;
  }
}

// --- streams ---------------------------------------------------------------------------------------------------------

void Network::serve(const Address& address, Service service) {
  if (service) {
    services_[address.to_string()] = std::move(service);
  } else {
    services_.erase(address.to_string());
  }
}

StatusOr<ListenerPtr> Network::listen(const Address& address, bool reuse_port, std::size_t backlog) {
  Address bound = address;
  if (address.is_ip()) {
    if (!is_own(address.ip())) return errno_status(EADDRNOTAVAIL, "listening on " + address.to_string());
    if (address.port() == 0) bound = Address::ip(address.ip(), free_port(address.ip(), false));
  }
  const std::string name = bound.to_string();
  const auto [first, last] = listeners_.equal_range(name);
  for (auto other = first; other != last; ++other) {
    if (!reuse_port || !other->second->reuse_port || bound.is_unix()) {
      return errno_status(EADDRINUSE, "listening on " + name);
    }
  }
  auto made = std::make_shared<Listener>();
  made->address = bound;
  made->reuse_port = reuse_port;
  made->backlog = backlog;
  listeners_.emplace(name, made);
  return made;
}

void Network::close(Listener& listener) {
  listener.closed = true;
  listener.on_change = nullptr;
  for (const StreamPtr& stream : listener.waiting) stream->close(true);
  listener.waiting.clear();
  // Those unanswered stay so: the machine says nothing about them until they try again, and are refused.
  for (const StreamPtr& stream : std::exchange(listener.unanswered, {})) {
    world_.at(world_.now() + std::chrono::seconds(1), [this, stream] { on_connect_arrives(stream); });
  }
  const auto [first, last] = listeners_.equal_range(listener.address.to_string());
  for (auto each = first; each != last; ++each) {
    if (each->second.get() != &listener) continue;
    listeners_.erase(each);
    return;
  }
}

StreamPtr Network::make(const Address& remote, const Address& source) {
  Address local;
  if (remote.is_unix()) {
    local = unnamed_unix();
  } else if (!source.empty()) {
    local = source.port() != 0 ? source : Address::ip(source.ip(), free_port(source.ip(), false));
  } else {
    // From the loopback to itself, else from this machine's address.
    const bool loopback = is_own(remote.ip()) && !remote.ip().to_string().starts_with("10.");
    const IpAddress ip = !remote.ip().is_v4() ? *IpAddress::parse("::1")
                         : loopback           ? IpAddress::v4({127, 0, 0, 1})
                                              : IpAddress::v4({10, 0, 0, 1});
    local = Address::ip(ip, free_port(ip, false));
  }
  return std::make_shared<Stream>(world_, local, remote);
}

void Network::connect(const StreamPtr& stream, const Address& remote) {
  stream->remote_ = remote;
  stream->state_ = Stream::State::connecting;
  world_.at(world_.now() + connect_gives_up, [stream] {
    if (stream->state_ == Stream::State::connecting) stream->fail(ETIMEDOUT);
  });
  if (world_.chance(options_.connects_unanswered)) {
    world_.note("network: connect unanswered", remote.port());
    return;
  }
  if (cut_until(stream->local_, remote) > world_.now()) {
    // Linux tries again after a second, and so on: the last of them that the partition swallows decides.
    Instant retry = world_.now();
    Duration step = std::chrono::seconds(1);
    while (retry < cut_until(stream->local_, remote)) {
      retry += step;
      step *= 2;
    }
    if (retry - world_.now() >= connect_gives_up) return;
    world_.at(retry, [this, stream] { on_connect_arrives(stream); });
    return;
  }
  world_.at(arrival(stream->local_, remote), [this, stream] { on_connect_arrives(stream); });
}

void Network::on_connect_arrives(const StreamPtr& stream) {
  if (stream->state_ != Stream::State::connecting) return;
  const Address& remote = stream->remote_;
  const auto refuse = [&] {
    world_.at(arrival(remote, stream->local_), [stream] {
      if (stream->state_ == Stream::State::connecting) stream->fail(ECONNREFUSED);
    });
  };
  if (const auto service = services_.find(remote.to_string()); service != services_.end()) {
    auto server = std::make_shared<Stream>(world_, remote, stream->local_);
    server->state_ = Stream::State::open;
    server->other_ = stream;
    stream->other_ = server;
    open_soon(stream);
    // Copied: the service may replace itself.
    const Service serve = service->second;
    serve(server);
    return;
  }
  std::vector<ListenerPtr> found;
  for (const Address& address : {remote, remote.is_ip() ? wildcard_of(remote) : Address()}) {
    if (address.empty()) continue;
    const auto [first, last] = listeners_.equal_range(address.to_string());
    for (auto each = first; each != last; ++each) found.push_back(each->second);
    if (!found.empty()) break;
  }
  if (found.empty()) return refuse();
  const ListenerPtr listener = found[found.size() > 1 ? world_.random().below(found.size()) : 0];
  if (listener->waiting.size() >= listener->backlog) {
    listener->unanswered.push_back(stream);
    return;
  }
  let_in(listener, stream);
}

void Network::let_in(const ListenerPtr& listener, const StreamPtr& stream) {
  auto server = std::make_shared<Stream>(world_, stream->remote_, stream->local_);
  server->state_ = Stream::State::open;
  server->other_ = stream;
  stream->other_ = server;
  open_soon(stream);
  listener->waiting.push_back(server);
  if (listener->on_change) listener->on_change();
}

void Network::open_soon(const StreamPtr& stream) {
  const Instant when = arrival(stream->remote_, stream->local_);
  stream->last_arrival_ = std::max(stream->last_arrival_, when);
  world_.at(when, [stream] {
    if (stream->state_ == Stream::State::connecting) {
      stream->state_ = Stream::State::open;
      stream->tell();
      return;
    }
    // Closed before it was open: the other end hears of it.
    const StreamPtr other = stream->other_.lock();
    if (other && other->state_ == Stream::State::open && stream->error_ == 0) {
      other->arrive({.when = stream->world_.now(), .bytes = {}, .error = ECONNRESET});
    }
  });
}

void Network::on_accepted(Listener& listener) {
  const auto [first, last] = listeners_.equal_range(listener.address.to_string());
  for (auto each = first; each != last; ++each) {
    if (each->second.get() != &listener) continue;
    const ListenerPtr kept = each->second;
    while (!kept->unanswered.empty() && kept->waiting.size() < kept->backlog) {
      const StreamPtr stream = kept->unanswered.front();
      kept->unanswered.pop_front();
      if (stream->state_ == Stream::State::connecting) let_in(kept, stream);
    }
    return;
  }
}

void Network::count_outgoing(Stream& stream) {
  if (!stream.remote_.is_ip() || stream.outgoing_) return;
  stream.outgoing_ = true;
  const std::size_t count = ++outgoing_[stream.remote_.to_string()];
  if (on_outgoing) on_outgoing(stream.remote_, count);
}

void Network::count_down(const Stream& stream) {
  --outgoing_[stream.remote_.to_string()];
}

std::size_t Network::outgoing(const Address& remote) const {
  const auto found = outgoing_.find(remote.to_string());
  return found == outgoing_.end() ? 0 : found->second;
}

// --- datagrams -------------------------------------------------------------------------------------------------------

void Network::answer_datagrams(const Address& address, Answer answer) {
  answers_[address.to_string()] = std::move(answer);
}

StatusOr<DatagramSocketPtr> Network::open_datagram(const Address& remote, const Address& source) {
  IpAddress ip;
  if (!source.empty()) {
    ip = source.ip();
    if (!is_own(ip)) return errno_status(EADDRNOTAVAIL, "binding to " + source.to_string());
  } else {
    ip = make(remote, source)->local().ip();
  }
  const std::uint16_t port = !source.empty() && source.port() != 0 ? source.port() : free_port(ip, true);
  auto made = std::make_shared<DatagramSocket>();
  made->local = Address::ip(ip, port);
  made->remote = remote;
  const std::string name = made->local.to_string();
  if (const auto other = sockets_.find(name); other != sockets_.end() && !other->second.expired()) {
    return errno_status(EADDRINUSE, "binding to " + name);
  }
  sockets_[name] = made;
  return made;
}

void Network::close(DatagramSocket& socket) {
  socket.closed = true;
  socket.on_change = nullptr;
  sockets_.erase(socket.local.to_string());
}

void Network::send_datagram(const Address& from, const Address& to, std::string_view bytes) {
  if (cut_until(from, to) > world_.now() || world_.chance(options_.datagrams_lost)) {
    world_.note("network: datagram lost", bytes.size());
    return;
  }
  const int copies = world_.chance(options_.datagrams_doubled) ? 2 : 1;
  for (int i = 0; i < copies; ++i) {
    // Each on its own: they may overtake one another.
    world_.at(arrival(from, to), [this, from, to, text = std::string(bytes)] {
      if (const auto answer = answers_.find(to.to_string()); answer != answers_.end()) {
        answer->second(from, text);
        return;
      }
      const auto tell = [&](const Address& address, auto&& change) {
        const auto found = sockets_.find(address.to_string());
        const DatagramSocketPtr socket = found == sockets_.end() ? nullptr : found->second.lock();
        if (!socket) return false;
        change(*socket);
        if (socket->on_change) socket->on_change();
        return true;
      };
      const bool heard = tell(to, [&](DatagramSocket& socket) {
        // Connected: it hears its peer alone.
        if (!(socket.remote == from) || socket.received.size() >= datagrams_max) return;
        socket.received.push_back({.from = from, .bytes = text});
      });
      if (!heard) (void)tell(from, [](DatagramSocket& socket) { socket.error = ECONNREFUSED; });
    });
  }
}

}  // namespace postern::io::sim
