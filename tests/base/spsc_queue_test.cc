#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/spsc_queue.h>

namespace postern {
namespace {

TEST(SpscQueue, IsBoundedAndKeepsOrder) {
  SpscQueue<int> queue(3);
  EXPECT_EQ(queue.capacity(), 4u);
  EXPECT_TRUE(queue.empty());
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(queue.push(int{i}));
  EXPECT_FALSE(queue.push(99));
  EXPECT_EQ(queue.room(), 0u);
  int value = -1;
  EXPECT_TRUE(queue.pop(value));
  EXPECT_EQ(value, 0);
  EXPECT_EQ(queue.room(), 1u);
  EXPECT_TRUE(queue.push(4));
  std::vector<int> rest;
  EXPECT_EQ(queue.pop_batch(10, [&](int&& v) { rest.push_back(v); }), 4u);
  EXPECT_EQ(rest, (std::vector<int>{1, 2, 3, 4}));
  EXPECT_TRUE(queue.empty());
}

TEST(SpscQueue, AFullQueueLeavesTheValue) {
  SpscQueue<std::unique_ptr<int>> queue(1);
  EXPECT_TRUE(queue.push(std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  EXPECT_FALSE(queue.push(std::move(second)));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(*second, 2);
}

TEST(SpscQueue, ABatchTakesNoMoreThanAsked) {
  SpscQueue<int> queue(8);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(queue.push(int{i}));
  int sum = 0;
  EXPECT_EQ(queue.pop_batch(3, [&](int&& v) { sum += v; }), 3u);
  EXPECT_EQ(sum, 3);
  EXPECT_EQ(queue.pop_batch(0, [&](int&& v) { sum += v; }), 0u);
}

TEST(SpscQueue, TwoThreadsLoseAndReorderNothing) {
  constexpr std::uint64_t count = 200'000;
  SpscQueue<std::unique_ptr<std::uint64_t>> queue(64);
  std::thread producer([&] {
    for (std::uint64_t i = 0; i < count; ++i) {
      auto value = std::make_unique<std::uint64_t>(i);
      while (!queue.push(std::move(value))) std::this_thread::yield();
    }
  });
  std::uint64_t expected = 0;
  bool in_order = true;
  while (expected < count) {
    const std::size_t popped = queue.pop_batch(7, [&](std::unique_ptr<std::uint64_t>&& value) {
      in_order = in_order && *value == expected;
      ++expected;
      value.reset();
    });
    if (popped == 0) std::this_thread::yield();
  }
  producer.join();
  EXPECT_TRUE(in_order);
  EXPECT_TRUE(queue.empty());
}

}  // namespace
}  // namespace postern
