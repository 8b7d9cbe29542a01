// What a next hop's answer to RCPT becomes for our client, and how answers are kept.
#include <chrono>
#include <string>

#include <gtest/gtest.h>

#include <postern/policy/callout.h>

namespace postern::policy {
namespace {

using std::chrono::seconds;
using Kind = CalloutAnswer::Kind;

constexpr Instant start{std::chrono::hours(1)};

mail::Reply said(mail::ReplyCode code, mail::EnhancedStatus status, std::string text) {
  return {.code = code, .status = status, .text = std::move(text)};
}

TEST(Callout, TheNextHopsRefusalBecomesOurs) {
  const CalloutAnswer refused = judge_callout(said(550, {5, 2, 1}, "Mailbox disabled"));
  EXPECT_EQ(refused.kind, Kind::refused);
  EXPECT_EQ(refused.reply.to_log_text(), "550 5.2.1 Mailbox disabled");
  // Without a status of its own, or with one of another class.
  EXPECT_EQ(judge_callout(said(553, {}, "No")).reply.to_log_text(), "550 5.1.1 No");
  EXPECT_EQ(judge_callout(said(551, {4, 1, 1}, "No")).reply.to_log_text(), "550 5.1.1 No");
  EXPECT_EQ(judge_callout(said(554, {5, 7, 1}, "Relay access denied")).kind, Kind::refused);
}

TEST(Callout, ATemporaryAnswerIs450) {
  const CalloutAnswer later = judge_callout(said(451, {4, 7, 1}, "Greylisted"));
  EXPECT_EQ(later.kind, Kind::put_off);
  EXPECT_EQ(later.reply.to_log_text(), "450 4.7.1 Greylisted");
  EXPECT_EQ(judge_callout(said(452, {}, "Full")).reply.to_log_text(), "450 4.1.1 Full");
  const CalloutAnswer full = judge_callout(said(552, {5, 2, 2}, "Full"));
  EXPECT_EQ(full.kind, Kind::put_off);
  EXPECT_EQ(full.reply.to_log_text(), "450 4.2.2 Full");
}

TEST(Callout, WhatIsNotAboutTheRecipientIsNoAnswer) {
  for (const int code : {0, 354, 421, 500, 501, 502, 503, 504, 530, 535, 538}) {
    EXPECT_EQ(judge_callout(said(static_cast<mail::ReplyCode>(code), {}, "x")).kind, Kind::unknown) << code;
  }
  EXPECT_EQ(judge_callout(said(250, {2, 1, 5}, "Ok")).kind, Kind::taken);
  EXPECT_EQ(judge_callout(said(503, {5, 5, 1}, "MAIL first")).kind, Kind::unknown);
  // Postfix says so of addresses that it finds malformed.
  EXPECT_EQ(judge_callout(said(501, {5, 1, 3}, "Bad recipient address syntax")).kind, Kind::refused);
}

TEST(Callout, ThePeersTextIsOneLineOfPrintableAsciiAndBounded) {
  EXPECT_EQ(judge_callout(said(550, {5, 1, 1}, "No\x01 r\xC3\xA9ply\nsecond line")).reply.text, "No? r??ply");
  EXPECT_EQ(judge_callout(said(550, {}, std::string(5000, 'x'))).reply.text.size(), callout_text_max);
  EXPECT_FALSE(judge_callout(said(550, {}, "")).reply.text.empty());
  EXPECT_FALSE(judge_callout(said(550, {}, "\n550 5.1.1 x")).reply.text.empty());
}

CalloutAnswer taken() {
  return {.kind = Kind::taken};
}
CalloutAnswer refused() {
  return judge_callout(said(550, {5, 1, 1}, "No"));
}

TEST(CalloutCache, KeepsAnswersForTheirTimes) {
  CalloutCache cache({.entries_max = 100, .taken_life = seconds(100), .refused_life = seconds(10)});
  cache.keep("yes@x.test", taken(), start);
  cache.keep("no@x.test", refused(), start);
  cache.keep("later@x.test", {.kind = Kind::put_off}, start);
  cache.keep("unknown@x.test", {}, start);
  EXPECT_EQ(cache.size(), 2U);
  ASSERT_NE(cache.find("no@x.test", start + seconds(9)), nullptr);
  EXPECT_EQ(cache.find("no@x.test", start + seconds(9))->reply.to_log_text(), "550 5.1.1 No");
  EXPECT_EQ(cache.find("no@x.test", start + seconds(10)), nullptr);
  ASSERT_NE(cache.find("yes@x.test", start + seconds(99)), nullptr);
  EXPECT_EQ(cache.find("yes@x.test", start + seconds(99))->kind, Kind::taken);
  EXPECT_EQ(cache.find("yes@x.test", start + seconds(100)), nullptr);
  EXPECT_EQ(cache.size(), 0U);
}

TEST(CalloutCache, ANewAnswerReplacesTheOldOne) {
  CalloutCache cache({});
  cache.keep("a@x.test", taken(), start);
  cache.keep("a@x.test", {.kind = Kind::put_off}, start);  // says nothing against it
  EXPECT_EQ(cache.find("a@x.test", start)->kind, Kind::taken);
  cache.keep("a@x.test", refused(), start);
  EXPECT_EQ(cache.find("a@x.test", start)->kind, Kind::refused);
  EXPECT_EQ(cache.size(), 1U);
  cache.reset({});
  EXPECT_EQ(cache.find("a@x.test", start), nullptr);
}

TEST(CalloutCache, WhoeverTriesMadeUpAddressesDrivesOutOnlyThose) {
  CalloutCache cache({.entries_max = 10});
  for (int i = 0; i < 5; ++i) cache.keep("user" + std::to_string(i), taken(), start);
  for (int i = 0; i < 10'000; ++i) cache.keep("none" + std::to_string(i), refused(), start);
  EXPECT_EQ(cache.size(), 10U);
  for (int i = 0; i < 5; ++i) EXPECT_NE(cache.find("user" + std::to_string(i), start), nullptr) << i;
  EXPECT_EQ(cache.find("none9994", start), nullptr);
  EXPECT_NE(cache.find("none9995", start), nullptr);
  cache.keep("user5", taken(), start);
  EXPECT_EQ(cache.find("user0", start), nullptr);
  EXPECT_EQ(cache.size(), 10U);
}

}  // namespace
}  // namespace postern::policy
