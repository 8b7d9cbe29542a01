#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/memory_budget.h>
#include <postern/base/random.h>

namespace postern {
namespace {

constexpr MemoryBudget::Options small = {.total_bytes = 1000, .reserve_bytes = {100, 200, 50}, .lot_bytes = 10};

TEST(MemoryBudget, AReserveIsForItsClassAlone) {
  MemoryBudget budget(small);
  BudgetLease lease(budget);
  EXPECT_FALSE(lease.take(BudgetClass::intake, 751)) << "650 are shared, 100 reserved for intake";
  EXPECT_TRUE(lease.take(BudgetClass::intake, 750));
  EXPECT_FALSE(lease.take(BudgetClass::intake, 1));
  EXPECT_FALSE(lease.take(BudgetClass::delivery, 201));
  EXPECT_TRUE(lease.take(BudgetClass::delivery, 200));
  EXPECT_TRUE(lease.take(BudgetClass::control, 50));
  EXPECT_EQ(budget.leased_bytes(), 1000u);
  EXPECT_FALSE(lease.take(BudgetClass::control, 1));
  lease.give(BudgetClass::intake, 750);
  lease.give(BudgetClass::delivery, 200);
  lease.give(BudgetClass::control, 50);
  lease.trim();
  EXPECT_EQ(budget.leased_bytes(), 0u);
  EXPECT_TRUE(lease.take(BudgetClass::delivery, 850)) << "the shared part and its own reserve";
  lease.give(BudgetClass::delivery, 850);
}

TEST(MemoryBudget, WhatComesBackFillsTheReserveFirst) {
  MemoryBudget budget(small);
  ASSERT_TRUE(budget.acquire(BudgetClass::delivery, 850));
  budget.release(BudgetClass::delivery, 200);
  EXPECT_FALSE(budget.acquire(BudgetClass::intake, 101)) << "delivery's reserve came back, nothing shared";
  EXPECT_TRUE(budget.acquire(BudgetClass::intake, 100));
  budget.release(BudgetClass::intake, 100);
  budget.release(BudgetClass::delivery, 650);
  EXPECT_EQ(budget.leased_bytes(), 0u);
}

TEST(MemoryBudget, ALeaseKeepsAtMostTwoLotsUnused) {
  MemoryBudget budget({.total_bytes = 1 << 20, .lot_bytes = 1000});
  BudgetLease lease(budget);
  ASSERT_TRUE(lease.take(BudgetClass::intake, 1));
  EXPECT_EQ(budget.leased_bytes(), 1000u);
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(lease.take(BudgetClass::intake, 999));
  for (int i = 0; i < 50; ++i) {
    lease.give(BudgetClass::intake, 999);
    EXPECT_LT(budget.leased_bytes() - lease.used_bytes(BudgetClass::intake), 2000u);
  }
  lease.give(BudgetClass::intake, 1);
  EXPECT_EQ(lease.used_bytes(BudgetClass::intake), 0u);
}

TEST(MemoryBudget, NeverExceedsItsTotalUnderContention) {
  MemoryBudget budget({.total_bytes = 100'000, .reserve_bytes = {10'000, 20'000, 5'000}, .lot_bytes = 500});
  std::atomic<std::int64_t> used{0};
  std::atomic<bool> exceeded{false};
  std::vector<std::thread> threads;
  for (std::uint64_t shard = 0; shard < 3; ++shard) {
    threads.emplace_back([&, shard] {
      BudgetLease lease(budget);
      Random random(shard + 1);
      std::vector<std::pair<BudgetClass, std::uint64_t>> taken;
      for (int i = 0; i < 30'000; ++i) {
        const auto budget_class = static_cast<BudgetClass>(random.below(budget_classes));
        const std::uint64_t bytes = random.below(3000);
        if (random.below(5) < 3 && lease.take(budget_class, bytes)) {
          taken.emplace_back(budget_class, bytes);
          if (used.fetch_add(static_cast<std::int64_t>(bytes)) + static_cast<std::int64_t>(bytes) > 100'000) {
            exceeded = true;
          }
        } else if (!taken.empty()) {
          used.fetch_sub(static_cast<std::int64_t>(taken.back().second));
          lease.give(taken.back().first, taken.back().second);
          taken.pop_back();
        }
      }
      for (const auto& [budget_class, bytes] : taken) {
        used.fetch_sub(static_cast<std::int64_t>(bytes));
        lease.give(budget_class, bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(exceeded);
  EXPECT_EQ(budget.leased_bytes(), 0u);
  EXPECT_TRUE(budget.acquire(BudgetClass::intake, 75'000)) << "reserves and the shared part are whole again";
  EXPECT_TRUE(budget.acquire(BudgetClass::delivery, 20'000));
  EXPECT_TRUE(budget.acquire(BudgetClass::control, 5'000));
}

}  // namespace
}  // namespace postern
