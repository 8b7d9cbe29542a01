#include <gtest/gtest.h>

#include <postern/mail/queue_id.h>

namespace postern::mail {
namespace {

TEST(QueueId, PartsSurviveTheText) {
  const QueueId id = QueueId::from_parts(QueueId::log_max, QueueId::start_max, 0xFFFFFFFF);
  EXPECT_EQ(id.to_string(), "FZZZZZZZZZZZZ");
  EXPECT_EQ(QueueId::parse(id.to_string()), id);
  const QueueId other = QueueId::from_parts(5, 77, 123456);
  EXPECT_EQ(other.log(), 5u);
  EXPECT_EQ(other.start(), 77u);
  EXPECT_EQ(other.counter(), 123456u);
  EXPECT_EQ(QueueId::parse(other.to_string()), other);
}

TEST(QueueId, RefusesWhatItWouldNotWrite) {
  EXPECT_FALSE(QueueId::parse(""));
  EXPECT_FALSE(QueueId::parse("000000000000"));
  EXPECT_FALSE(QueueId::parse("00000000000000"));
  EXPECT_FALSE(QueueId::parse("G000000000000")) << "more than 64 bits";
  EXPECT_FALSE(QueueId::parse("000000000000U")) << "not in the alphabet";
  EXPECT_TRUE(QueueId::parse("000000000000z"));
}

}  // namespace
}  // namespace postern::mail
