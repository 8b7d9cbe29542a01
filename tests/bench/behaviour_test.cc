// A sink's misbehaviour as written on the command line.
#include "bench/behaviour.h"

#include <gtest/gtest.h>

namespace postern::bench {
namespace {

TEST(Behaviour, AReplyHasCodeStatusAndText) {
  Behaviour behaviour;
  ASSERT_TRUE(behaviour.add_reply("rcpt=450 4.2.0 Busy, try @ later").ok());
  Random random(1);
  const Act act = behaviour.at(Stage::rcpt, random);
  ASSERT_NE(act.reply, nullptr);
  EXPECT_EQ(act.reply->code, 450);
  EXPECT_EQ(act.reply->status, (mail::EnhancedStatus{4, 2, 0}));
  EXPECT_EQ(act.reply->text, "Busy, try @ later");
  EXPECT_EQ(behaviour.at(Stage::mail, random).reply, nullptr);
}

TEST(Behaviour, ACodeAloneIsEnough) {
  Behaviour behaviour;
  ASSERT_TRUE(behaviour.add_reply("end=554").ok());
  Random random(1);
  EXPECT_EQ(behaviour.at(Stage::end, random).reply->code, 554);
  EXPECT_FALSE(behaviour.at(Stage::end, random).reply->text.empty());
}

TEST(Behaviour, SharesAreKept) {
  Behaviour behaviour;
  ASSERT_TRUE(behaviour.add_hang_up("data@2.5%").ok());
  Random random(3);
  int hang_ups = 0;
  for (int i = 0; i < 100'000; ++i) hang_ups += behaviour.at(Stage::data, random).hang_up ? 1 : 0;
  EXPECT_NEAR(hang_ups, 2500, 200);
}

TEST(Behaviour, DelaysAddUpAndTheFirstAnswerCounts) {
  Behaviour behaviour;
  EXPECT_TRUE(behaviour.good());
  ASSERT_TRUE(behaviour.add_delay("mail=50ms").ok());
  ASSERT_TRUE(behaviour.add_delay("mail=1s").ok());
  ASSERT_TRUE(behaviour.add_reply("mail=421 4.3.2 Later").ok());
  ASSERT_TRUE(behaviour.add_hang_up("mail").ok());
  EXPECT_FALSE(behaviour.good());
  Random random(1);
  const Act act = behaviour.at(Stage::mail, random);
  EXPECT_EQ(act.delay, std::chrono::milliseconds(1050));
  EXPECT_EQ(act.reply->code, 421);
  EXPECT_FALSE(act.hang_up);
}

TEST(Behaviour, WhatIsNoRuleIsRefusedWithAReason) {
  Behaviour behaviour;
  for (const char* text : {"", "rcpt", "rcpt=", "rcpt=250 Fine", "rcpt=4500", "rcpt=45", "nowhere=450", "rcpt=450@0%",
                           "rcpt=450@101%", "rcpt=450@x%", "rcpt=450@1.23456%"}) {
    EXPECT_FALSE(behaviour.add_reply(text).ok()) << text;
  }
  for (const char* text : {"end", "end=", "end=5", "end=5ms@%"}) EXPECT_FALSE(behaviour.add_delay(text).ok()) << text;
  for (const char* text : {"", "end=1", "end@0%"}) EXPECT_FALSE(behaviour.add_hang_up(text).ok()) << text;
  EXPECT_TRUE(behaviour.good());
  for (std::size_t i = 0; i < Behaviour::rules_max; ++i) ASSERT_TRUE(behaviour.add_hang_up("end@1%").ok());
  EXPECT_FALSE(behaviour.add_hang_up("end@1%").ok());
}

}  // namespace
}  // namespace postern::bench
