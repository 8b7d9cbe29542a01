// One io_uring: set-up, submission entries, entering the kernel, completion entries. Knows no operation.
//
// May be made in any thread; the thread of the first enter() becomes its owner (the ring is enabled there), and only
// that thread may enter it. liburing is used for set-up, mapping and entry preparation; entering is done here, because
// one turn shall cost exactly one system call: submit, run deferred work, wait.
#pragma once

#include <cstddef>
#include <cstdint>
#include <liburing.h>
#include <memory>
#include <vector>

#include <postern/base/status.h>

namespace postern::io::uring {

struct RingOptions {
  unsigned submission_entries = 512;   // a power of two
  unsigned completion_entries = 8192;  // a power of two, ≥ submission_entries
  unsigned kernel_workers_max = 4;     // threads of the kernel for what blocks, of each of its two kinds
};

// A completion entry, copied out of the queue.
struct Entry {
  std::uint64_t user_data = 0;
  std::int32_t result = 0;
  std::uint32_t flags = 0;  // IORING_CQE_F_*
};

class Ring {
 public:
  // kFailedPrecondition: the kernel refuses, with cause and cure in the message.
  [[nodiscard]] static StatusOr<std::unique_ptr<Ring>> create(const RingOptions& options);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  // The next free submission entry, to be prepared at once. A full queue is submitted first.
  [[nodiscard]] io_uring_sqe& sqe() {
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    if (entry == nullptr) [[unlikely]]
      return sqe_when_full();
    return *entry;
  }
  // Makes room for `count` entries that must be submitted together (links), by submitting what is there.
  void reserve(unsigned count) {
    if (ring_.sq.sqe_tail + count - io_uring_smp_load_acquire(ring_.sq.khead) > ring_.sq.ring_entries) [[unlikely]] {
      submit_for_space(count);
    }
  }

  // The next completion, oldest first. False: none in the queue now.
  [[nodiscard]] bool next(Entry& completion) {
    if (stash_next_ != stash_.size()) [[unlikely]]
      return next_stashed(completion);
    return next_in_queue(completion);
  }
  [[nodiscard]] bool completions_ready() const {
    return stash_next_ != stash_.size() || *ring_.cq.khead != io_uring_smp_load_acquire(ring_.cq.ktail);
  }
  // Whether enter() without waiting has something to do: entries to submit, deferred work, overflowed completions.
  [[nodiscard]] bool needs_enter() const {
    return ring_.sq.sqe_tail != io_uring_smp_load_acquire(ring_.sq.khead) ||
           (IO_URING_READ_ONCE(*ring_.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
  }

  // One io_uring_enter: submits everything, runs deferred work and waits until at least one completion is there, for
  // at most `timeout` (nullptr: for ever). wait == false: does not wait. Signals and timeouts end it quietly.
  void enter(bool wait, const __kernel_timespec* timeout);

  // Makes the current thread the owner. enter() does it by itself. False: another thread is.
  bool own();

  [[nodiscard]] io_uring& raw() { return ring_; }
  [[nodiscard]] std::uint64_t system_calls() const { return system_calls_; }

 private:
  Ring() = default;
  [[nodiscard]] bool next_in_queue(Entry& completion) {
    const unsigned head = *ring_.cq.khead;
    if (head == io_uring_smp_load_acquire(ring_.cq.ktail)) return false;
    const io_uring_cqe& from = ring_.cq.cqes[head & ring_.cq.ring_mask];
    completion = {.user_data = from.user_data, .result = from.res, .flags = from.flags};
    io_uring_smp_store_release(ring_.cq.khead, head + 1);
    return true;
  }
  [[nodiscard]] bool next_stashed(Entry& completion);
  [[nodiscard]] io_uring_sqe& sqe_when_full();
  void submit_for_space(unsigned count);
  void stash_completions();
  int enter_kernel(unsigned wait_nr, unsigned flags, const __kernel_timespec* timeout);

  io_uring ring_{};
  int enter_descriptor_ = -1;  // the ring's, or its index among the owner thread's registered rings
  unsigned enter_flags_ = 0;
  bool enabled_ = false;
  int owner_thread_ = 0;  // gettid()
  unsigned kernel_workers_max_ = 0;
  std::uint64_t system_calls_ = 0;
  // Completions taken out of a full queue while the submission queue had to be emptied. Normally never used.
  std::vector<Entry> stash_;
  std::size_t stash_next_ = 0;
};

}  // namespace postern::io::uring
