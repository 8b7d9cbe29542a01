// What a shard does when the mail that it owes cannot be read back: from the disk, or for want of memory. One shard on
// a simulated machine; the next hop is down until all mail has left memory.
#include <algorithm>
#include <chrono>
#include <fcntl.h>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <postern/base/check.h>

#include "shard/alarm_limit.h"
#include "tests/shard/one_shard.h"

namespace postern::shard {
namespace {

using namespace std::chrono_literals;
using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr unsigned every_one = 1'000'000;  // of a million
constexpr Duration retry_after = 10min;
constexpr Duration give_up_after = 4h;
constexpr Duration grace = 20s;

class ReadingBack : public OneShard {
 protected:
  ReadingBack() : OneShard(7), hop(world, oracle, hop_address, {}) { hop.set_mood({.down = true}); }

  void start() {
    auto options = small_options();
    options->routes = {{.match = "*", .via = "smtp:[10.1.0.1]:25", .line = 1}};
    options->retry.schedule = schedule;
    options->retry.give_up_after = give_up_after;
    OneShard::start(std::move(options));
  }
  void stop() { OneShard::stop(grace); }
  // Accepts `count` messages, whose first attempt fails: they are in the spool alone, and due again in ten minutes.
  void take_mail(std::size_t count, bool with_senders = false) {
    std::vector<sim::Mail*> batch;
    for (std::size_t i = 0; i < count; ++i) batch.push_back(add_mail("there.test", with_senders));
    bool done = false;
    send(batch, [&] { done = true; });
    ASSERT_TRUE(world.run(world.now() + 1min, [&] { return done; }));
    ASSERT_TRUE(std::ranges::all_of(batch, [](auto* mail) { return mail->fate == sim::Mail::Fate::accepted; }));
    world.run(world.now() + 1min);
    ASSERT_EQ(relay->waiting(), static_cast<std::int64_t>(count));
    ASSERT_EQ(delivered(), 0);
  }
  [[nodiscard]] std::size_t times_delivered() const {
    std::size_t sum = 0;
    for (const sim::Mail* mail : mails) sum += mail->recipients[0].deliveries.size();
    return sum;
  }
  [[nodiscard]] bool run_until_delivered(Duration most) {
    return world.run(world.now() + most, [&] { return delivered() == std::ssize(mails) && relay->waiting() == 0; });
  }
  [[nodiscard]] bool reported() const { return mails[0]->recipients[0].reports.size() == 1 && relay->waiting() == 0; }

  static inline const io::Address hop_address = *io::Address::parse("10.1.0.1:25");
  sim::NextHop hop;
  std::vector<Duration> schedule = {retry_after};
};

TEST_F(ReadingBack, FromADiskThatErrsIsTriedAgainUntilTheDiskReads) {
  start();
  take_mail(3);
  hop.set_mood({});
  world.disk().options().read_errors = every_one;
  // Several attempts, all of them in vain, and one alarm for each message all the same.
  world.run(world.now() + 4 * retry_after);
  EXPECT_EQ(delivered(), 0);
  EXPECT_EQ(relay->waiting(), 3);
  EXPECT_EQ(relay->quarantined(), 3u);
  std::vector<testing::Matcher<std::string>> alarms;
  for (const sim::Mail* mail : mails) {
    alarms.push_back(AllOf(HasSubstr("message " + mail->queue_id + " cannot be read back: reading the spool: Input/"),
                           EndsWith("postern-spool export --all --include-damaged --data-dir /spool TO")));
  }
  EXPECT_THAT(relay->alarms(), testing::UnorderedElementsAreArray(alarms));
  // Others are served meanwhile: what never left memory needs no disk to be read.
  send({add_mail("there.test")}, nullptr, "10.2.0.1:1001");
  EXPECT_TRUE(world.run(world.now() + 1min, [&] { return delivered() == 1; }));

  world.disk().options().read_errors = 0;
  EXPECT_TRUE(run_until_delivered(2 * retry_after));
  EXPECT_EQ(times_delivered(), 4u);
  EXPECT_EQ(relay->quarantined(), 3u);
  EXPECT_EQ(relay->exit_code(), 0);
  stop();
}

TEST_F(ReadingBack, ADeadDiskUnderManyMessagesSaysAFewLinesAndCountsThemAll) {
  start();
  take_mail(200);
  hop.set_mood({});
  world.disk().options().read_errors = every_one;
  ASSERT_TRUE(world.run(world.now() + 2 * retry_after, [&] { return relay->quarantined() == 200; }));
  const auto one_by_one = [&] {
    return std::ranges::count_if(relay->alarms(), [](const auto& text) { return text.starts_with("message "); });
  };
  const auto counted = [&] {
    std::size_t sum = 0;
    for (const std::string& text : relay->alarms()) {
      constexpr std::string_view words = " more messages cannot be read back: reading the spool: Input/output error";
      if (text.starts_with("shard 0: ") && text.ends_with(words)) sum += std::stoul(text.substr(9));
    }
    return sum;
  };
  // Nothing happens any more for minutes, and still the rest is told once its minute is over.
  world.run(world.now() + AlarmLimit::period + 1s);
  const auto lines = static_cast<std::size_t>(one_by_one());
  EXPECT_GE(lines, AlarmLimit::in_full_max);
  EXPECT_LE(relay->alarms().size(), 40u);  // attempts are spread by jitter over two minutes
  EXPECT_EQ(lines + counted(), 200u);

  world.disk().options().read_errors = 0;
  EXPECT_TRUE(run_until_delivered(3 * retry_after));
  EXPECT_EQ(times_delivered(), 200u);
  stop();
}

TEST_F(ReadingBack, TheRestIsToldAtTheEndAtTheLatest) {
  start();
  take_mail(40);
  hop.set_mood({});
  world.disk().options().read_errors = every_one;
  ASSERT_TRUE(world.run(world.now() + 2 * retry_after, [&] { return relay->quarantined() > AlarmLimit::in_full_max; }));
  const std::vector<std::string> before = relay->alarms();
  EXPECT_EQ(before.size(), AlarmLimit::in_full_max);
  stop();
  ASSERT_GT(relay->alarms().size(), before.size());
  EXPECT_THAT(relay->alarms().back(), HasSubstr("1 more messages cannot be read back"));
}

// Takes all memory that deliveries could have, until it goes out of scope.
class Famine {
 public:
  explicit Famine(MemoryBudget& budget) : budget_(budget) {
    for (std::uint64_t piece = budget.total_bytes(); piece > 0; piece /= 2) {
      while (budget.acquire(BudgetClass::delivery, piece)) taken_ += piece;
    }
  }
  ~Famine() { budget_.release(BudgetClass::delivery, taken_); }
  Famine(const Famine&) = delete;
  Famine& operator=(const Famine&) = delete;
  [[nodiscard]] std::uint64_t taken() const { return taken_; }

 private:
  MemoryBudget& budget_;
  std::uint64_t taken_ = 0;
};

TEST_F(ReadingBack, ForWantOfMemoryWaitsAndIsNoAttempt) {
  start();
  take_mail(5);
  hop.set_mood({});
  const std::uint64_t deferred = relay->deferred();
  {
    const Famine famine(relay->memory_budget());
    ASSERT_GT(famine.taken(), 0u);
    ASSERT_TRUE(world.run(world.now() + 2 * retry_after, [&] { return relay->in_flight() > 0; }));
    world.run(world.now() + 3min);
    EXPECT_EQ(delivered(), 0);
    EXPECT_EQ(relay->waiting(), 5);
  }
  // No schedule is waited for: it is looked for memory every so often.
  EXPECT_TRUE(run_until_delivered(5s));
  EXPECT_EQ(times_delivered(), 5u);
  EXPECT_EQ(relay->deferred(), deferred);
  EXPECT_EQ(relay->quarantined(), 0u);
  EXPECT_THAT(relay->alarms(), IsEmpty());
  stop();
}

TEST_F(ReadingBack, WhatWaitsForMemoryHoldsUpNoStopAndIsDeliveredAfterTheNextStart) {
  start();
  take_mail(5);
  hop.set_mood({});
  {
    const Famine famine(relay->memory_budget());
    ASSERT_TRUE(world.run(world.now() + 2 * retry_after, [&] { return relay->in_flight() > 0; }));
    world.run(world.now() + 1min);
    const Instant asked = world.now();
    stop();
    EXPECT_LT(world.now() - asked, grace / 2);
  }
  EXPECT_EQ(delivered(), 0);
  start();
  EXPECT_TRUE(run_until_delivered(2 * retry_after));
  EXPECT_EQ(times_delivered(), 5u);
  stop();
}

TEST_F(ReadingBack, AReadThatEndsDuringAStopWaitsForNoMemory) {
  start();
  take_mail(5);
  hop.set_mood({});
  world.disk().options().latency_min = world.disk().options().latency_max = 1s;
  {
    const Famine famine(relay->memory_budget());
    ASSERT_TRUE(world.run(world.now() + 2 * retry_after, [&] { return relay->in_flight() > 0; }));
    const Instant asked = world.now();
    stop();  // the read has only begun
    EXPECT_LT(world.now() - asked, grace / 2);
  }
  world.disk().options().latency_min = world.disk().options().latency_max = 50us;
  EXPECT_EQ(delivered(), 0);
  start();
  EXPECT_TRUE(run_until_delivered(2 * retry_after));
  EXPECT_EQ(times_delivered(), 5u);
  stop();
}

TEST_F(ReadingBack, ANotificationThatWaitsForMemoryIsWrittenWhenThereIsSome) {
  start();
  take_mail(1, true);
  // It comes about between two attempts: what is in one is not given up.
  world.run(mails[0]->accepted_at + give_up_after - 5s);
  {
    const Famine famine(relay->memory_budget());
    world.run(world.now() + 1min);
    EXPECT_EQ(relay->waiting(), 0);
    hop.set_mood({});
    world.run(world.now() + 1min);
    EXPECT_THAT(mails[0]->recipients[0].reports, IsEmpty());
  }
  EXPECT_TRUE(world.run(world.now() + 2 * retry_after, [&] { return reported(); }));
  stop();
}

TEST_F(ReadingBack, ANotificationThatWaitsForMemoryHoldsUpNoStopAndItsMessageGetsALastChance) {
  start();
  take_mail(1, true);
  // It comes about between two attempts: what is in one is not given up.
  world.run(mails[0]->accepted_at + give_up_after - 5s);
  {
    const Famine famine(relay->memory_budget());
    world.run(world.now() + 1min);
    EXPECT_EQ(relay->waiting(), 0);
    hop.set_mood({});
    const Instant asked = world.now();
    stop();
    EXPECT_LT(world.now() - asked, grace / 2);
  }
  start();
  EXPECT_TRUE(run_until_delivered(2 * retry_after));
  EXPECT_EQ(times_delivered(), 1u);
  EXPECT_THAT(mails[0]->recipients[0].reports, IsEmpty());
  stop();
}

TEST_F(ReadingBack, MailThatExpiresAllAtOnceWaitsInTheQueueForItsNotifications) {
  constexpr std::size_t count = 1000;
  schedule = {retry_after, 2 * give_up_after};
  start();
  take_mail(count, true);
  world.run(mails[0]->accepted_at + give_up_after - 5s);
  ASSERT_EQ(relay->waiting(), static_cast<std::int64_t>(count));
  const auto notified = [&] {
    return std::ranges::count_if(mails, [](const sim::Mail* mail) { return mail->recipients[0].reports.size() == 1; });
  };
  {
    const Famine famine(relay->memory_budget());
    world.run(world.now() + 10s);
    // Some notifications have begun, and wait for memory; for the others nothing has been taken up yet.
    EXPECT_LT(relay->waiting(), static_cast<std::int64_t>(count) - 200);
    EXPECT_GT(relay->waiting(), static_cast<std::int64_t>(count) - 600);
    hop.set_mood({});
  }
  EXPECT_TRUE(world.run(world.now() + 2min, [&] { return notified() == std::ssize(mails) && relay->waiting() == 0; }))
      << notified() << " notified, " << relay->waiting() << " wait";
  EXPECT_EQ(delivered(), 0);
  stop();
}

}  // namespace

TEST(AlarmLimit, TellsTheFirstOfAPeriodAndCountsTheOthers) {
  AlarmLimit limit;
  Instant now{1000s};
  EXPECT_EQ(limit.next_deadline(), never);
  for (std::uint32_t i = 0; i < AlarmLimit::in_full_max; ++i) EXPECT_TRUE(limit.admit(now, "first"));
  EXPECT_EQ(limit.next_deadline(), never);
  EXPECT_FALSE(limit.admit(now + 10s, "second"));
  EXPECT_FALSE(limit.admit(now + 20s, "third"));
  const Instant end = now + AlarmLimit::period;
  EXPECT_EQ(limit.next_deadline(), end);
  EXPECT_FALSE(limit.take_rest(end - 1ns));
  // Behind the end, but before anybody looked: it counts to what is about to be told.
  EXPECT_FALSE(limit.admit(end + 1s, "last"));
  const auto rest = limit.take_rest(end + 1s);
  ASSERT_TRUE(rest);
  EXPECT_EQ(rest->count, 3u);
  EXPECT_EQ(rest->reason, "last");
  EXPECT_FALSE(limit.take_rest(never));
  EXPECT_EQ(limit.next_deadline(), never);
}

TEST(AlarmLimit, ANewPeriodTellsInFullAgain) {
  AlarmLimit limit;
  Instant now{1000s};
  for (std::uint32_t i = 0; i < AlarmLimit::in_full_max; ++i) EXPECT_TRUE(limit.admit(now, "x"));
  EXPECT_FALSE(limit.admit(now, "x"));
  now += AlarmLimit::period;
  EXPECT_TRUE(limit.take_rest(now));
  EXPECT_TRUE(limit.admit(now, "x"));
  // A period without a rest ends by itself.
  now += AlarmLimit::period;
  for (std::uint32_t i = 0; i < AlarmLimit::in_full_max; ++i) EXPECT_TRUE(limit.admit(now, "x"));
  EXPECT_FALSE(limit.admit(now, "x"));
  // At an end, what there is.
  EXPECT_EQ(limit.take_rest(never)->count, 1u);
}

}  // namespace postern::shard
