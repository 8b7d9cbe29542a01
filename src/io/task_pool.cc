#include "io/task_pool.h"

#include <csignal>
#include <utility>

namespace postern::io {

TaskPool::TaskPool(std::size_t threads, std::size_t queued_max, Waker& waker)
    : threads_max_(threads), queued_max_(queued_max), waker_(waker) {
  threads_.reserve(threads_max_);
}

TaskPool::~TaskPool() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  some_queued_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool TaskPool::submit(Job& job) {
  {
    const std::lock_guard lock(mutex_);
    if (queued_ >= queued_max_) return false;
    job.next = nullptr;
    if (queued_last_ != nullptr) {
      queued_last_->next = &job;
    } else {
      queued_first_ = &job;
    }
    queued_last_ = &job;
    ++queued_;
  }
  if (threads_.size() < threads_max_) {
    // Signals belong to the thread that waits for them, never to a worker.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    threads_.emplace_back([this] { work(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  some_queued_.notify_one();
  return true;
}

bool TaskPool::withdraw(Job& job) {
  const std::lock_guard lock(mutex_);
  Job* before = nullptr;
  for (Job* each = queued_first_; each != nullptr; before = std::exchange(each, each->next)) {
    if (each != &job) continue;
    (before != nullptr ? before->next : queued_first_) = job.next;
    if (queued_last_ == &job) queued_last_ = before;
    --queued_;
    return true;
  }
  return false;
}

TaskPool::Job* TaskPool::take_done() {
  if (!any_done()) return nullptr;
  const std::lock_guard lock(mutex_);
  Job* const job = done_first_;
  if (job == nullptr) return nullptr;
  done_first_ = job->next;
  if (done_first_ == nullptr) {
    done_last_ = nullptr;
    any_done_.store(false, std::memory_order_release);
  }
  return job;
}

void TaskPool::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    some_queued_.wait(lock, [this] { return stopping_ || queued_first_ != nullptr; });
    if (stopping_) return;
    Job* const job = queued_first_;
    queued_first_ = job->next;
    if (queued_first_ == nullptr) queued_last_ = nullptr;
    --queued_;
    lock.unlock();
    job->run(*job);
    lock.lock();
    job->next = nullptr;
    if (done_last_ != nullptr) {
      done_last_->next = job;
    } else {
      done_first_ = job;
    }
    done_last_ = job;
    any_done_.store(true, std::memory_order_release);
    // Under the lock, so that the loop cannot end between the job's return and this call.
    waker_.wake();
  }
}

}  // namespace postern::io
