#include "shard/mailbox.h"

#include <atomic>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace postern::shard {
namespace {

class CountingWaker final : public io::Waker {
 public:
  void wake() override { ++wakes; }
  std::atomic<int> wakes{0};
};

queue::Notice notice(std::uint64_t site) {
  return {.site = mail::SiteId{site}, .from = 0};
}

std::vector<std::uint64_t> sites_received(MailboxEnd& end, std::size_t count_max = 1'000'000) {
  std::vector<std::uint64_t> sites;
  end.receive(count_max, [&](Letter&& letter) { sites.push_back(std::get<queue::Notice>(letter).site.value); });
  return sites;
}

class Mailbox : public testing::Test {
 protected:
  Mailbox() {
    for (queue::ShardIndex i = 0; i < 3; ++i) mailboxes.set_waker(i, wakers[i]);
  }
  Mailboxes mailboxes{3};
  CountingWaker wakers[3];
};

TEST_F(Mailbox, LettersOfOnePairKeepTheirOrderAlsoBeyondTheQueuesRoom) {
  MailboxEnd sender(mailboxes, 0);
  MailboxEnd receiver(mailboxes, 2);
  constexpr std::uint64_t count = Mailboxes::capacity_default * 5 + 3;
  for (std::uint64_t i = 0; i < count; ++i) sender.send(2, notice(i));
  std::vector<std::uint64_t> all;
  while (all.size() < count) {
    const bool left = sender.flush();
    const auto some = sites_received(receiver);
    all.insert(all.end(), some.begin(), some.end());
    EXPECT_TRUE(left || all.size() == count);
  }
  for (std::uint64_t i = 0; i < count; ++i) ASSERT_EQ(all[i], i);
  EXPECT_FALSE(sender.flush());
}

TEST_F(Mailbox, AFlushRingsOnceEachShardThatGotSomething) {
  MailboxEnd sender(mailboxes, 0);
  for (int i = 0; i < 10; ++i) sender.send(1, notice(1));
  EXPECT_EQ(wakers[1].wakes, 0);
  EXPECT_FALSE(sender.flush());
  EXPECT_EQ(wakers[1].wakes, 1);
  EXPECT_EQ(wakers[2].wakes, 0);
  EXPECT_FALSE(sender.flush());
  EXPECT_EQ(wakers[1].wakes, 1) << "nothing new";
}

TEST_F(Mailbox, WhatAReceiverSendsToItselfWaitsForTheNextTurn) {
  MailboxEnd end(mailboxes, 1);
  end.send(1, notice(1));
  int received = 0;
  end.receive(100, [&](Letter&&) {
    ++received;
    end.send(1, notice(2));
  });
  EXPECT_EQ(received, 1);
  EXPECT_TRUE(end.pending());
}

TEST_F(Mailbox, SendersTakeTurnsWhenATurnIsTooShortForAll) {
  MailboxEnd first(mailboxes, 0);
  MailboxEnd second(mailboxes, 2);
  MailboxEnd receiver(mailboxes, 1);
  for (int i = 0; i < 50; ++i) {
    first.send(1, notice(1));
    second.send(1, notice(2));
  }
  std::size_t from_second = 0;
  for (int turn = 0; turn < 2; ++turn) {
    for (const std::uint64_t site : sites_received(receiver, 20)) from_second += site == 2 ? 1 : 0;
  }
  EXPECT_GT(from_second, 0u);
  EXPECT_LT(from_second, 40u);
}

TEST_F(Mailbox, NothingIsLostBetweenTwoThreads) {
  constexpr std::uint64_t count = 50'000;
  std::thread producer([&] {
    MailboxEnd sender(mailboxes, 0);
    for (std::uint64_t i = 0; i < count; ++i) {
      sender.send(1, notice(i));
      if (i % 64 == 0) (void)sender.flush();
    }
    while (sender.flush()) std::this_thread::yield();
  });
  MailboxEnd receiver(mailboxes, 1);
  std::uint64_t next = 0;
  while (next < count) {
    const std::uint64_t before = next;
    for (const std::uint64_t site : sites_received(receiver, 1024)) ASSERT_EQ(site, next++);
    if (next == before) std::this_thread::yield();
  }
  producer.join();
}

}  // namespace
}  // namespace postern::shard
