// The Waker of backends that sleep in the kernel: an eventfd, written only when the loop is asleep.
//
// The loop's thread brackets its sleep with begin_sleep() and end_sleep() and has the eventfd among what it waits for.
// All state changes are sequentially consistent read-modify-writes of one word: whoever comes second sees the first.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include <postern/base/status.h>

#include "io/loop.h"

namespace postern::io {

class EventWaker final : public Waker {
 public:
  [[nodiscard]] static StatusOr<std::unique_ptr<EventWaker>> create();
  ~EventWaker();
  EventWaker(const EventWaker&) = delete;
  EventWaker& operator=(const EventWaker&) = delete;

  // Any thread. One system call when the loop is asleep, none otherwise.
  void wake() override;

  // The loop's thread. False: a wake() came since the last end_sleep(), do not sleep (and do call end_sleep()).
  [[nodiscard]] bool begin_sleep() {
    State expected = State::awake;
    return state_.compare_exchange_strong(expected, State::asleep, std::memory_order_seq_cst);
  }
  // The loop's thread, after its sleep or instead of it. Every wake() before this has been taken notice of.
  void end_sleep() { state_.exchange(State::awake, std::memory_order_seq_cst); }

  // Readable when a sleeper was woken; the loop reads its eight bytes.
  [[nodiscard]] Descriptor descriptor() const { return descriptor_; }

 private:
  enum class State : std::uint32_t { awake, notified, asleep };

  explicit EventWaker(Descriptor descriptor) : descriptor_(descriptor) {}

  alignas(64) std::atomic<State> state_{State::awake};  // other threads write it: a cache line of its own
  alignas(64) Descriptor descriptor_;
};

}  // namespace postern::io
