#include <map>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/random.h>
#include <postern/queue/index_wheel.h>

namespace postern::queue {
namespace {

struct Item {
  IndexLink link;
  std::int64_t at = 0;
  std::uint16_t slot = UINT16_MAX;
};
using Wheel = IndexWheel<Item, &Item::link, &Item::at, &Item::slot>;
constexpr std::int64_t tick = std::int64_t{1} << Wheel::tick_bits;

Instant instant(std::int64_t ns) {
  return Instant(Duration(ns));
}

std::vector<std::uint32_t> take_all(Wheel& wheel, std::int64_t now) {
  std::vector<std::uint32_t> taken;
  for (;;) {
    std::size_t moves = 1000;
    const std::uint32_t index = wheel.take_due(instant(now), moves);
    if (index != no_index) taken.push_back(index);
    if (index == no_index && moves > 0) return taken;
  }
}

TEST(IndexWheel, FiresNeverEarlyAndAtMostATickLate) {
  Slab<Item> items;
  Wheel wheel(items);
  const std::uint32_t item = items.take();
  wheel.arm(item, 5 * tick + 7);
  EXPECT_EQ(wheel.next_expiry(), instant(6 * tick));
  EXPECT_TRUE(take_all(wheel, 6 * tick - 1).empty());
  EXPECT_EQ(take_all(wheel, 6 * tick), (std::vector<std::uint32_t>{item}));
  EXPECT_EQ(wheel.next_expiry(), never);
  EXPECT_FALSE(wheel.armed(item));
}

TEST(IndexWheel, WhatHasPassedFiresAtOnceAndWhatIsBeyondItWaits) {
  Slab<Item> items;
  Wheel wheel(items);
  EXPECT_TRUE(take_all(wheel, 1000 * tick).empty());
  const std::uint32_t past = items.take();
  const std::uint32_t future = items.take();
  wheel.arm(past, 0);
  wheel.arm(future, INT64_MAX - 1);
  EXPECT_EQ(take_all(wheel, 1001 * tick), (std::vector<std::uint32_t>{past}));
  EXPECT_TRUE(wheel.armed(future));
  wheel.cancel(future);
  EXPECT_EQ(wheel.next_expiry(), never);
}

TEST(IndexWheel, ACallMovesNoMoreThanItMay) {
  Slab<Item> items;
  Wheel wheel(items);
  for (int i = 0; i < 100; ++i) wheel.arm(items.take(), 5000 * tick);
  std::size_t calls = 0;
  std::size_t taken = 0;
  while (taken < 100) {
    std::size_t moves = 7;
    while (wheel.take_due(instant(5001 * tick), moves) != no_index) ++taken;
    EXPECT_EQ(wheel.next_expiry() <= instant(5001 * tick), taken < 100);
    ASSERT_LT(++calls, 100u);
  }
  EXPECT_GE(calls, 100u / 7);
}

// Against an ordered map, with cancels (also of what is being moved), over all levels.
TEST(IndexWheel, AgreesWithAnOrderedMap) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    Random random(seed);
    Slab<Item> items;
    Wheel wheel(items);
    std::map<std::uint32_t, std::int64_t> reference;
    std::int64_t now = static_cast<std::int64_t>(random.below(1u << 30)) * tick;
    for (int step = 0; step < 3000; ++step) {
      const std::uint64_t what = random.below(10);
      if (what < 6) {
        const std::uint32_t index = items.take();
        const std::int64_t at = now + static_cast<std::int64_t>(random() >> (20 + random.below(30)));
        wheel.arm(index, at);
        reference[index] = at;
      } else if (what < 8 && !reference.empty()) {
        auto it = reference.begin();
        std::advance(it, static_cast<std::ptrdiff_t>(random.below(reference.size())));
        wheel.cancel(it->first);
        items.free(it->first);
        reference.erase(it);
      } else {
        now += static_cast<std::int64_t>(random() >> (22 + random.below(30)));
        std::size_t moves = random.below(2) ? 1000 : random.below(20);
        for (;;) {
          const std::uint32_t index = wheel.take_due(instant(now), moves);
          if (index == no_index) break;
          ASSERT_LE(reference.at(index), now);
          reference.erase(index);
          items.free(index);
        }
        if (moves > 0) {
          for (const auto& [index, at] : reference) ASSERT_GT(at, now - tick) << "late";
        }
      }
      ASSERT_EQ(wheel.size(), reference.size());
      if (!reference.empty()) {
        std::int64_t first = INT64_MAX;
        for (const auto& [index, at] : reference) first = std::min(first, at);
        ASSERT_LE(wheel.next_expiry(), instant(std::min(first, INT64_MAX - 2 * tick) + tick)) << "would be slept over";
      }
    }
  }
}

}  // namespace
}  // namespace postern::queue
