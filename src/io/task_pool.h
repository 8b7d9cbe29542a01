// A few threads for what must not run on a shard's: tasks, and file operations that no ring operation covers.
//
// Belongs to one loop. submit(), withdraw() and take_done() are called in the loop's thread; a finished job wakes the
// loop. Jobs live inside the caller's operation states, so nothing here allocates per job. Threads start with the
// first job.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

#include "io/loop.h"

namespace postern::io {

class TaskPool {
 public:
  struct Job {
    Job* next = nullptr;
    void (*run)(Job& job) = nullptr;
  };

  // At most `queued_max` jobs wait while `threads` of them run.
  TaskPool(std::size_t threads, std::size_t queued_max, Waker& waker);
  // Waits for running jobs; those still queued are dropped unrun.
  ~TaskPool();
  TaskPool(const TaskPool&) = delete;
  TaskPool& operator=(const TaskPool&) = delete;

  // False: the queue is full. `job` stays where it is until take_done() gave it back.
  [[nodiscard]] bool submit(Job& job);
  // True: `job` had not begun and never will. It does not come back through take_done().
  [[nodiscard]] bool withdraw(Job& job);
  // The oldest finished job, or nullptr.
  [[nodiscard]] Job* take_done();
  [[nodiscard]] bool any_done() const { return any_done_.load(std::memory_order_acquire); }

 private:
  void work();

  const std::size_t threads_max_;
  const std::size_t queued_max_;
  Waker& waker_;
  std::atomic<bool> any_done_{false};  // spares a loop without tasks the lock

  std::mutex mutex_;
  std::condition_variable some_queued_;
  Job* queued_first_ = nullptr;
  Job* queued_last_ = nullptr;
  std::size_t queued_ = 0;
  Job* done_first_ = nullptr;
  Job* done_last_ = nullptr;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace postern::io
