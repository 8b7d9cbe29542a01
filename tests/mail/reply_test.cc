#include <gtest/gtest.h>

#include <postern/mail/reply.h>

namespace postern::mail {
namespace {

TEST(EnhancedStatus, TextAndValueAreTheSame) {
  const auto status = EnhancedStatus::parse("5.1.10 No mail here");
  ASSERT_TRUE(status);
  EXPECT_EQ(status->class_digit, 5);
  EXPECT_EQ(status->subject, 1);
  EXPECT_EQ(status->detail, 10);
  EXPECT_EQ(status->to_string(), "5.1.10");
  EXPECT_EQ(EnhancedStatus::parse(status->to_string()), status);
  EXPECT_EQ(EnhancedStatus{}.to_string(), "");
  EXPECT_TRUE(EnhancedStatus::parse("4.999.999"));
}

TEST(EnhancedStatus, RefusesWhatRfc3463DoesNotAllow) {
  for (const char* text : {"", "5", "5.", "5.1", "5.1.", "5.1.1x", "5.1.1.1", "3.1.1", "1.1.1", "0.0.0", "5..1",
                           "5.1000.1", "5.1.1000", "55.1.1", " 5.1.1", "5.1.1-x", "5.-1.1", "5.1.1\t"}) {
    EXPECT_FALSE(EnhancedStatus::parse(text)) << text;
  }
}

TEST(Reply, LogTextShowsCodeStatusAndEscapedText) {
  Reply reply{.code = 550, .status = {5, 1, 1}, .text = "No such user"};
  EXPECT_EQ(reply.to_log_text(), "550 5.1.1 No such user");
  reply.text = "first\nsecond\x1b[31m \xC3\xA9 \\";
  EXPECT_EQ(reply.to_log_text(), "550 5.1.1 first second\\x1B[31m \\xC3\\xA9 \\\\");
  reply.code = 0;
  reply.status = {};
  reply.text = "connection lost";
  EXPECT_EQ(reply.to_log_text(), "connection lost");
}

TEST(Reply, LogTextNeverExceedsItsBound) {
  const Reply reply{.code = 451, .status = {4, 3, 0}, .text = std::string(300, '\x01')};
  for (std::size_t size_max = 0; size_max < 60; ++size_max) {
    const std::string text = reply.to_log_text(size_max);
    EXPECT_LE(text.size(), size_max);
    const std::size_t escape = text.rfind('\\');
    if (escape != std::string::npos) {
      EXPECT_TRUE(text.size() >= escape + 4) << "half an escape: " << text;
    }
  }
}

}  // namespace
}  // namespace postern::mail
