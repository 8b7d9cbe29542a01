#include <cstdint>

#include <gtest/gtest.h>

#include <postern/base/text.h>

namespace postern {
namespace {

TEST(Text, CaseIsAsciiOnly) {
  EXPECT_TRUE(equal_ignoring_case("MaIl", "mAiL"));
  EXPECT_FALSE(equal_ignoring_case("mail", "mai"));
  EXPECT_FALSE(equal_ignoring_case("\xC3\x84", "\xC3\xA4"));
  EXPECT_FALSE(equal_ignoring_case("@", "`")) << "32 apart, but no letters";
  EXPECT_TRUE(starts_with_ignoring_case("FROM:<a>", "from:"));
  EXPECT_FALSE(starts_with_ignoring_case("FRO", "from:"));
  EXPECT_TRUE(ends_with_ignoring_case("a.EXAMPLE", ".example"));
  EXPECT_EQ(to_lower("AbZ[\xC3\x84"), "abz[\xC3\x84");
  EXPECT_EQ(trim(" \ta b\t "), "a b");
  EXPECT_EQ(trim(" \t"), "");
}

TEST(Text, NumbersAreDigitsWithinTheirBound) {
  EXPECT_EQ(parse_uint<std::uint8_t>("255"), 255);
  EXPECT_FALSE(parse_uint<std::uint8_t>("256"));
  EXPECT_FALSE(parse_uint<std::uint8_t>("1000"));
  EXPECT_EQ(parse_uint<std::uint64_t>("18446744073709551615"), UINT64_MAX);
  EXPECT_FALSE(parse_uint<std::uint64_t>("18446744073709551616"));
  EXPECT_FALSE(parse_uint<std::uint64_t>("99999999999999999999"));
  EXPECT_EQ(parse_uint<std::uint32_t>("007", 7), 7u);
  EXPECT_FALSE(parse_uint<std::uint32_t>("8", 7));
  EXPECT_EQ(parse_uint<std::uint32_t>("100", 100), 100u);
  EXPECT_FALSE(parse_uint<std::uint32_t>("101", 100));
  for (const char* text : {"", " 1", "1 ", "+1", "-1", "0x1", "1.0", "1e1"}) {
    EXPECT_FALSE(parse_uint<std::uint32_t>(text)) << text;
  }
  for (unsigned max = 0; max < 256; ++max) {
    for (unsigned value = 0; value < 300; ++value) {
      const auto parsed = parse_uint<std::uint8_t>(std::to_string(value), static_cast<std::uint8_t>(max));
      ASSERT_EQ(parsed.has_value(), value <= max) << value << " of " << max;
    }
  }
}

TEST(Text, Utf8IsWellFormedOnlyByRfc3629) {
  for (const char* text :
       {"", "a", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", "\xED\x9F\xBF", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_TRUE(is_utf8(text)) << text;
  }
  for (const char* text : {"\x80", "\xC0\x80", "\xC1\xBF", "\xC3", "\xE0\x80\x80", "\xE2\x82", "\xED\xA0\x80",
                           "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3\xA9\xA9"}) {
    EXPECT_FALSE(is_utf8(text));
  }
}

TEST(Text, LogTextIsPrintableAsciiAndBounded) {
  EXPECT_EQ(log_escaped("a\\b\r\n\x7F\xC3"), "a\\\\b\\x0D\\x0A\\x7F\\xC3");
  EXPECT_EQ(log_escaped("abcdef", 6), "abcdef");
  EXPECT_EQ(log_escaped("abcdefg", 6), "abc...");
  EXPECT_EQ(log_escaped("abc\n", 6), "abc...");
  EXPECT_EQ(log_escaped("\n\n", 6), "...");
  EXPECT_EQ(log_escaped("abc", 2), "..");
  EXPECT_EQ(log_escaped("abc", 0), "");
  std::string out = "before";
  append_log_escaped(out, "abcdefg", 6);
  EXPECT_EQ(out, "beforeabc...");
}

TEST(Text, JsonTextIsAlwaysValidUtf8) {
  std::string out;
  append_json_escaped(out, std::string_view("a\"\\\n\r\t\x01\x7F\xC3\xA9\xC3\0", 12));
  EXPECT_EQ(out, "a\\\"\\\\\\n\\r\\t\\u0001\\u007F\xC3\xA9\\ufffd\\u0000");
  EXPECT_TRUE(is_utf8(out));
}

}  // namespace
}  // namespace postern
