// ReplyParser: what peers say, at every split, within its bounds.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include <postern/smtp/reply_parser.h>

namespace postern::smtp {
namespace {

using namespace std::literals;
using Result = ReplyParser::Result;

// Everything that `bytes` holds, read in pieces of `piece` bytes: replies as text, "!" for malformed, "…" for a rest.
std::vector<std::string> read_all(std::string_view bytes, std::size_t piece) {
  ReplyParser parser;
  std::vector<std::string> seen;
  while (!bytes.empty()) {
    std::string_view part = bytes.substr(0, piece);
    bytes.remove_prefix(part.size());
    while (!part.empty()) {
      const ReplyParser::Progress progress = parser.on_bytes(as_bytes(part));
      part.remove_prefix(progress.consumed);
      if (progress.result == Result::malformed) {
        seen.emplace_back("!");
        return seen;
      }
      if (progress.result == Result::incomplete) {
        EXPECT_TRUE(part.empty());
        continue;
      }
      const mail::Reply& reply = parser.reply();
      seen.push_back(std::to_string(reply.code) + "|" + reply.status.to_string() + "|" + reply.text);
    }
  }
  if (parser.within_reply()) seen.emplace_back("…");
  return seen;
}

std::vector<std::string> read(std::string_view bytes) {
  std::vector<std::string> whole = read_all(bytes, bytes.size());
  for (std::size_t piece = 1; piece < std::min<std::size_t>(bytes.size(), 40); ++piece) {
    EXPECT_EQ(read_all(bytes, piece), whole) << "in pieces of " << piece << ": " << ::testing::PrintToString(bytes);
  }
  return whole;
}

using Replies = std::vector<std::string>;

TEST(ReplyParser, ReadsCodeStatusAndText) {
  EXPECT_EQ(read("250 2.0.0 Ok: queued\r\n"), Replies{"250|2.0.0|Ok: queued"});
  EXPECT_EQ(read("220 mx ESMTP\r\n250 Ok\r\n"), (Replies{"220||mx ESMTP", "250||Ok"}));
  EXPECT_EQ(read("354 go\r\n"), Replies{"354||go"});
}

TEST(ReplyParser, JoinsTheLinesOfOneReply) {
  EXPECT_EQ(read("250-mx\r\n250-SIZE 1\r\n250 HELP\r\n"), Replies{"250||mx\nSIZE 1\nHELP"});
  EXPECT_EQ(read("550-5.1.1 no\r\n550-5.1.1 such\r\n550 5.1.1 user\r\n"), Replies{"550|5.1.1|no\nsuch\nuser"});
  EXPECT_EQ(read("550-5.1.1 no\r\n550 5.7.1 other\r\n"), Replies{"550|5.1.1|no\n5.7.1 other"});
}

TEST(ReplyParser, TakesRepliesWithoutText) {
  EXPECT_EQ(read("250\r\n"), Replies{"250||"});
  EXPECT_EQ(read("250 \r\n"), Replies{"250||"});
  EXPECT_EQ(read("250-\r\n250\r\n"), Replies{"250||\n"});
  EXPECT_EQ(read("550 5.1.1\r\n"), Replies{"550|5.1.1|"});
}

TEST(ReplyParser, TakesWhatPeersSendBeyondTheGrammar) {
  EXPECT_EQ(read("250 ok\n"), Replies{"250||ok"});
  EXPECT_EQ(read("250-a\n250 b\n"), Replies{"250||a\nb"});
  EXPECT_EQ(read("250\n"), Replies{"250||"});
  EXPECT_EQ(read("250 ok\r\r\n"), Replies{"250||ok"});
  EXPECT_EQ(read("250 o\rk\r\n"), Replies{"250||ok"});
  EXPECT_EQ(read("571 5.7.1 no\r\n"), Replies{"571|5.7.1|no"});
  EXPECT_EQ(read("250\tok\r\n"), Replies{"250||ok"});
  EXPECT_EQ(read("250-a\r\n550 b\r\n"), Replies{"550||a\nb"});
}

TEST(ReplyParser, AStatusOfAnotherClassIsText) {
  EXPECT_EQ(read("550 2.0.0 liar\r\n"), Replies{"550||2.0.0 liar"});
  EXPECT_EQ(read("250 5.1.1 liar\r\n"), Replies{"250||5.1.1 liar"});
  EXPECT_EQ(read("250-2.1.0 a\r\n550 b\r\n"), Replies{"550||a\nb"});
}

TEST(ReplyParser, ControlBytesStayForTheEscaperButNeverCr) {
  EXPECT_EQ(read("550 \x1b[2J\0\xff\x07 x\r\n"sv), Replies{"550||\x1b[2J\0\xff\x07 x"s});
}

TEST(ReplyParser, WhatIsNoReplyIsMalformedForGood) {
  for (const std::string_view junk :
       {"HTTP/1.1"sv, "150 x"sv, "650 x"sv, "25 x"sv, "2x0"sv, "\r\n"sv, "\n"sv, " 250 ok"sv, "250x"sv, "2500 ok"sv,
        "250\r ok"sv, "250-a\r\nabc"sv, "\xff"sv, "250\0"sv}) {
    EXPECT_EQ(read(junk), Replies{"!"}) << ::testing::PrintToString(junk);
  }
  ReplyParser parser;
  EXPECT_EQ(parser.on_bytes(as_bytes("x")).result, Result::malformed);
  EXPECT_EQ(parser.on_bytes(as_bytes("250 ok\r\n")).result, Result::malformed);
  parser.reset();
  EXPECT_EQ(parser.on_bytes(as_bytes("250 ok\r\n")).result, Result::reply);
}

TEST(ReplyParser, TextIsKeptUpToItsBound) {
  const std::string reply = "550 5.1.1 " + std::string(10'000, 'x') + "\r\n";
  ReplyParser parser;
  ASSERT_EQ(parser.on_bytes(as_bytes(reply)).result, Result::reply);
  EXPECT_EQ(parser.reply().status, (mail::EnhancedStatus{5, 1, 1}));
  EXPECT_EQ(parser.reply().text, std::string(ReplyParser::text_bytes_max - 6, 'x'));

  std::string lines;
  for (int i = 0; i < 500; ++i) lines += "250-EXTENSION" + std::to_string(i) + "\r\n";
  const Replies seen = read(lines + "250 END\r\n220 next\r\n");
  ASSERT_EQ(seen.size(), 2U);
  EXPECT_LE(seen[0].size(), ReplyParser::text_bytes_max + 5);
  EXPECT_EQ(seen[1], "220||next");
}

TEST(ReplyParser, AReplyWithoutEndIsMalformedAtItsBound) {
  std::string endless;
  while (endless.size() < ReplyParser::reply_bytes_max) endless += "250-more\r\n";
  endless.resize(ReplyParser::reply_bytes_max);
  ReplyParser parser;
  EXPECT_EQ(parser.on_bytes(as_bytes(endless)).result, Result::incomplete);
  EXPECT_EQ(parser.on_bytes(as_bytes("2")).result, Result::malformed);
  parser.reset();
  EXPECT_EQ(parser.on_bytes(as_bytes(endless + "2")).result, Result::malformed);

  // One byte less, and it is a reply.
  const std::string longest = "250 " + std::string(ReplyParser::reply_bytes_max - 6, 'x') + "\r\n";
  parser.reset();
  EXPECT_EQ(parser.on_bytes(as_bytes(longest)).result, Result::reply);
}

TEST(ReplyParser, RecordedRepliesAreReadWhole) {
  const char* data = std::getenv("POSTERN_TEST_DATA");
  if (data == nullptr) GTEST_SKIP() << "POSTERN_TEST_DATA is not set";
  const std::filesystem::path folder = std::filesystem::path(data) / "smtp-replies-mailkit";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is not there";
  std::size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".txt") continue;
    std::ifstream stream(entry.path(), std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
    const Replies seen = read(bytes);
    ++files;
    ASSERT_FALSE(seen.empty()) << entry.path();
    EXPECT_NE(seen.back(), "!") << entry.path();
    EXPECT_NE(seen.back(), "…") << entry.path();
  }
  EXPECT_GE(files, 30U);
}

}  // namespace
}  // namespace postern::smtp
