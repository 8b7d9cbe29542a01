#include "io/uring/ring.h"

#include <cerrno>
#include <cstddef>
#include <ctime>
#include <string>
#include <unistd.h>

#include <postern/base/check.h>

#include "io/uring/probe.h"

namespace postern::io::uring {
namespace {

constexpr unsigned setup_flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
                                 IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED;

}  // namespace

StatusOr<std::unique_ptr<Ring>> Ring::create(const RingOptions& options) {
  std::unique_ptr<Ring> ring(new Ring);
  io_uring_params parameters{};
  parameters.flags = setup_flags;
  parameters.cq_entries = options.completion_entries;
  const int code = io_uring_queue_init_params(options.submission_entries, &ring->ring_, &parameters);
  if (code < 0) {
    ring->ring_.ring_fd = -1;
    return refusal(-code);
  }
  POSTERN_RETURN_IF_ERROR(check_features(parameters.features));
  ring->enter_descriptor_ = ring->ring_.ring_fd;
  ring->kernel_workers_max_ = options.kernel_workers_max;
  // Entry i of the queue is always submission entry i. Said once here (as later versions of liburing do), so that
  // submitting is one store of the tail.
  if (ring->ring_.sq.array != nullptr) {
    for (unsigned i = 0; i < ring->ring_.sq.ring_entries; ++i) ring->ring_.sq.array[i] = i;
  }
  return ring;
}

Ring::~Ring() {
  if (ring_.ring_fd < 0) return;
  if ((enter_flags_ & IORING_ENTER_REGISTERED_RING) != 0 && owner_thread_ == gettid()) {
    io_uring_rsrc_update update{};
    update.offset = static_cast<__u32>(enter_descriptor_);
    io_uring_register(static_cast<unsigned>(ring_.ring_fd), IORING_UNREGISTER_RING_FDS, &update, 1);
  }
  io_uring_queue_exit(&ring_);
}

bool Ring::own() {
  if (enabled_) return owner_thread_ == gettid();
  // Directly: Debian 12's liburing declares io_uring_enable_rings() without exporting it.
  const int code = io_uring_register(static_cast<unsigned>(ring_.ring_fd), IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  POSTERN_CHECK(code == 0, "a new ring can be enabled");
  enabled_ = true;
  owner_thread_ = gettid();
  system_calls_ += 3;
  // Not by io_uring_register_ring_fd(): the registration belongs to a thread, and the ring may be destroyed in another,
  // where liburing would take away that one's registration. Without it (an old limit) everything still works.
  io_uring_rsrc_update update{};
  update.offset = ~0U;
  update.data = static_cast<__u64>(ring_.ring_fd);
  if (io_uring_register(static_cast<unsigned>(ring_.ring_fd), IORING_REGISTER_RING_FDS, &update, 1) == 1) {
    enter_descriptor_ = static_cast<int>(update.offset);
    enter_flags_ = IORING_ENTER_REGISTERED_RING;
  }
  unsigned workers[2] = {kernel_workers_max_, kernel_workers_max_};
  io_uring_register_iowq_max_workers(&ring_, workers);
  return true;
}

int Ring::enter_kernel(unsigned wait_nr, unsigned flags, const __kernel_timespec* timeout) {
  if (!enabled_) [[unlikely]]
    own();
  const unsigned tail = ring_.sq.sqe_tail;
  io_uring_smp_store_release(ring_.sq.ktail, tail);
  const unsigned count = tail - io_uring_smp_load_acquire(ring_.sq.khead);
  ring_.sq.sqe_head = tail;
  ++system_calls_;
  if (timeout == nullptr) {
    return io_uring_enter2(static_cast<unsigned>(enter_descriptor_), count, wait_nr, flags | enter_flags_, nullptr,
                           _NSIG / 8);
  }
  io_uring_getevents_arg argument{};
  argument.sigmask_sz = _NSIG / 8;
  argument.ts = reinterpret_cast<__u64>(timeout);
  return io_uring_enter2(static_cast<unsigned>(enter_descriptor_), count, wait_nr,
                         flags | enter_flags_ | IORING_ENTER_EXT_ARG, reinterpret_cast<sigset_t*>(&argument),
                         sizeof argument);
}

void Ring::enter(bool wait, const __kernel_timespec* timeout) {
  const int result = enter_kernel(wait ? 1 : 0, IORING_ENTER_GETEVENTS, wait ? timeout : nullptr);
  // ETIME, EINTR: nothing came. EBUSY, EAGAIN: no memory or no room now; the entries stay queued for the next turn.
  POSTERN_CHECK(result >= 0 || result == -ETIME || result == -EINTR || result == -EBUSY || result == -EAGAIN,
                result == -EEXIST ? "a ring is entered by the thread that entered it first" : "io_uring_enter failed");
}

io_uring_sqe& Ring::sqe_when_full() {
  submit_for_space(1);
  io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
  POSTERN_CHECK(entry != nullptr);
  return *entry;
}

void Ring::submit_for_space(unsigned count) {
  // The kernel takes all entries at once, except when it has no memory or no room for completions: then some
  // patience, 10 s in all, and a place to put completions.
  constexpr int attempts_max = 10'000;
  constexpr timespec pause{.tv_sec = 0, .tv_nsec = 1'000'000};
  for (int attempt = 0; attempt < attempts_max; ++attempt) {
    const int result = enter_kernel(0, attempt == 0 ? 0 : IORING_ENTER_GETEVENTS, nullptr);
    POSTERN_CHECK(result >= 0 || result == -EBUSY || result == -EAGAIN || result == -EINTR, "submitting failed");
    if (ring_.sq.sqe_tail + count - io_uring_smp_load_acquire(ring_.sq.khead) <= ring_.sq.ring_entries) return;
    stash_completions();
    nanosleep(&pause, nullptr);
  }
  POSTERN_CHECK(false, "the kernel took no submission for 10 s");
}

void Ring::stash_completions() {
  Entry completion;
  while (next_in_queue(completion)) stash_.push_back(completion);
}

bool Ring::next_stashed(Entry& completion) {
  completion = stash_[stash_next_++];
  if (stash_next_ == stash_.size()) {
    stash_.clear();
    stash_next_ = 0;
  }
  return true;
}

}  // namespace postern::io::uring
