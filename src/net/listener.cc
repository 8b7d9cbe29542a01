#include "net/listener.h"

#include <cerrno>
#include <utility>

#include <postern/base/check.h>

namespace postern::net {

Listener::Listener(io::Loop& loop, Dispatcher& dispatcher, TimerWheel& timers, DescriptorWaiters& descriptor_waiters,
                   ListenerUser& user, ListenerOptions options)
    : loop_(loop),
      dispatcher_(dispatcher),
      timers_(timers),
      descriptor_waiters_(descriptor_waiters),
      user_(user),
      options_(std::move(options)),
      kind_(dispatcher.claim(*this)) {}

Listener::~Listener() {
  dispatcher_.release(kind_);
}

Status Listener::open(const io::Address& address, const io::ListenOptions& options) {
  const StatusOr<io::Descriptor> listening = loop_.listen(address, options);
  if (!listening.ok()) return listening.status();
  adopt(*listening);
  return OkStatus();
}

void Listener::adopt(io::Descriptor listening) {
  POSTERN_CHECK(descriptor_ < 0 && !stopping_ && listening >= 0);
  descriptor_ = listening;
  arm();
}

void Listener::arm() {
  armed_ = true;
  loop_.accept(descriptor_, {.slot = 0, .generation = 0, .kind = kind_});
}

void Listener::stop() {
  if (stopping_ || descriptor_ < 0) return;
  stopping_ = true;
  retry_timer_.cancel();
  DescriptorWaiter::unlink();
  if (armed_) {
    loop_.cancel({.slot = 0, .generation = 0, .kind = kind_});
  } else {
    loop_.close(std::exchange(descriptor_, -1));
  }
}

void Listener::on_completion(const io::Completion& completion) {
  if (!completion.more) armed_ = false;
  if (completion.result >= 0) {
    POSTERN_CHECK(completion.peer != nullptr);
    user_.on_connection(*this, completion.result, *completion.peer);
  }
  if (armed_) return;
  if (stopping_) {
    if (descriptor_ >= 0) loop_.close(std::exchange(descriptor_, -1));
    return;
  }
  switch (-completion.result) {
    case EMFILE:
    case ENFILE:
    case ENOBUFS:
    case ENOMEM:
      // The kernel takes a descriptor before it looks for a connection, so that it says EMFILE with none waiting too:
      // only after having turned someone away is it worth trying at once.
      if (refuse_waiting()) {
        arm();
      } else {
        retry_later();
      }
      break;
    case ECONNABORTED:  // a client that left before we came, and the network's errors, which accept() passes on
    case EINTR:
    case EAGAIN:
    case EPROTO:
    case ENETDOWN:
    case ENETUNREACH:
    case EHOSTUNREACH:
      arm();
      break;
    default:
      // A multishot that ended without an error found the completion queue full.
      if (completion.result >= 0) {
        arm();
      } else {
        retry_later();
      }
  }
}

bool Listener::refuse_waiting() {
  int refused = 0;
  while (refused < refusals_per_go && loop_.accept_and_refuse(descriptor_, options_.farewell)) ++refused;
  refused_ += static_cast<std::uint64_t>(refused);
  return refused > 0;
}

void Listener::retry_later() {
  timers_.arm(retry_timer_, loop_.now() + options_.retry);
  descriptor_waiters_.wait(*this);
}

void Listener::on_timer(Timer& /*timer*/, Instant /*now*/) {
  DescriptorWaiter::unlink();
  (void)refuse_waiting();
  arm();
}

void Listener::on_descriptor_free() {
  retry_timer_.cancel();
  arm();
}

}  // namespace postern::net
