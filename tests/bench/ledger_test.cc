// What the ledger calls arrived, twice, changed, foreign and outstanding.
#include "bench/ledger.h"

#include <gtest/gtest.h>

namespace postern::bench {
namespace {

constexpr std::uint64_t run = 5;

Instant at_ms(int ms) {
  return Instant(std::chrono::milliseconds(1000 + ms));
}

ContentCheck::Result content(MessageNumber message, std::uint32_t recipients = 1, bool intact = true,
                             std::uint64_t of_run = run) {
  return {.mark = Mark{.run = of_run, .message = message, .recipients = recipients}, .intact = intact};
}

TEST(Ledger, AcceptedAndArrivedIsSettledWithItsTransit) {
  Ledger ledger(run);
  ledger.on_accepted({0, 0}, 1, at_ms(10));
  EXPECT_EQ(ledger.outstanding(), 1u);
  ledger.on_arrived(content(0), RecipientNumber{0, 0}, at_ms(25));
  EXPECT_EQ(ledger.outstanding(), 0u);
  EXPECT_EQ(ledger.counts().arrived, 1u);
  EXPECT_EQ(ledger.counts().accepted, 1u);
  EXPECT_EQ(ledger.transit().max(), std::chrono::milliseconds(15));
}

TEST(Ledger, ArrivedBeforeTheReplyWasReadHasATransitOfZero) {
  Ledger ledger(run);
  ledger.on_arrived(content(0), RecipientNumber{0, 0}, at_ms(10));
  ledger.on_accepted({0, 0}, 1, at_ms(12));
  EXPECT_EQ(ledger.outstanding(), 0u);
  EXPECT_EQ(ledger.transit().count(), 1u);
  EXPECT_EQ(ledger.transit().max(), Duration::zero());
}

TEST(Ledger, ASecondArrivalCountsAsTwice) {
  Ledger ledger(run);
  ledger.on_arrived(content(3), RecipientNumber{3, 0}, at_ms(0));
  ledger.on_arrived(content(3), RecipientNumber{3, 0}, at_ms(1));
  EXPECT_EQ(ledger.counts().arrived, 1u);
  EXPECT_EQ(ledger.counts().twice, 1u);
}

TEST(Ledger, ChangedBodiesAndOtherMessagesContentCountAsChanged) {
  Ledger ledger(run);
  ledger.on_arrived(content(1, 1, false), RecipientNumber{1, 0}, at_ms(0));
  ledger.on_arrived(content(2), RecipientNumber{7, 0}, at_ms(1));
  EXPECT_EQ(ledger.counts().changed, 2u);
  EXPECT_EQ(ledger.counts().arrived, 2u);
}

TEST(Ledger, WhatIsNotOfThisRunIsForeign) {
  Ledger ledger(run);
  ledger.on_arrived({}, RecipientNumber{0, 0}, at_ms(0));
  ledger.on_arrived(content(0, 1, true, run + 1), RecipientNumber{0, 0}, at_ms(0));
  ledger.on_arrived(content(0), std::nullopt, at_ms(0));
  ledger.on_arrived(content(0, 2), RecipientNumber{0, 1}, at_ms(0));  // names the recipients of the run
  ledger.on_arrived(content(0, 2), RecipientNumber{0, 2}, at_ms(0));  // an index that there is not
  ledger.on_arrived(content(0, 3), RecipientNumber{0, 0}, at_ms(0));  // another count of recipients
  ledger.on_arrived(content(0xFFFF'FFFF, 2), RecipientNumber{0xFFFF'FFFF, 0}, at_ms(0));  // no place for it
  EXPECT_EQ(ledger.counts().foreign, 6u);
  EXPECT_EQ(ledger.counts().arrived, 1u);
}

TEST(Ledger, TheFirstMarkNamesTheRunWhenNoneWasGiven) {
  Ledger ledger;
  ledger.on_arrived(content(0), RecipientNumber{0, 0}, at_ms(0));
  ledger.on_arrived(content(1, 1, true, run + 1), RecipientNumber{1, 0}, at_ms(0));
  EXPECT_EQ(ledger.counts().arrived, 1u);
  EXPECT_EQ(ledger.counts().foreign, 1u);
}

TEST(Ledger, MissingCountsRecipientsBelowANumberOfMessages) {
  Ledger ledger(run);
  EXPECT_EQ(ledger.missing(10), 10u) << "nothing came";
  for (const MessageNumber message : {0u, 1u, 3u, 9'000u}) {
    ledger.on_arrived(content(message, 2), RecipientNumber{message, 0}, at_ms(0));
    ledger.on_arrived(content(message, 2), RecipientNumber{message, 1}, at_ms(0));
  }
  ledger.on_arrived(content(2, 2), RecipientNumber{2, 1}, at_ms(0));
  EXPECT_EQ(ledger.missing(4), 1u);
  EXPECT_EQ(ledger.missing(2), 0u);
  EXPECT_EQ(ledger.messages_seen(), 9'001u);
  EXPECT_EQ(ledger.missing(9'001), 9'001u * 2 - 9);
  EXPECT_EQ(ledger.missing(100'000), 200'000u - 9);
}

TEST(Ledger, HasABound) {
  EXPECT_TRUE(Ledger::holds(0, recipients_max));
  EXPECT_TRUE(Ledger::holds(Ledger::deliveries_max - 1, 1));
  EXPECT_FALSE(Ledger::holds(Ledger::deliveries_max, 1));
  EXPECT_FALSE(Ledger::holds(Ledger::deliveries_max / 2, 2));
}

}  // namespace
}  // namespace postern::bench
