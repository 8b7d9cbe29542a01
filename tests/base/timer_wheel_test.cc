#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/random.h>
#include <postern/base/timer_wheel.h>

namespace postern {
namespace {

using namespace std::chrono_literals;

constexpr Duration tick{1 << 20};
constexpr Instant start{std::chrono::hours(1000)};

struct Waiter final : TimerHandler {
  std::function<void()> action = [] {};
  int fired = 0;
  Instant fired_at = never;
  Timer timer{*this};

  void on_timer(Timer& which, Instant now) override {
    EXPECT_EQ(&which, &timer);
    EXPECT_FALSE(timer.armed());
    ++fired;
    fired_at = now;
    action();
  }
};

// Advances from expiry to expiry up to `end`, as a loop that wakes exactly on time does. Returns the number of
// wake-ups.
int run_until(TimerWheel& wheel, Instant end) {
  int wakes = 0;
  while (wheel.next_expiry() <= end) {
    const Instant at = wheel.next_expiry();
    (void)wheel.advance(at);
    ++wakes;
    EXPECT_TRUE(wheel.next_expiry() > at) << "advance() at next_expiry() always gets on";
    if (wakes > 1'000'000) break;
  }
  (void)wheel.advance(end);
  return wakes;
}

TEST(TimerWheel, FiresWithinOneTickAndNeverEarly) {
  for (const Duration delay : {Duration{1}, Duration{1ms}, Duration{10ms}, Duration{1s}, Duration{5min},
                               Duration{24h * 40}, Duration{24h * 365 * 50}}) {
    TimerWheel wheel(start);
    Waiter waiter;
    wheel.arm(waiter.timer, start + delay);
    EXPECT_EQ(waiter.timer.deadline(), start + delay);
    const int wakes = run_until(wheel, start + delay + tick);
    EXPECT_EQ(waiter.fired, 1);
    EXPECT_GE(waiter.fired_at, start + delay);
    EXPECT_LE(waiter.fired_at, start + delay + tick);
    EXPECT_LE(wakes, 8) << "at most one wake-up a level";
    EXPECT_EQ(wheel.next_expiry(), never);
  }
}

TEST(TimerWheel, APassedDeadlineFiresInTheNextAdvance) {
  TimerWheel wheel(start);
  Waiter waiter;
  wheel.arm(waiter.timer, start - 1h);
  EXPECT_EQ(waiter.fired, 0);
  EXPECT_LE(wheel.next_expiry(), start);
  EXPECT_EQ(wheel.advance(start), 1u);
  EXPECT_EQ(waiter.fired, 1);
}

TEST(TimerWheel, NeverAndTheLastInstantAreNoTrouble) {
  TimerWheel wheel(start);
  Waiter waiter;
  wheel.arm(waiter.timer, never - Duration{1});
  EXPECT_GT(wheel.next_expiry(), start);
  EXPECT_EQ(wheel.advance(start + 24h * 365), 0u);
  wheel.arm(waiter.timer, never);
  EXPECT_FALSE(waiter.timer.armed());
  EXPECT_EQ(waiter.timer.deadline(), never);
  EXPECT_EQ(wheel.next_expiry(), never);
}

TEST(TimerWheel, MovingADeadlineKeepsTheLastOne) {
  TimerWheel wheel(start);
  Waiter waiter;
  wheel.arm(waiter.timer, start + 1s);
  wheel.arm(waiter.timer, start + 10s);
  run_until(wheel, start + 9s);
  EXPECT_EQ(waiter.fired, 0);
  wheel.arm(waiter.timer, start + 9500ms);
  run_until(wheel, start + 9600ms);
  EXPECT_EQ(waiter.fired, 1);
}

TEST(TimerWheel, HandlersMayCancelDestroyAndRearmAnyTimer) {
  TimerWheel wheel(start);
  Waiter first, second, rearmed;
  auto destroyed = std::make_unique<Waiter>();
  auto self = std::make_unique<Waiter>();
  first.action = [&] {
    second.timer.cancel();
    destroyed.reset();
    wheel.arm(rearmed.timer, start + 1h);
  };
  self->action = [&] { self.reset(); };
  wheel.arm(first.timer, start + 10ms);
  wheel.arm(second.timer, start + 10ms);
  wheel.arm(destroyed->timer, start + 10ms);
  wheel.arm(rearmed.timer, start + 10ms);
  wheel.arm(self->timer, start + 20ms);
  EXPECT_EQ(wheel.advance(start + 100ms), 2u);
  EXPECT_EQ(first.fired, 1);
  EXPECT_EQ(second.fired, 0);
  EXPECT_EQ(rearmed.fired, 0);
  EXPECT_EQ(self, nullptr);
  run_until(wheel, start + 2h);
  EXPECT_EQ(rearmed.fired, 1);
}

TEST(TimerWheel, AHandlerThatAlwaysArmsForNowDoesNotHoldTheTurn) {
  TimerWheel wheel(start);
  Waiter waiter;
  waiter.action = [&] { wheel.arm(waiter.timer, start); };
  wheel.arm(waiter.timer, start);
  EXPECT_EQ(wheel.advance(start + 1s), 1u);
  EXPECT_EQ(wheel.advance(start + 1s), 1u);
}

TEST(TimerWheel, ATurnIsBoundedAndTheRestStaysDueInOrder) {
  TimerWheel wheel(start);
  std::deque<Waiter> waiters(10);
  std::vector<int> order;
  for (int i = 0; i < 10; ++i) {
    waiters[static_cast<std::size_t>(i)].action = [&order, i] { order.push_back(i); };
    wheel.arm(waiters[static_cast<std::size_t>(i)].timer, start + 100ms - i * 2ms);
  }
  EXPECT_EQ(wheel.advance(start + 1s, 4), 4u);
  EXPECT_LE(wheel.next_expiry(), start + 1s);
  EXPECT_EQ(wheel.advance(start + 1s, 4), 4u);
  EXPECT_EQ(wheel.advance(start + 1s, 4), 2u);
  EXPECT_EQ(order, (std::vector<int>{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}));
}

TEST(TimerWheel, BehavesLikeASortedSetOfDeadlines) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    Random random(seed);
    TimerWheel wheel(start);
    Instant now = start;
    std::deque<Waiter> waiters(60);
    std::vector<Instant> model(waiters.size(), never);
    for (std::size_t i = 0; i < waiters.size(); ++i) {
      waiters[i].action = [&, i] {
        EXPECT_LE(model[i], now) << "early";
        model[i] = never;
        // What real handlers do: arm again, and meddle with others.
        if (random.below(3) == 0) {
          model[i] = now + Duration(random.below(1u << 30));
          wheel.arm(waiters[i].timer, model[i]);
        }
        if (random.below(4) == 0) {
          const std::size_t other = random.below(waiters.size());
          waiters[other].timer.cancel();
          model[other] = never;
        }
      };
    }
    for (int step = 0; step < 10'000; ++step) {
      const std::size_t i = random.below(waiters.size());
      switch (random.below(4)) {
        case 0:
        case 1: {
          const unsigned magnitude = static_cast<unsigned>(random.below(45));
          model[i] = now - 1ms + Duration((random() >> 19) >> (44 - magnitude));
          wheel.arm(waiters[i].timer, model[i]);
          break;
        }
        case 2:
          waiters[i].timer.cancel();
          model[i] = never;
          break;
        default: {
          const Instant earliest = *std::min_element(model.begin(), model.end());
          const Instant expiry = wheel.next_expiry();
          if (earliest != never) {
            ASSERT_LE(expiry, earliest + tick);
          }
          now = random.below(2) == 0 && expiry != never ? std::max(now, expiry)
                                                        : now + Duration((random() >> 20) >> random.below(44));
          (void)wheel.advance(now);
          for (std::size_t j = 0; j < waiters.size(); ++j) {
            ASSERT_EQ(waiters[j].timer.deadline(), model[j]);
            if (model[j] != never) {
              // Armed by a handler for this very moment, or not due.
              ASSERT_GT(model[j] + tick, now) << "late";
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace postern
