// A hierarchical timer wheel: some hundred thousand deadlines of one shard, armed and cancelled in O(1).
//
// Eight levels of 64 slots and ticks of 2^20 ns (1.05 ms) cover every Instant. A timer never fires before its deadline
// and at most one tick after it, given that advance() is called at next_expiry(). Driven by the shard's loop; asks no
// clock.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

#include <postern/base/intrusive_list.h>
#include <postern/base/time.h>

namespace postern {

class Timer;

class TimerHandler {
 public:
  // `timer` is idle again. May arm, cancel and destroy any timer of the wheel, this one included.
  virtual void on_timer(Timer& timer, Instant now) = 0;

 protected:
  ~TimerHandler() = default;
};

struct TimerTag;

// One deadline, embedded in the object that waits. Destroying it cancels it. Not movable while armed.
class Timer : private ListHook<TimerTag> {
 public:
  explicit Timer(TimerHandler& handler) : handler_(&handler) {}
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  ~Timer() = default;

  [[nodiscard]] bool armed() const { return linked(); }
  // As given to arm(); `never` when idle.
  [[nodiscard]] Instant deadline() const { return armed() ? deadline_ : never; }
  // Needs no wheel. Nothing when it is idle.
  void cancel() { unlink(); }

 private:
  friend class TimerWheel;
  friend class IntrusiveList<Timer, TimerTag>;

  TimerHandler* handler_;
  Instant deadline_ = never;
  std::uint64_t placed_tick_ = 0;  // the tick for which it lies in the wheel; never after deadline_'s
};
static_assert(sizeof(Timer) == 40);

class TimerWheel {
 public:
  explicit TimerWheel(Instant start);

  // Arms or moves a timer; `never` cancels it. A deadline that has passed fires in the next advance(), not from here.
  // Moving one to a later deadline, as idle timers do at every command, touches nothing but the timer itself: it stays
  // where it is and is put right when its old place comes up.
  void arm(Timer& timer, Instant deadline);

  // When advance() is due: at or before the earliest deadline (rounded up to its tick), `never` when nothing is armed.
  // It may lie earlier, by a cascade or by a timer that was moved or cancelled; advance() at that time then fires
  // nothing, and a later time stands here. At most one such false alarm per level and timer.
  [[nodiscard]] Instant next_expiry();

  // Fires timers whose deadlines are ≤ now, tick by tick, at most `fires_max`; the rest stays due (next_expiry() has
  // passed). A timer armed by a handler for a time already passed waits for the next call. Returns how many fired.
  // `now` never goes back; when it does, it counts as the last one.
  std::size_t advance(Instant now, std::size_t fires_max = std::numeric_limits<std::size_t>::max());

 private:
  using Tick = std::uint64_t;
  using List = IntrusiveList<Timer, TimerTag>;
  static constexpr unsigned tick_bits = 20, level_bits = 6, levels = 8;
  static constexpr unsigned slots = 1u << level_bits;
  static_assert(tick_bits + levels * level_bits >= 63, "every non-negative Instant has a place");

  struct Level {
    std::uint64_t occupied = 0;  // a set bit may be stale, as cancel() does not know the wheel; a clear bit never is
    std::array<List, slots> slot;
  };
  struct Place {
    unsigned level = levels;  // levels: nothing armed
    unsigned slot = 0;
    Tick start = 0;  // when the slot comes up
  };

  [[nodiscard]] static Tick tick_at_or_after(Instant at);
  [[nodiscard]] static Tick tick_at_or_before(Instant at);
  void place(Timer& timer, Tick tick);
  [[nodiscard]] Place first_place();

  Tick elapsed_;  // all timers in `levels_` are placed later than this
  List due_;      // to be fired, in order
  std::array<Level, levels> level_;
};

}  // namespace postern
