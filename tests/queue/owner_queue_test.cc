#include <map>
#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <postern/queue/owner_queue.h>

namespace postern::queue {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;
using ::testing::ElementsAre;

constexpr SiteId site_a{100};
constexpr SiteId site_b{200};
constexpr Duration tick = milliseconds(17);

class OwnerQueueTest : public ::testing::Test {
 protected:
  OwnerQueueTest() : OwnerQueueTest({.schedule = RetrySchedule({minutes(1), minutes(5)})}) {}
  explicit OwnerQueueTest(OwnerQueue::Options options) : queue(std::move(options), Random(1)) {}

  void pass(Duration time) {
    now.monotonic += time;
    now.wall += time;
    run();
  }
  // As the driver does: while there is something to do.
  void run() {
    for (int i = 0; i < 100'000 && queue.next_deadline() <= now.monotonic; ++i) queue.on_deadline(now);
    EXPECT_GT(queue.next_deadline(), now.monotonic);
  }
  mail::QueueId add(std::vector<std::string> destinations, MessageHead head = {}) {
    head.queue_id = mail::QueueId::from_parts(0, 1, next_id++);
    head.location = {
        .log = static_cast<std::uint16_t>(head.queue_id.log()), .length = 64, .position = head.queue_id.value};
    if (head.give_up_at == WallTime{}) head.give_up_at = now.wall + hours(96);
    std::vector<NewRecipient> recipients;
    for (std::size_t i = 0; i < destinations.size(); ++i) {
      recipients.push_back({.index = static_cast<std::uint16_t>(i),
                            .destination = destinations[i],
                            .hash = static_cast<std::uint32_t>(i),
                            .retry = retry,
                            .warn = warn});
    }
    queue.add(head, recipients, now);
    return head.queue_id;
  }
  // Routes what asks for it: "b…" to site_b, all else to site_a.
  int route() {
    int asked = 0;
    while (const auto destination = queue.take_destination_to_route()) {
      ++asked;
      queue.on_routed(destination->id, destination->text.starts_with("b") ? site_b : site_a, now.monotonic + hours(1),
                      now);
    }
    run();
    return asked;
  }
  void finish(const Work& work, mail::Outcome outcome, std::string text = "") {
    std::vector<RecipientOutcome> outcomes;
    for (const std::uint16_t recipient : work.recipients) {
      outcomes.push_back(
          {.recipient = recipient, .result = {.outcome = outcome, .reply = {.code = 250, .status = {}, .text = text}}});
    }
    EXPECT_TRUE(queue.on_results(work.delivery, outcomes, now));
    run();
  }
  std::vector<Settlement> settlements() {
    std::vector<Settlement> all;
    while (auto one = queue.take_settlement()) all.push_back(*std::move(one));
    return all;
  }
  std::vector<RetryUpdate> retry_updates() {
    std::vector<RetryUpdate> all;
    while (auto one = queue.take_retry_update()) all.push_back(*std::move(one));
    return all;
  }
  std::vector<SiteId> notices() {
    std::vector<SiteId> all;
    while (const auto one = queue.take_notice()) all.push_back(*one);
    return all;
  }

  ClockPair now{Instant(hours(10)), WallTime(hours(500'000))};
  OwnerQueue queue;
  std::uint32_t next_id = 1;
  std::optional<RetryPoint> retry;
  bool warn = false;
};

TEST_F(OwnerQueueTest, AMessageIsRoutedPulledAndSettled) {
  const mail::QueueId id = add({"a.test"});
  EXPECT_EQ(queue.counts().routing, 1u);
  EXPECT_EQ(route(), 1);
  EXPECT_THAT(notices(), ElementsAre(site_a));
  EXPECT_TRUE(queue.has_ready(site_a));
  const auto work = queue.pull(site_a, 100);
  ASSERT_TRUE(work);
  EXPECT_EQ(work->queue_id, id);
  EXPECT_EQ(work->location.position, id.value);
  EXPECT_THAT(work->recipients, ElementsAre(0));
  EXPECT_EQ(queue.counts().in_flight, 1u);
  EXPECT_FALSE(queue.pull(site_a, 100));
  finish(*work, mail::Outcome::relayed, "done");
  const auto settled = settlements();
  ASSERT_EQ(settled.size(), 1u);
  EXPECT_EQ(settled[0].outcome, SettledAs::relayed);
  EXPECT_EQ(settled[0].reply.text, "done");
  EXPECT_EQ(settled[0].attempts, 1);
  EXPECT_TRUE(settled[0].last_of_message);
  EXPECT_EQ(queue.counts().total(), 0u);
  EXPECT_EQ(queue.message_count(), 0u);
  EXPECT_EQ(queue.site_count(), 0u);
  EXPECT_EQ(queue.next_deadline(), never);
}

TEST_F(OwnerQueueTest, ARouteIsKeptWhileItIsValid) {
  add({"a.test"});
  EXPECT_EQ(route(), 1);
  finish(*queue.pull(site_a, 1), mail::Outcome::relayed);
  add({"a.test"});
  EXPECT_EQ(route(), 0);
  EXPECT_TRUE(queue.has_ready(site_a));
  finish(*queue.pull(site_a, 1), mail::Outcome::relayed);
  pass(hours(2));
  add({"a.test"});
  EXPECT_EQ(route(), 1);
}

TEST_F(OwnerQueueTest, ADestinationIsAskedForOnceAtATime) {
  add({"a.test"});
  add({"a.test"});
  const auto destination = queue.take_destination_to_route();
  ASSERT_TRUE(destination);
  EXPECT_EQ(destination->text, "a.test");
  add({"a.test"});
  EXPECT_FALSE(queue.take_destination_to_route());
  queue.on_routed(destination->id, site_a, never, now);
  EXPECT_EQ(queue.counts().ready, 3u);
}

TEST_F(OwnerQueueTest, ADestinationWhoseRecipientsExpiredIsNotForgottenBeforeItsAnswer) {
  add({"a.test"}, {.give_up_at = now.wall + minutes(1)});
  const auto destination = queue.take_destination_to_route();
  pass(minutes(2));
  EXPECT_EQ(settlements().size(), 1u);
  add({"other.test"});
  queue.on_routed(destination->id, site_a, never, now);
  EXPECT_EQ(queue.counts().routing, 1u) << "the answer was not for other.test";
  queue.on_route_failed(queue.take_destination_to_route()->id, {.code = 550, .status = {5, 1, 2}, .text = "no"}, now);
  EXPECT_EQ(settlements().size(), 1u);
  add({"a.test"});
  EXPECT_TRUE(queue.has_ready(site_a));
}

TEST_F(OwnerQueueTest, IdleDestinationsAreBounded) {
  for (int i = 0; i < 5000; ++i) {
    add({"a" + std::to_string(i)});
    route();
    finish(*queue.pull(site_a, 1), mail::Outcome::relayed);
    settlements();
    notices();
  }
  EXPECT_EQ(queue.destination_count(), 4096u);
}

TEST_F(OwnerQueueTest, RecipientsOfOneMessageForOneSiteTravelTogether) {
  const auto id = add({"a1", "b", "a2", "a1"});
  add({"a1"});
  route();
  const auto work = queue.pull(site_a, 100);
  EXPECT_EQ(work->queue_id, id);
  EXPECT_THAT(work->recipients, ::testing::UnorderedElementsAre(0, 2, 3));
  EXPECT_THAT(queue.pull(site_b, 100)->recipients, ElementsAre(1));
  EXPECT_THAT(queue.pull(site_a, 100)->recipients, ElementsAre(0));
  // Also when others stand between them.
  const auto second = add({"a1", "a3"});
  add({"a1"});
  route();
  EXPECT_THAT(queue.pull(site_a, 100)->recipients, ElementsAre(0, 1));
  (void)second;
}

TEST_F(OwnerQueueTest, AWorkHasNoMoreRecipientsThanAskedFor) {
  add(std::vector<std::string>(25, "a"));
  route();
  EXPECT_EQ(queue.pull(site_a, 10)->recipients.size(), 10u);
  const auto second = queue.pull(site_a, 10);
  EXPECT_THAT(second->recipients, ElementsAre(10, 11, 12, 13, 14, 15, 16, 17, 18, 19));
  EXPECT_EQ(queue.pull(site_a, 10)->recipients.size(), 5u);
  EXPECT_FALSE(queue.pull(site_a, 10));
}

TEST_F(OwnerQueueTest, ASiteIsNoticedOnceUntilNothingIsReady) {
  add({"a"});
  add({"a"});
  route();
  EXPECT_THAT(notices(), ElementsAre(site_a));
  queue.pull(site_a, 1).value();
  add({"a"});
  EXPECT_TRUE(notices().empty());
  queue.pull(site_a, 1).value();
  queue.pull(site_a, 1).value();
  add({"a"});
  EXPECT_THAT(notices(), ElementsAre(site_a));
}

TEST_F(OwnerQueueTest, OutcomesArePerRecipient) {
  const auto id = add({"a", "a", "a"});
  route();
  const auto work = queue.pull(site_a, 100);
  std::vector<RecipientOutcome> outcomes(3);
  for (std::uint16_t i = 0; i < 3; ++i) outcomes[i].recipient = i;
  outcomes[0].result = {.outcome = mail::Outcome::relayed, .reply = {.code = 250, .status = {}, .text = "ok"}};
  outcomes[1].result = {.outcome = mail::Outcome::failed, .reply = {.code = 550, .status = {5, 1, 1}, .text = "no"}};
  outcomes[2].result = {.outcome = mail::Outcome::deferred,
                        .reply = {.code = 450, .status = {4, 2, 1}, .text = "later"}};
  EXPECT_TRUE(queue.on_results(work->delivery, outcomes, now));
  EXPECT_FALSE(queue.on_results(work->delivery, outcomes, now)) << "a delivery ends once";
  const auto settled = settlements();
  ASSERT_EQ(settled.size(), 2u);
  EXPECT_EQ(settled[0].outcome, SettledAs::relayed);
  EXPECT_EQ(settled[1].outcome, SettledAs::failed);
  EXPECT_EQ(settled[1].recipient, 1);
  EXPECT_FALSE(settled[1].last_of_message);
  const auto updates = retry_updates();
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_EQ(updates[0].queue_id, id);
  EXPECT_EQ(updates[0].recipient, 2);
  EXPECT_EQ(updates[0].state.attempts, 1);
  EXPECT_EQ(updates[0].state.last_reply.text, "later");
  EXPECT_GE(updates[0].state.due, now.wall + seconds(54));
  EXPECT_LE(updates[0].state.due, now.wall + seconds(66));
  EXPECT_EQ(queue.counts().scheduled, 1u);
  notices();
  pass(updates[0].state.due - now.wall - milliseconds(1));
  EXPECT_FALSE(queue.has_ready(site_a)) << "nothing comes early";
  pass(tick + milliseconds(1));
  EXPECT_THAT(notices(), ElementsAre(site_a));
  EXPECT_THAT(queue.pull(site_a, 100)->recipients, ElementsAre(2));
}

TEST_F(OwnerQueueTest, WhatWasDeferredTogetherComesBackTogether) {
  for (int i = 0; i < 10; ++i) add({"a", "a", "a"});
  route();
  while (const auto work = queue.pull(site_a, 100)) finish(*work, mail::Outcome::deferred);
  std::set<WallTime> dues;
  for (const auto& update : retry_updates()) dues.insert(update.state.due);
  EXPECT_EQ(dues.size(), 10u) << "one per message, jittered";
  pass(minutes(2));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(queue.pull(site_a, 100)->recipients.size(), 3u);
}

TEST_F(OwnerQueueTest, WhatWasNotAttemptedGoesBackToTheFrontAndCostsNoAttempt) {
  const auto first = add({"a", "a", "a"});
  add({"a"});
  route();
  auto work = queue.pull(site_a, 100);
  std::vector<RecipientOutcome> outcomes(1);
  outcomes[0] = {.recipient = 1, .result = {.outcome = mail::Outcome::relayed, .reply = {}}};
  EXPECT_TRUE(queue.on_results(work->delivery, outcomes, now));
  work = queue.pull(site_a, 100);
  EXPECT_EQ(work->queue_id, first);
  EXPECT_THAT(work->recipients, ElementsAre(0, 2));
  EXPECT_TRUE(queue.on_not_attempted(work->delivery, now));
  EXPECT_TRUE(retry_updates().empty());
  work = queue.pull(site_a, 100);
  EXPECT_THAT(work->recipients, ElementsAre(0, 2));
  finish(*work, mail::Outcome::relayed);
  for (const Settlement& one : settlements()) EXPECT_EQ(one.attempts, 1);
}

TEST_F(OwnerQueueTest, AStaleDeliveryIdSettlesNothing) {
  add({"a"});
  add({"a"});
  route();
  const auto first = queue.pull(site_a, 1);
  EXPECT_TRUE(queue.on_not_attempted(first->delivery, now));
  const auto second = queue.pull(site_a, 1);
  EXPECT_NE(first->delivery, second->delivery);
  EXPECT_FALSE(queue.on_not_attempted(first->delivery, now));
  EXPECT_FALSE(queue.on_not_attempted(DeliveryId{}, now));
  EXPECT_FALSE(queue.on_not_attempted(DeliveryId{999}, now));
  EXPECT_TRUE(queue.on_not_attempted(second->delivery, now));
}

TEST_F(OwnerQueueTest, ExpiresInEveryStateButInFlight) {
  const MessageHead head{.give_up_at = now.wall + minutes(3), .null_sender = true};
  add({"a"}, head);
  route();
  finish(*queue.pull(site_a, 1), mail::Outcome::deferred);  // scheduled, at 1 min, then routed and ready
  pass(minutes(2));
  add({"a"}, head);                                                                      // ready
  add({"unrouted"}, head);                                                               // routing
  add({"b"}, {.give_up_at = now.wall + minutes(1), .hold_until = now.wall + hours(1)});  // scheduled
  EXPECT_EQ(queue.counts().ready, 2u);
  pass(minutes(1) + tick);
  const auto settled = settlements();
  ASSERT_EQ(settled.size(), 4u);
  for (const Settlement& one : settled) {
    EXPECT_EQ(one.outcome, SettledAs::expired);
    EXPECT_EQ(one.reply.status, (mail::EnhancedStatus{4, 4, 7}));
    EXPECT_TRUE(one.last_of_message);
  }
  EXPECT_TRUE(settled[0].null_sender);
  EXPECT_EQ(queue.counts().total(), 0u);
  EXPECT_EQ(queue.site_count(), 0u);
}

TEST_F(OwnerQueueTest, InFlightTheOutcomeDecides) {
  const MessageHead head{.give_up_at = now.wall + minutes(3)};
  add({"a"}, head);
  add({"a"}, head);
  add({"a"}, head);
  route();
  const auto one = queue.pull(site_a, 1);
  const auto two = queue.pull(site_a, 1);
  const auto three = queue.pull(site_a, 1);
  pass(minutes(5));
  EXPECT_TRUE(settlements().empty());
  finish(*one, mail::Outcome::relayed);
  finish(*two, mail::Outcome::deferred, "the last words");
  EXPECT_TRUE(queue.on_not_attempted(three->delivery, now));
  const auto settled = settlements();
  ASSERT_EQ(settled.size(), 3u);
  EXPECT_EQ(settled[0].outcome, SettledAs::relayed);
  EXPECT_EQ(settled[1].outcome, SettledAs::expired);
  EXPECT_EQ(settled[1].reply.text, "the last words");
  EXPECT_EQ(settled[2].outcome, SettledAs::expired);
}

TEST_F(OwnerQueueTest, ARouteThatFailsSettlesAllThatIsDue) {
  add({"a"});
  add({"a"});
  queue.on_route_failed(queue.take_destination_to_route()->id,
                        {.code = 550, .status = {5, 1, 2}, .text = "no such domain"}, now);
  const auto settled = settlements();
  ASSERT_EQ(settled.size(), 2u);
  EXPECT_EQ(settled[0].outcome, SettledAs::failed);
  EXPECT_EQ(settled[0].reply.text, "no such domain");
  EXPECT_EQ(queue.destination_count(), 0u);
}

TEST_F(OwnerQueueTest, ARouteThatIsDeferredBacksOff) {
  add({"a"});
  queue.on_route_deferred(queue.take_destination_to_route()->id, {.code = 0, .status = {4, 4, 3}, .text = "DNS"}, now);
  EXPECT_EQ(retry_updates().at(0).state.attempts, 1);
  EXPECT_FALSE(queue.take_destination_to_route());
  pass(minutes(2));
  queue.on_route_deferred(queue.take_destination_to_route()->id, {.code = 0, .status = {4, 4, 3}, .text = "DNS"}, now);
  const auto update = retry_updates().at(0);
  EXPECT_EQ(update.state.attempts, 2);
  EXPECT_GE(update.state.due, now.wall + seconds(270));
}

TEST_F(OwnerQueueTest, ADeadSiteDefersAllThatIsReadyForIt) {
  for (int i = 0; i < 1000; ++i) add({"a", "a"});
  add({"b"});
  route();
  const auto in_flight = queue.pull(site_a, 100);
  notices();
  queue.defer_site(site_a, {.code = 0, .status = {4, 4, 1}, .text = "refused"}, now);
  EXPECT_FALSE(queue.has_ready(site_a));
  EXPECT_LT(queue.counts().scheduled, 300u) << "in pieces";
  EXPECT_EQ(queue.next_deadline(), Instant::min());
  // In the middle of it life goes on.
  add({"a"});
  EXPECT_THAT(notices(), ElementsAre(site_a));
  EXPECT_TRUE(queue.on_not_attempted(in_flight->delivery, now));
  run();
  EXPECT_EQ(queue.counts().scheduled, 1998u);
  EXPECT_EQ(queue.counts().ready, 4u);
  EXPECT_EQ(retry_updates().size(), 1998u);
  EXPECT_THAT(queue.pull(site_a, 100)->recipients, ElementsAre(0, 1));
  pass(minutes(2));
  EXPECT_EQ(queue.counts().ready, 2000u);
}

TEST_F(OwnerQueueTest, AnAnswerInPiecesSurvivesTimersInTheMiddleOfIt) {
  const MessageHead head{.give_up_at = now.wall + minutes(3)};
  for (int i = 0; i < 600; ++i) add({"a"}, head);
  const auto destination = queue.take_destination_to_route();
  queue.on_routed(destination->id, site_a, never, now);
  EXPECT_EQ(queue.counts().ready, 256u);
  pass(minutes(4));
  EXPECT_EQ(settlements().size(), 600u);

  for (int i = 0; i < 600; ++i) add({"a"}, {.give_up_at = now.wall + minutes(3)});
  queue.defer_site(site_a, {}, now);
  pass(minutes(4));
  EXPECT_EQ(settlements().size(), 600u);

  retry = RetryPoint{.attempts = 1, .due = now.wall + seconds(60)};
  for (int i = 0; i < 600; ++i) add({"a"}, {.give_up_at = now.wall + minutes(3)});
  EXPECT_TRUE(queue.flush("a", seconds(10), now));
  pass(minutes(4));
  EXPECT_EQ(settlements().size(), 600u);
  EXPECT_EQ(queue.counts().total(), 0u);
}

TEST_F(OwnerQueueTest, PriorityIsStrictAndTenantsShare) {
  for (int i = 0; i < 400; ++i) add({"a"}, {.tenant = 1});
  for (int i = 0; i < 400; ++i) add({"a"}, {.tenant = 2});
  add({"a"}, {.tenant = 3, .priority = 4});
  add({"a"}, {.tenant = 3, .priority = -4});
  route();
  const auto urgent = queue.pull(site_a, 1);
  EXPECT_EQ(urgent->queue_id.counter(), 801u);
  std::map<bool, int> early;
  for (int i = 0; i < 400; ++i) ++early[queue.pull(site_a, 1)->queue_id.counter() <= 400];
  EXPECT_EQ(early[true], 200);
  EXPECT_EQ(early[false], 200);
  for (int i = 0; i < 400; ++i) EXPECT_NE(queue.pull(site_a, 1)->queue_id.counter(), 802u);
  EXPECT_EQ(queue.pull(site_a, 1)->queue_id.counter(), 802u);
}

class WeightedTest : public OwnerQueueTest {
 protected:
  WeightedTest() : OwnerQueueTest({.tenant_weights = {{.tenant = 1, .weight = 3}}}) {}
};

TEST_F(WeightedTest, TurnsFollowTheWeightsInRecipients) {
  for (int i = 0; i < 1000; ++i) add({"a"}, {.tenant = 1});
  for (int i = 0; i < 200; ++i) add(std::vector<std::string>(10, "a"), {.tenant = 2});
  route();
  int first = 0;
  for (int taken = 0; taken < 800;) {
    const auto work = queue.pull(site_a, 100);
    taken += static_cast<int>(work->recipients.size());
    first += work->recipients.size() == 1;
  }
  EXPECT_EQ(first, 600);
}

TEST_F(OwnerQueueTest, FirstComeFirstServedWithinATenant) {
  std::vector<mail::QueueId> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(add({"a"}));
  route();
  for (const mail::QueueId id : ids) EXPECT_EQ(queue.pull(site_a, 1)->queue_id, id);
}

TEST_F(OwnerQueueTest, WhatIsTooLateByItsSendersWordGetsNoLastChance) {
  retry = RetryPoint{.attempts = 1, .due = now.wall + minutes(1)};
  add({"a", "a"}, {.give_up_at = now.wall - seconds(1), .strict = true});
  add({"a"}, {.give_up_at = now.wall - seconds(1)});
  pass(tick * 2);
  const auto settled = settlements();
  ASSERT_EQ(settled.size(), 2u);
  EXPECT_EQ(settled[0].outcome, SettledAs::expired);
  EXPECT_TRUE(settled[1].last_of_message);
  EXPECT_EQ(queue.counts().total(), 1u);
}

class DelayTest : public OwnerQueueTest {
 protected:
  DelayTest() { warn = true; }
  // One attempt of all that is ready, in vain.
  std::vector<RetryUpdate> attempt() {
    route();
    while (const auto work = queue.pull(site_a, 100)) finish(*work, mail::Outcome::deferred, "busy");
    return retry_updates();
  }
};

TEST_F(DelayTest, IsToldOnceWithTheAttemptThatIsMadeAtThatTime) {
  const WallTime begin = now.wall;
  add({"a"}, {.give_up_at = begin + hours(4), .warn_at = begin + minutes(4)});
  auto updates = attempt();
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_FALSE(updates[0].warn);
  EXPECT_FALSE(updates[0].state.warned);
  int told = 0;
  for (int minute = 1; minute <= 60; ++minute) {
    pass(minutes(1));
    updates = attempt();
    for (const RetryUpdate& update : updates) {
      EXPECT_TRUE(update.attempted);
      EXPECT_EQ(update.state.warned, update.warn || told > 0);
      if (!update.warn) continue;
      ++told;
      // Not at five minutes, when the schedule alone would have come to it.
      EXPECT_LE(now.wall - begin, minutes(5));
      EXPECT_GE(now.wall - begin, minutes(4));
      EXPECT_EQ(update.state.last_reply.text, "busy");
      EXPECT_GE(update.give_up_at, begin + hours(4));
      EXPECT_LE(update.give_up_at, begin + hours(4) + milliseconds(5));
    }
  }
  EXPECT_EQ(told, 1);
}

TEST_F(DelayTest, IsToldOfWhatWaitsForItsTurnAllTheWhile) {
  add({"a"}, {.give_up_at = now.wall + hours(1), .warn_at = now.wall + minutes(10)});
  add({"b"}, {.give_up_at = now.wall + hours(1), .warn_at = now.wall + minutes(10)});
  const auto a = queue.take_destination_to_route();
  queue.on_routed(a->id, site_a, never, now);
  pass(minutes(11) - tick);
  EXPECT_TRUE(retry_updates().empty());
  pass(tick * 2);
  const auto updates = retry_updates();
  ASSERT_EQ(updates.size(), 2u);  // one that is ready, one that has no route
  for (const RetryUpdate& update : updates) {
    EXPECT_TRUE(update.warn);
    EXPECT_FALSE(update.attempted);
    EXPECT_TRUE(update.state.warned);
    EXPECT_EQ(update.state.attempts, 0);
  }
  EXPECT_EQ(queue.counts().ready, 1u);
  EXPECT_EQ(queue.counts().routing, 1u);
  pass(minutes(48));
  EXPECT_TRUE(retry_updates().empty());
  EXPECT_TRUE(settlements().empty());
  pass(minutes(2));
  EXPECT_EQ(settlements().size(), 2u);
}

TEST_F(DelayTest, IsNotToldToThoseWhoDoNotWantItOrWereToldBeforeTheRestart) {
  warn = false;
  retry = RetryPoint{.attempts = 3, .due = now.wall - minutes(1)};
  add({"a"}, {.give_up_at = now.wall + hours(4), .warn_at = now.wall - hours(1)});
  for (int minute = 0; minute < 200; ++minute) {
    pass(minutes(1));
    for (const RetryUpdate& update : attempt()) {
      EXPECT_FALSE(update.warn);
      EXPECT_TRUE(update.state.warned);  // so that it stays untold over the next restart
    }
  }
}

TEST_F(DelayTest, WhoseTimeHasPassedWhileWeWereDownIsToldBehindAnAttempt) {
  retry = RetryPoint{.attempts = 3, .due = now.wall - hours(1)};
  add({"a"}, {.give_up_at = now.wall + hours(4), .warn_at = now.wall - minutes(30)});
  pass(seconds(6));
  auto updates = attempt();
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_FALSE(updates[0].warn);
  pass(minutes(1));
  updates = attempt();
  ASSERT_EQ(updates.size(), 1u);
  EXPECT_TRUE(updates[0].warn);
}

TEST_F(DelayTest, IsToldOfEachRecipientAndNotOfThoseThatAreThere) {
  add({"a", "a", "a"}, {.give_up_at = now.wall + hours(1), .warn_at = now.wall + seconds(30)});
  route();
  pass(minutes(1));
  const auto work = queue.pull(site_a, 100);
  ASSERT_TRUE(work);
  ASSERT_EQ(work->recipients.size(), 3u);
  std::vector<RecipientOutcome> outcomes;
  for (const std::uint16_t recipient : work->recipients) {
    outcomes.push_back(
        {.recipient = recipient,
         .result = {.outcome = recipient == 1 ? mail::Outcome::relayed : mail::Outcome::deferred, .reply = {}}});
  }
  EXPECT_TRUE(queue.on_results(work->delivery, outcomes, now));
  const auto updates = retry_updates();
  ASSERT_EQ(updates.size(), 2u);
  EXPECT_TRUE(updates[0].warn && updates[1].warn);
}

TEST_F(OwnerQueueTest, OverdueRetriesOfARestartAreSpread) {
  retry = RetryPoint{.attempts = 2, .due = now.wall - hours(5)};
  for (int i = 0; i < 100; ++i) add({"a"});
  EXPECT_EQ(queue.counts().scheduled, 100u);
  pass(seconds(2));
  EXPECT_GT(queue.counts().scheduled, 20u);
  EXPECT_GT(queue.counts().routing, 20u);
  pass(seconds(4));
  EXPECT_EQ(queue.counts().routing, 100u);
  route();
  finish(*queue.pull(site_a, 1), mail::Outcome::deferred);
  EXPECT_EQ(retry_updates().at(0).state.attempts, 3);
}

class GatheringTest : public OwnerQueueTest {
 protected:
  GatheringTest() {
    queue.gather();
    retry = RetryPoint{.attempts = 2, .due = now.wall - hours(5)};
  }
};

TEST_F(GatheringTest, OverdueRetriesWaitForTheRestOfTheirDestinations) {
  for (int i = 0; i < 50; ++i) {
    add({"a"});
    add({"b"});
    pass(seconds(1));
    EXPECT_EQ(route(), 0);
  }
  EXPECT_EQ(queue.counts().routing, 100u);
  queue.release(now);
  EXPECT_EQ(route(), 1);
  EXPECT_EQ(queue.ready(site_a), 50u);
  EXPECT_EQ(queue.ready(site_b), 0u);
  pass(seconds(5));
  EXPECT_EQ(route(), 1);
  EXPECT_EQ(queue.ready(site_b), 50u);
}

TEST_F(GatheringTest, ManyDestinationsAreSpread) {
  for (int i = 0; i < 10'000; ++i) add({"a" + std::to_string(i)});
  queue.release(now);
  int asked = route();
  EXPECT_EQ(asked, 1);
  for (int second = 1; second < 5; ++second) {
    for (int i = 0; i < 50; ++i) {
      pass(milliseconds(20));
      asked += route();
    }
    EXPECT_NEAR(asked, 2000 * second, 1);
  }
  pass(seconds(1));
  EXPECT_EQ(asked + route(), 10'000);
  EXPECT_EQ(queue.counts().ready, 10'000u);
}

TEST_F(GatheringTest, WhatComesDueTakesAlongWhatHasGatheredForItsDestination) {
  add({"a"});
  add({"b"});
  retry.reset();
  add({"a"});
  EXPECT_EQ(route(), 1);
  EXPECT_EQ(queue.ready(site_a), 2u);
  EXPECT_EQ(queue.ready(site_b), 0u);
}

TEST_F(GatheringTest, AKnownRouteIsNoReasonToStay) {
  retry.reset();
  add({"a"});
  EXPECT_EQ(route(), 1);
  retry = RetryPoint{.attempts = 2, .due = now.wall - hours(5)};
  add({"a"});
  EXPECT_EQ(queue.ready(site_a), 1u);
  queue.release(now);
  EXPECT_EQ(route(), 1);
  EXPECT_EQ(queue.ready(site_a), 2u);
}

TEST_F(GatheringTest, RetriesThatComeDueMeanwhileGatherToo) {
  retry->due = now.wall + seconds(10);
  add({"a"});
  pass(seconds(10) + tick);
  EXPECT_EQ(queue.counts().routing, 1u);
  EXPECT_EQ(route(), 0);
  queue.release(now);
  EXPECT_EQ(route(), 1);
  EXPECT_EQ(queue.ready(site_a), 1u);
}

TEST_F(GatheringTest, FlushReleasesWhatHasGathered) {
  add({"a"});
  EXPECT_TRUE(queue.flush("a", Duration(0), now));
  EXPECT_EQ(route(), 1);
  EXPECT_EQ(queue.ready(site_a), 1u);
}

TEST_F(GatheringTest, WhatGathersExpiresAllTheSame) {
  add({"a"}, {.give_up_at = now.wall + minutes(1)});
  pass(minutes(2));
  EXPECT_EQ(settlements().at(0).outcome, SettledAs::expired);
  queue.release(now);
  EXPECT_EQ(route(), 0);
  EXPECT_EQ(queue.destination_count(), 0u);
}

TEST_F(GatheringTest, HeldMailAndRetriesOfTheFutureWaitForTheirTime) {
  add({"a"}, {.hold_until = now.wall + minutes(1)});
  retry->due = now.wall + minutes(1);
  add({"a"});
  queue.release(now);
  EXPECT_EQ(queue.counts().scheduled, 2u);
  EXPECT_EQ(route(), 0);
  pass(minutes(1) + tick);
  EXPECT_EQ(route(), 1);
  EXPECT_EQ(queue.ready(site_a), 2u);
}

TEST_F(OwnerQueueTest, ADueTimeFromAWrongClockDelaysNoLongerThanTheSchedule) {
  retry = RetryPoint{.attempts = 1, .due = now.wall + hours(24 * 365)};
  add({"a"});
  pass(minutes(6));
  EXPECT_EQ(queue.counts().routing, 1u);
}

TEST_F(OwnerQueueTest, WhatExpiredWhileWeWereDownGetsOneAttempt) {
  add({"a"}, {.give_up_at = now.wall - hours(5)});
  route();
  EXPECT_TRUE(queue.has_ready(site_a));
  pass(minutes(11));
  EXPECT_EQ(settlements().size(), 1u);
}

TEST_F(OwnerQueueTest, AStepOfTheWallClockMovesNothing) {
  add({"a"});
  route();
  finish(*queue.pull(site_a, 1), mail::Outcome::deferred);
  now.wall += hours(1000);
  run();
  EXPECT_EQ(queue.counts().scheduled, 1u);
  now.wall -= hours(2000);
  pass(minutes(2));
  EXPECT_EQ(queue.counts().scheduled, 0u);
}

TEST_F(OwnerQueueTest, AHeldMessageWaits) {
  add({"a"}, {.hold_until = now.wall + hours(1)});
  EXPECT_EQ(queue.counts().scheduled, 1u);
  EXPECT_TRUE(queue.flush("a", {}, now));
  pass(minutes(59));
  EXPECT_EQ(queue.counts().scheduled, 1u) << "a flush releases nothing";
  pass(minutes(1) + tick);
  EXPECT_EQ(queue.counts().routing, 1u);
}

TEST_F(OwnerQueueTest, FlushMakesADestinationDueOverASpan) {
  add({"a"});
  add({"b"});
  route();
  finish(*queue.pull(site_a, 1), mail::Outcome::deferred);
  finish(*queue.pull(site_b, 1), mail::Outcome::deferred);
  EXPECT_FALSE(queue.flush("c", {}, now));
  EXPECT_TRUE(queue.flush("a", {}, now));
  pass(tick);
  EXPECT_TRUE(queue.has_ready(site_a));
  EXPECT_FALSE(queue.has_ready(site_b));
  EXPECT_FALSE(queue.flush("a", {}, now));
}

TEST_F(OwnerQueueTest, AMovedRecordIsFoundAtItsNewPlace) {
  const auto id = add({"a"});
  route();
  queue.on_moved(id, {.log = static_cast<std::uint16_t>(id.log()), .length = 64, .position = 42});
  queue.on_moved(mail::QueueId{123456}, {});
  EXPECT_EQ(queue.pull(site_a, 1)->location.position, 42u);
}

TEST_F(OwnerQueueTest, ADeferredRecipientTakesAtMost128Bytes) {
  constexpr std::size_t count = 60'000;
  const std::size_t before = queue.memory_bytes();
  retry = RetryPoint{.attempts = 1, .due = now.wall + minutes(1)};
  for (std::size_t i = 0; i < count; ++i) add({"a" + std::to_string(i % 1000)});
  EXPECT_LE((queue.memory_bytes() - before) / count, 128u);
}

// Random driving: what came in goes out exactly once, counts agree, nothing is left behind.
TEST_F(OwnerQueueTest, EveryRecipientIsSettledExactlyOnce) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    Random random(seed);
    OwnerQueue q({.schedule = RetrySchedule({seconds(10), minutes(1)}),
                  .idle_destinations_max = 3,
                  .batch_max = 1 + random.below(8)},
                 Random(seed));
    std::map<std::pair<std::uint64_t, std::uint16_t>, int> open;
    std::map<std::uint64_t, int> left;
    std::vector<Work> works;
    std::vector<DestinationId> asked;
    std::uint32_t id = 1;
    const auto drain = [&] {
      while (const auto settlement = q.take_settlement()) {
        ASSERT_EQ(open.erase({settlement->queue_id.value, settlement->recipient}), 1u);
        ASSERT_EQ(--left[settlement->queue_id.value] == 0, settlement->last_of_message);
      }
      while (const auto update = q.take_retry_update())
        ASSERT_TRUE(open.contains({update->queue_id.value, update->recipient}));
      while (q.take_notice()) continue;
      ASSERT_EQ(q.counts().total(), open.size());
    };
    for (int step = 0; step < 4000; ++step) {
      const bool ending = step > 3000;
      const auto what = random.below(10);
      if (what < 2 && !ending) {
        std::vector<NewRecipient> recipients;
        const auto count = static_cast<std::uint16_t>(1 + random.below(random.below(3) ? 1 : 12));
        static constexpr std::array<std::string_view, 5> names{"a", "b", "c", "d", "e"};
        const mail::QueueId queue_id = mail::QueueId::from_parts(0, 1, id++);
        for (std::uint16_t i = 0; i < count; ++i) {
          recipients.push_back({.index = i, .destination = names[random.below(5)], .hash = 0, .retry = {}});
          open[{queue_id.value, i}] = 1;
        }
        left[queue_id.value] = count;
        q.add({.queue_id = queue_id,
               .give_up_at = now.wall + seconds(random.below(600)),
               .tenant = static_cast<std::uint32_t>(random.below(3)),
               .priority = static_cast<std::int8_t>(random.below(2))},
              recipients, now);
      } else if (what < 4) {
        if (const auto destination = q.take_destination_to_route()) asked.push_back(destination->id);
      } else if (what < 5 && !asked.empty()) {
        const DestinationId destination = asked.back();
        asked.pop_back();
        const auto answer = random.below(10);
        if (answer < 8) {
          q.on_routed(destination, SiteId{random.below(3)}, now.monotonic + seconds(random.below(200)), now);
        } else if (answer < 9) {
          q.on_route_deferred(destination, {}, now);
        } else {
          q.on_route_failed(destination, {}, now);
        }
      } else if (what < 7) {
        if (auto work = q.pull(SiteId{random.below(3)}, static_cast<std::uint32_t>(1 + random.below(5))))
          works.push_back(*std::move(work));
      } else if (what < 8 && !works.empty()) {
        const std::size_t at = random.below(works.size());
        std::vector<RecipientOutcome> outcomes;
        for (const std::uint16_t recipient : works[at].recipients) {
          const auto outcome = random.below(4);
          if (outcome < 3) outcomes.push_back({recipient, {static_cast<mail::Outcome>(outcome), {}}});
        }
        ASSERT_TRUE(q.on_results(works[at].delivery, outcomes, now));
        works.erase(works.begin() + static_cast<std::ptrdiff_t>(at));
      } else if (random.below(20) == 0) {
        q.defer_site(SiteId{random.below(3)}, {}, now);
      } else if (random.below(20) == 0) {
        (void)q.flush("a", seconds(3), now);
      } else {
        const Duration time = milliseconds(random.below(3000));
        now.monotonic += time;
        now.wall += time;
        q.on_deadline(now);
      }
      drain();
      if (HasFatalFailure()) return;
    }
    for (const Work& work : works) ASSERT_TRUE(q.on_not_attempted(work.delivery, now));
    for (int i = 0; i < 100'000 && !open.empty(); ++i) {
      now.monotonic += seconds(1);
      now.wall += seconds(1);
      q.on_deadline(now);
      drain();
      if (HasFatalFailure()) return;
    }
    EXPECT_TRUE(open.empty());
    EXPECT_EQ(q.message_count(), 0u);
    EXPECT_EQ(q.site_count(), 0u);
    EXPECT_EQ(q.next_deadline(), never);
  }
}

}  // namespace
}  // namespace postern::queue
