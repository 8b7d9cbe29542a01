#include <set>
#include <string>

#include <gtest/gtest.h>

#include <postern/queue/path_backoff.h>
#include <postern/queue/retry_schedule.h>
#include <postern/queue/retry_state.h>

namespace postern::queue {
namespace {

using std::chrono::hours;
using std::chrono::minutes;
using std::chrono::seconds;

TEST(RetrySchedule, TakesItsWaitsInOrderAndRepeatsTheLast) {
  const RetrySchedule schedule({minutes(1), minutes(5), hours(1)});
  Random random(1);
  const auto near = [&](std::uint32_t attempts, Duration wait) {
    for (int i = 0; i < 1000; ++i) {
      const Duration got = schedule.wait_after(attempts, random);
      EXPECT_GE(got, wait * 9 / 10);
      EXPECT_LE(got, wait * 11 / 10);
      EXPECT_LE(got, schedule.longest());
    }
  };
  near(1, minutes(1));
  near(2, minutes(5));
  near(3, hours(1));
  near(4, hours(1));
  near(65'535, hours(1));
}

TEST(RetrySchedule, WaitsAreSpread) {
  const RetrySchedule schedule;
  Random random(1);
  std::set<Duration> waits;
  for (int i = 0; i < 100; ++i) waits.insert(schedule.wait_after(1, random));
  EXPECT_GT(waits.size(), 95u);
}

TEST(RetryState, SurvivesItsEncoding) {
  RetryState state{.attempts = 513,
                   .due = WallTime(hours(500'000)),
                   .last_reply = {.code = 451, .status = {4, 3, 999}, .text = "two\nlines \xFF"}};
  std::string bytes;
  encode_retry_state(state, bytes);
  const auto decoded = decode_retry_state(as_bytes(bytes));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->attempts, state.attempts);
  EXPECT_EQ(decoded->due, state.due);
  EXPECT_EQ(decoded->last_reply.code, 451);
  EXPECT_EQ(decoded->last_reply.status, state.last_reply.status);
  EXPECT_EQ(decoded->last_reply.text, state.last_reply.text);
  EXPECT_FALSE(decoded->warned);
}

TEST(RetryState, OneWhoseSenderWasToldIsOneThatOlderReadersRefuse) {
  std::string told;
  encode_retry_state({.attempts = 3, .due = {}, .last_reply = {}, .warned = true}, told);
  std::string untold;
  encode_retry_state({.attempts = 3, .due = {}, .last_reply = {}}, untold);
  EXPECT_EQ(untold.front(), 1);
  EXPECT_EQ(told.front(), 2);
  EXPECT_EQ(told.substr(1), untold.substr(1));
  const auto decoded = decode_retry_state(as_bytes(told));
  ASSERT_TRUE(decoded.ok());
  EXPECT_TRUE(decoded->warned);
}

TEST(RetryState, IsBoundedWhateverThePeerSaid) {
  RetryState state;
  state.last_reply.text = std::string(10'000, 'x');
  std::string bytes;
  encode_retry_state(state, bytes);
  EXPECT_EQ(bytes.size(), retry_state_bytes_max);
  const auto decoded = decode_retry_state(as_bytes(bytes));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->last_reply.text, std::string(retry_reply_text_max, 'x'));
}

TEST(RetryState, EveryCutAndEveryLengthThatLiesIsRefused) {
  std::string bytes;
  encode_retry_state({.attempts = 1, .due = {}, .last_reply = {.code = 400, .status = {}, .text = "text"}}, bytes);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(decode_retry_state(as_bytes(std::string_view(bytes).substr(0, size))).ok());
  }
  EXPECT_FALSE(decode_retry_state(as_bytes(bytes + "x")).ok());
  std::string other_version = bytes;
  other_version[0] = 9;
  EXPECT_FALSE(decode_retry_state(as_bytes(other_version)).ok());
}

TEST(PathBackoff, DoublesUpToItsMaximumAndForgetsAtSuccess) {
  PathBackoff backoff;
  Random random(1);
  Instant now{hours(1)};
  EXPECT_FALSE(backoff.held(now));
  Duration expected = seconds(1);
  for (int i = 0; i < 15; ++i) {
    backoff.on_failure(now, random);
    EXPECT_TRUE(backoff.probing());
    EXPECT_GE(backoff.hold_until() - now, expected * 9 / 10);
    EXPECT_LE(backoff.hold_until() - now, expected * 11 / 10);
    const Instant hold_until = backoff.hold_until();
    backoff.on_failure(now + std::chrono::milliseconds(1), random);
    EXPECT_EQ(backoff.hold_until(), hold_until) << "connections begun before the hold do not lengthen it";
    now = hold_until;
    EXPECT_FALSE(backoff.held(now));
    expected = std::min<Duration>(expected * 2, minutes(5));
  }
  backoff.on_success();
  EXPECT_FALSE(backoff.probing());
}

}  // namespace
}  // namespace postern::queue
