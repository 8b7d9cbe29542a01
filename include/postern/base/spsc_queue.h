// A bounded lock-free queue between one producing and one consuming thread: the mailboxes between shards.
//
// Each side keeps its index on a cache line of its own, together with a copy of the other side's index that it renews
// only when the queue looks full (or empty), so that a busy queue moves few cache lines. Nothing here wakes anyone.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <memory>
#include <new>
#include <utility>

#include <postern/base/check.h>

namespace postern {

// `T` is default-constructible and movable; a slot keeps its moved-from value until it is used again.
template <class T>
class SpscQueue {
 public:
  // Room for `capacity` elements, rounded up to a power of two, 1…2^31.
  explicit SpscQueue(std::size_t capacity)
      : mask_(std::bit_ceil(std::max<std::size_t>(capacity, 1)) - 1), slots_(std::make_unique<T[]>(mask_ + 1)) {
    POSTERN_CHECK(capacity <= std::size_t{1} << 31);
  }
  SpscQueue(const SpscQueue&) = delete;
  SpscQueue& operator=(const SpscQueue&) = delete;

  [[nodiscard]] std::size_t capacity() const { return mask_ + 1; }

  // --- the producer's side -----------------------------------------------------------------------------------------
  // False when the queue is full; `value` is then untouched.
  [[nodiscard]] bool push(T&& value) {
    const std::size_t tail = producer_.index.load(std::memory_order_relaxed);
    if (tail - producer_.other > mask_) {
      producer_.other = consumer_.index.load(std::memory_order_acquire);
      if (tail - producer_.other > mask_) return false;
    }
    slots_[tail & mask_] = std::move(value);
    producer_.index.store(tail + 1, std::memory_order_release);
    return true;
  }
  // How many pushes would succeed right now, at least.
  [[nodiscard]] std::size_t room() {
    producer_.other = consumer_.index.load(std::memory_order_acquire);
    return capacity() - (producer_.index.load(std::memory_order_relaxed) - producer_.other);
  }

  // --- the consumer's side -----------------------------------------------------------------------------------------
  // Hands up to `count_max` elements to consume(T&&), in order, and returns how many. Their slots become free together
  // at the end, with one store. `consume` must not call this queue's consumer side.
  template <class Consume>
  std::size_t pop_batch(std::size_t count_max, Consume&& consume) {
    const std::size_t head = consumer_.index.load(std::memory_order_relaxed);
    if (consumer_.other - head < count_max) consumer_.other = producer_.index.load(std::memory_order_acquire);
    const std::size_t count = std::min(consumer_.other - head, count_max);
    if (count == 0) return 0;
    for (std::size_t i = 0; i < count; ++i) consume(std::move(slots_[(head + i) & mask_]));
    consumer_.index.store(head + count, std::memory_order_release);
    return count;
  }
  [[nodiscard]] bool pop(T& value) {
    return pop_batch(1, [&](T&& element) { value = std::move(element); }) == 1;
  }
  [[nodiscard]] bool empty() {
    const std::size_t head = consumer_.index.load(std::memory_order_relaxed);
    if (consumer_.other == head) consumer_.other = producer_.index.load(std::memory_order_acquire);
    return consumer_.other == head;
  }

 private:
  // Two lines: the prefetcher of x86 fetches them in pairs.
  static constexpr std::size_t line_bytes = 128;
  struct alignas(line_bytes) Side {
    std::atomic<std::size_t> index{0};  // written by this side only; never wraps back, reduced by mask_
    std::size_t other = 0;              // what this side last saw of the other
  };

  std::size_t mask_;
  std::unique_ptr<T[]> slots_;
  Side producer_;
  Side consumer_;
};

}  // namespace postern
