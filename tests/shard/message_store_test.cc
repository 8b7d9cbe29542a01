#include "shard/message_store.h"

#include <memory>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include <postern/base/bytes.h>

namespace postern::shard {
namespace {

class Store : public testing::Test {
 protected:
  Store()
      : budget({.total_bytes = 1 << 20, .reserve_bytes = {0, 256 << 10, 64 << 10}, .lot_bytes = 4096}), store(budget) {}

  mail::Message* keep(std::uint64_t id, std::size_t bytes) {
    std::unique_ptr<mail::Message> message = store.new_message(BudgetClass::intake);
    message->id = {id};
    if (!store.take(*message, message->content.growth_for(bytes))) {
      store.recycle(std::move(message));
      return nullptr;
    }
    message->content.append(as_bytes(std::string(bytes, 'x')));
    return &store.keep(std::move(message));
  }

  MemoryBudget budget;
  MessageStore store;
};

TEST_F(Store, TheBudgetHoldsAndTheLongestUnusedGoesFirst) {
  for (std::uint64_t id = 1; id <= 100; ++id) ASSERT_NE(keep(id, 60'000), nullptr) << id;
  EXPECT_LE(store.used_bytes(), budget.total_bytes());
  EXPECT_LE(budget.leased_bytes(), budget.total_bytes());
  EXPECT_EQ(store.find({1}), nullptr);
  EXPECT_NE(store.find({100}), nullptr);
}

TEST_F(Store, WhatIsLentStays) {
  mail::Message* const lent = keep(1, 60'000);
  store.lease(*lent);
  for (std::uint64_t id = 2; id <= 100; ++id) (void)keep(id, 60'000);
  EXPECT_EQ(store.find({1}), lent);
  EXPECT_EQ(lent->content.size(), 60'000u);
  store.release(*lent);
  for (std::uint64_t id = 101; id <= 200; ++id) (void)keep(id, 60'000);
  EXPECT_EQ(store.find({1}), nullptr);
}

TEST_F(Store, ADropWaitsForTheLastLease) {
  mail::Message* const message = keep(1, 100);
  store.lease(*message);
  store.lease(*message);
  store.drop({1});
  EXPECT_EQ(store.size(), 1u);
  store.release(*message);
  EXPECT_EQ(store.size(), 1u);
  store.release(*message);
  EXPECT_EQ(store.size(), 0u);
}

TEST_F(Store, ADropIsTakenBackWhenTheMessageIsWantedAgain) {
  mail::Message* const message = keep(1, 100);
  store.lease(*message);
  store.drop({1});
  EXPECT_EQ(store.find({1}), message);
  store.lease(*message);
  store.release(*message);
  store.release(*message);
  EXPECT_EQ(store.find({1}), message);
}

TEST_F(Store, ADetachedMessageStaysForItsLeasesOnlyAndAnotherMayTakeItsPlace) {
  mail::Message* const before = keep(1, 100);
  store.lease(*before);
  store.lease(*before);
  store.detach({1});
  EXPECT_EQ(store.find({1}), nullptr);
  mail::Message* const after = keep(1, 100);
  store.lease(*after);
  store.release(*before);
  EXPECT_EQ(before->id.value, 1u);
  store.release(*before);
  store.release(*after);
  EXPECT_EQ(store.find({1}), after);
  store.drop({1});
  EXPECT_EQ(store.used_bytes(), 0u);
}

TEST_F(Store, DetachingWhatHasNoLeaseDropsIt) {
  (void)keep(1, 100);
  store.detach({1});
  EXPECT_EQ(store.find({1}), nullptr);
  EXPECT_EQ(store.used_bytes(), 0u);
}

TEST_F(Store, AllMemoryComesBack) {
  for (std::uint64_t id = 1; id <= 10; ++id) (void)keep(id, 10'000);
  for (std::uint64_t id = 1; id <= 10; ++id) store.drop({id});
  EXPECT_EQ(store.used_bytes(), 0u);
  EXPECT_TRUE(store.take_freed());
  EXPECT_FALSE(store.take_freed());
}

TEST_F(Store, IntakeIsRefusedWhenAllIsLent) {
  std::uint64_t id = 0;
  while (mail::Message* message = keep(++id, 60'000)) store.lease(*message);
  EXPECT_GT(id, 5u);
  // Small ones may still fit; then nothing does.
  while (mail::Message* message = keep(++id, 1)) store.lease(*message);
  EXPECT_FALSE(store.has_room_for_intake());
  // What empties the queue has a reserve of its own.
  std::unique_ptr<mail::Message> delivery = store.new_message(BudgetClass::delivery);
  EXPECT_TRUE(store.take(*delivery, 100'000));
  store.recycle(std::move(delivery));
}

}  // namespace
}  // namespace postern::shard
