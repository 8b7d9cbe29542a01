#include <algorithm>
#include <bit>

#include <postern/base/timer_wheel.h>

namespace postern {

TimerWheel::Tick TimerWheel::tick_at_or_before(Instant at) {
  const auto nanoseconds = std::max<Duration::rep>(at.time_since_epoch().count(), 0);
  return static_cast<Tick>(nanoseconds) >> tick_bits;
}

TimerWheel::Tick TimerWheel::tick_at_or_after(Instant at) {
  const auto nanoseconds = static_cast<Tick>(std::max<Duration::rep>(at.time_since_epoch().count(), 0));
  return (nanoseconds + ((Tick{1} << tick_bits) - 1)) >> tick_bits;
}

TimerWheel::TimerWheel(Instant start) : elapsed_(tick_at_or_before(start)) {}

void TimerWheel::arm(Timer& timer, Instant deadline) {
  if (deadline == never) {
    timer.cancel();
    return;
  }
  const Tick tick = tick_at_or_after(deadline);
  timer.deadline_ = deadline;
  // Where it lies comes up first and is looked at again then. What lies in due_ (placed_tick_ ≤ elapsed_) must move,
  // for due_ is not looked at again.
  if (timer.linked() && timer.placed_tick_ <= tick && timer.placed_tick_ > elapsed_) return;
  timer.unlink();
  place(timer, tick);
}

// A slot of level n holds timers that agree with elapsed_ in all digits (of base 64) above n, and differ in digit n:
// so its digit is larger than elapsed_'s, slots never wrap, and each comes up when elapsed_ reaches its digit.
void TimerWheel::place(Timer& timer, Tick tick) {
  timer.placed_tick_ = tick;
  if (tick <= elapsed_) {
    due_.push_back(timer);
    return;
  }
  const unsigned level = (static_cast<unsigned>(std::bit_width(tick ^ elapsed_)) - 1) / level_bits;
  const unsigned slot = static_cast<unsigned>(tick >> (level * level_bits)) % slots;
  level_[level].occupied |= std::uint64_t{1} << slot;
  level_[level].slot[slot].push_back(timer);
}

TimerWheel::Place TimerWheel::first_place() {
  // Whatever lies on a lower level comes up before anything on a higher one.
  for (unsigned level = 0; level < levels; ++level) {
    Level& current = level_[level];
    while (current.occupied != 0) {
      const auto slot = static_cast<unsigned>(std::countr_zero(current.occupied));
      if (current.slot[slot].empty()) {
        current.occupied &= current.occupied - 1;
        continue;
      }
      const unsigned shift = level * level_bits;
      const Tick above = elapsed_ >> (shift + level_bits) << (shift + level_bits);
      return {.level = level, .slot = slot, .start = above | (Tick{slot} << shift)};
    }
  }
  return {};
}

Instant TimerWheel::next_expiry() {
  if (!due_.empty()) return due_.front()->deadline_;
  const Place first = first_place();
  if (first.level == levels) return never;
  const Tick nanoseconds_max = static_cast<Tick>(never.time_since_epoch().count());
  if (first.start > nanoseconds_max >> tick_bits) return never;
  return Instant(Duration(static_cast<Duration::rep>(first.start << tick_bits)));
}

std::size_t TimerWheel::advance(Instant now, std::size_t fires_max) {
  const Tick target = std::max(tick_at_or_before(now), elapsed_);
  // First everything that is due is collected, without calling anyone; then handlers may do to the wheel what they
  // like.
  while (true) {
    const Place first = first_place();
    if (first.level == levels || first.start > target) break;
    List& list = level_[first.level].slot[first.slot];
    level_[first.level].occupied &= ~(std::uint64_t{1} << first.slot);
    elapsed_ = first.start;
    List moved;
    moved.splice_back(list);
    while (Timer* const timer = moved.pop_front()) place(*timer, tick_at_or_after(timer->deadline_));
  }
  elapsed_ = target;

  // Taken aside, so that what handlers add to due_ waits for the next call: a handler that always arms for `now` must
  // not keep us here.
  List firing;
  firing.splice_back(due_);
  std::size_t fired = 0;
  while (fired < fires_max) {
    Timer* const timer = firing.pop_front();
    if (timer == nullptr) break;
    ++fired;
    timer->handler_->on_timer(*timer, now);
  }
  // What the bound left over goes before what handlers added.
  firing.splice_back(due_);
  due_.splice_back(firing);
  return fired;
}

}  // namespace postern
