// ContentConverter: equal to whole-text replacement, at every split of its input and every size of its output.
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <postern/base/random.h>
#include <postern/smtp/content_converter.h>

namespace postern::smtp {
namespace {

using namespace std::literals;
using Kind = ContentConverter::Kind;

std::string convert_in_pieces(Kind kind, std::string_view in, std::size_t piece, std::size_t room,
                              bool complete_line = false) {
  ContentConverter converter(kind);
  std::string out;
  std::string buffer(room, '\0');
  std::size_t end = 0;
  std::size_t start = 0;
  while (start < in.size()) {
    if (end == start) end = std::min(in.size(), start + piece);
    const ContentConverter::Progress progress = converter.convert(
        as_bytes(in.substr(start, end - start)), {reinterpret_cast<std::byte*>(buffer.data()), buffer.size()});
    EXPECT_TRUE(progress.consumed == end - start || progress.produced == room);
    out.append(buffer, 0, progress.produced);
    start += progress.consumed;
  }
  out += converter.finish(complete_line);
  return out;
}

std::string convert(Kind kind, std::string_view in, bool complete_line = false) {
  ContentConverter converter(kind);
  std::string whole;
  converter.append(as_bytes(in), whole);
  whole += converter.finish(complete_line);
  for (std::size_t piece = 1; piece <= std::min<std::size_t>(in.size(), 20); ++piece) {
    for (const std::size_t room : {1U, 2U, 7U, 100U}) {
      EXPECT_EQ(convert_in_pieces(kind, in, piece, room, complete_line), whole) << ::testing::PrintToString(in);
    }
  }
  EXPECT_LE(whole.size(), ContentConverter::output_bytes_max(in.size()) + 2);
  return whole;
}

TEST(ContentConverter, StuffsEveryLineThatBeginsWithADot) {
  EXPECT_EQ(convert(Kind::stuff, ".a\r\n.\r\n..\r\nb.c\r\n"), "..a\r\n..\r\n...\r\nb.c\r\n");
  EXPECT_EQ(convert(Kind::stuff, ""), "");
  EXPECT_EQ(convert(Kind::stuff, "."), "..");
}

TEST(ContentConverter, OnlyCrlfBeginsALine) {
  EXPECT_EQ(convert(Kind::stuff, "a\n.b\r.c\r\n.d"), "a\n.b\r.c\r\n..d");
  EXPECT_EQ(convert(Kind::unstuff, "a\n.b\r.c\r\n..d"), "a\n.b\r.c\r\n.d");
}

TEST(ContentConverter, UnstuffsEveryLineThatBeginsWithADot) {
  EXPECT_EQ(convert(Kind::unstuff, "..a\r\n..\r\n...\r\nb..c\r\n"), ".a\r\n.\r\n..\r\nb..c\r\n");
}

TEST(ContentConverter, WritesLfLineEndsForMaildir) {
  EXPECT_EQ(convert(Kind::stuffed_to_lf, "..a\r\n\r\nb\r\n"), ".a\n\nb\n");
  EXPECT_EQ(convert(Kind::plain_to_lf, "..a\r\n\r\nb\r\n"), "..a\n\nb\n");
  EXPECT_EQ(convert(Kind::plain_to_lf, "a\rb\nc\r\r\nd\r"), "a\rb\nc\r\nd\r");
}

TEST(ContentConverter, CompletesTheLastLineWhereAsked) {
  EXPECT_EQ(convert(Kind::stuff, "a", true), "a\r\n");
  EXPECT_EQ(convert(Kind::stuff, "a\r\n", true), "a\r\n");
  EXPECT_EQ(convert(Kind::stuff, "", true), "");
  EXPECT_EQ(convert(Kind::plain_to_lf, "a", true), "a\n");
  EXPECT_EQ(convert(Kind::plain_to_lf, "a\r\n", true), "a\n");
  EXPECT_EQ(convert(Kind::plain_to_lf, "a", false), "a");
}

std::string replace_all(std::string text, std::string_view what, std::string_view by) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) {
    text.replace(at, what.size(), by);
  }
  return text;
}

TEST(ContentConverter, RandomContentEqualsWholeTextReplacementAndComesBack) {
  Random random(5);
  for (int round = 0; round < 80; ++round) {
    std::string plain;
    for (std::size_t n = random.below(60); n > 0; --n) {
      constexpr std::string_view parts[] = {"a"sv, "."sv, "\r\n"sv, "\r\n."sv, "\r"sv, "\n"sv, "text"sv};
      plain += parts[random.below(7)];
    }
    std::string stuffed = replace_all("\r\n" + plain, "\r\n.", "\r\n..").substr(2);
    EXPECT_EQ(convert(Kind::stuff, plain), stuffed);
    EXPECT_EQ(convert(Kind::unstuff, stuffed), plain);
    const std::string lf = replace_all(plain, "\r\n", "\n");
    EXPECT_EQ(convert(Kind::plain_to_lf, plain), lf);
    EXPECT_EQ(convert(Kind::stuffed_to_lf, stuffed), lf);
  }
}

}  // namespace
}  // namespace postern::smtp
