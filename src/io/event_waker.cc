#include "io/event_waker.h"

#include <cerrno>
#include <unistd.h>

#include <sys/eventfd.h>

#include <postern/base/check.h>

#include "io/errors.h"

namespace postern::io {

StatusOr<std::unique_ptr<EventWaker>> EventWaker::create() {
  // Blocking on purpose: io_uring answers -EAGAIN on a non-blocking file where we want it to wait.
  const int descriptor = eventfd(0, EFD_CLOEXEC);
  if (descriptor < 0) return errno_status(errno, "creating an eventfd");
  return std::unique_ptr<EventWaker>(new EventWaker(descriptor));
}

EventWaker::~EventWaker() {
  ::close(descriptor_);
}

void EventWaker::wake() {
  if (state_.exchange(State::notified, std::memory_order_seq_cst) != State::asleep) return;
  const std::uint64_t one = 1;
  // Blocks only at 2^64 - 2 unread wakes.
  const ssize_t written = ::write(descriptor_, &one, sizeof one);
  POSTERN_CHECK(written == sizeof one, "an eventfd takes a write");
}

}  // namespace postern::io
