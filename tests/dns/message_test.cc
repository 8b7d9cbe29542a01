#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include <gtest/gtest.h>

#include <postern/dns/answer.h>
#include <postern/dns/message.h>

#include "tests/dns/message_builder.h"

namespace postern::dns {
namespace {

using testing::MessageBuilder;

Question question(std::string_view name, RecordType type) {
  return {*Name::parse(name), type};
}

std::string from_hex(std::string_view hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes.push_back(static_cast<char>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

TEST(Query, HasTheFormOfRfc1035AndRfc6891) {
  const QueryMessage query = encode_query(question("mx.test", RecordType::mx), 0x1234, true, nullptr);
  EXPECT_EQ(as_text(query.bytes()), from_hex("123401000001000000000001"
                                             "026d78047465737400000f0001"
                                             "00002904d0000000000000"));
  EXPECT_EQ(encode_query(question("mx.test", RecordType::mx), 0x1234, false, nullptr).size, query.size - 11);
}

TEST(Query, LongestNameFits) {
  const std::string label(63, 'a');
  const std::string name = label + "." + label + "." + label + "." + std::string(61, 'b');
  Random random(1);
  EXPECT_EQ(encode_query(question(name, RecordType::a), 1, true, &random).size, QueryMessage::bytes_max);
}

TEST(Query, LettersGetRandomCaseAndLengthOctetsStay) {
  // A label of 97 octets would be too long, so no length octet is a letter; but count on nothing.
  Random random(7);
  const Question asked = question("abcdefghijklmnopqrstuvwxyz.example.net", RecordType::a);
  const QueryMessage plain = encode_query(asked, 9, true, nullptr);
  const QueryMessage mixed = encode_query(asked, 9, true, &random);
  EXPECT_NE(as_text(plain.bytes()), as_text(mixed.bytes()));
  EXPECT_EQ(match_response(plain.bytes(), MessageBuilder(mixed.bytes()).bytes()), Match::other_case);
  EXPECT_EQ(match_response(mixed.bytes(), MessageBuilder(mixed.bytes()).bytes()), Match::yes);
  EXPECT_EQ(decode(mixed.bytes())->question, asked);
}

TEST(Match, WrongIdNameTypeOrDirectionIsNoAnswer) {
  const QueryMessage query = encode_query(question("a.test", RecordType::a), 5, true, nullptr);
  EXPECT_EQ(match_response(query.bytes(), query.bytes()), Match::no) << "our own query reflected";
  const auto other = [&query](const Question& asked, std::uint16_t id) {
    return match_response(query.bytes(), MessageBuilder(encode_query(asked, id, true, nullptr).bytes()).bytes());
  };
  EXPECT_EQ(other(question("a.test", RecordType::a), 5), Match::yes);
  EXPECT_EQ(other(question("a.test", RecordType::a), 6), Match::no);
  EXPECT_EQ(other(question("b.test", RecordType::a), 5), Match::no);
  EXPECT_EQ(other(question("a.test.b", RecordType::a), 5), Match::no);
  EXPECT_EQ(other(question("a.test", RecordType::aaaa), 5), Match::no);
  for (std::size_t size = 0; size < 24; ++size) {
    EXPECT_EQ(match_response(query.bytes(), MessageBuilder(query.bytes()).bytes().first(size)), Match::no) << size;
  }
}

TEST(Match, FormatErrorMayLackTheQuestion) {
  const QueryMessage query = encode_query(question("a.test", RecordType::a), 5, true, nullptr);
  MessageBuilder builder(query.bytes(), {.code = ResponseCode::format_error});
  builder.text().resize(header_bytes);
  builder.text()[5] = '\0';
  EXPECT_EQ(match_response(query.bytes(), builder.bytes()), Match::yes);
}

TEST(Decode, ReadsCompressedNames) {
  // Question mx.test MX; answer: pointer to 12, MX 10, exchange "a" + pointer to "test" at 15.
  const std::string bytes = from_hex(
      "000181800001000100000000026d78047465737400000f0001"
      "c00c000f00010000003c0006000a0161c00f");
  const std::optional<Message> message = decode(as_bytes(bytes));
  ASSERT_TRUE(message);
  ASSERT_EQ(message->records.size(), 1u);
  EXPECT_EQ(message->records[0].owner.to_text(), "mx.test");
  EXPECT_EQ(message->records[0].target.to_text(), "a.test");
  EXPECT_EQ(message->records[0].preference, 10);
  EXPECT_EQ(message->records[0].ttl_seconds, 60u);
}

TEST(Decode, EveryPrefixOfAMessageIsRefused) {
  const QueryMessage query = encode_query(question("mx.test", RecordType::mx), 5, true, nullptr);
  MessageBuilder builder(query.bytes());
  builder.mx("mx.test", 60, 10, "a.test")
      .a("a.test", 5, "192.0.2.1")
      .aaaa("a.test", 5, "2001:db8::1")
      .soa("test", 9, 9);
  ASSERT_TRUE(decode(builder.bytes()));
  for (std::size_t size = 0; size < builder.bytes().size(); ++size) {
    EXPECT_FALSE(decode(builder.bytes().first(size))) << size;
  }
}

TEST(Decode, CompressionLoopsAndForwardPointersAreRefused) {
  const std::string head = from_hex("0001818000000001000000 00");
  const std::string header = from_hex("000181800000000100000000");
  const std::string tail = from_hex("0001000100000000000400000000");
  EXPECT_FALSE(decode(as_bytes(header + from_hex("c00c") + tail))) << "points to itself";
  EXPECT_FALSE(decode(as_bytes(header + from_hex("0161c00c") + tail))) << "a.a.a.a...";
  EXPECT_FALSE(decode(as_bytes(header + from_hex("c0ff") + tail))) << "behind the end";
  EXPECT_FALSE(decode(as_bytes(header + from_hex("c00e00") + tail))) << "forward";
  EXPECT_FALSE(decode(as_bytes(header + from_hex("4061") + tail))) << "unknown label type";
}

TEST(Decode, ChainOfPointersIsBounded) {
  // Pointer k points to pointer k-1: legal in form, long enough to be an attack on the reader's time.
  std::string bytes = from_hex("00018180000000010000000000");
  std::string text = from_hex("000181800000000100000000");
  text += from_hex(
              "00"
              "0010"
              "0001"
              "00000000") +
          MessageBuilder::u16(2000);  // TXT whose RDATA is the chain
  const std::size_t first = text.size();
  text += from_hex("0000");
  for (std::size_t i = 1; i < 1000; ++i)
    text += MessageBuilder::u16(static_cast<unsigned>(0xC000 + first + 2 * (i - 1)));
  text[7] = 2;
  const std::string record =
      MessageBuilder::u16(static_cast<unsigned>(0xC000 + first + 2 * 999)) + from_hex("0001000100000000000400000000");
  EXPECT_FALSE(decode(as_bytes(text + record)));
  const std::string shorter =
      MessageBuilder::u16(static_cast<unsigned>(0xC000 + first + 2 * 50)) + from_hex("0001000100000000000400000000");
  EXPECT_TRUE(decode(as_bytes(text + shorter)));
}

TEST(Decode, NamesOver255OctetsAreRefused) {
  std::string text = from_hex("000181800000000100000000");
  for (int i = 0; i < 128; ++i) text += from_hex("0161");
  EXPECT_FALSE(decode(as_bytes(text + from_hex("000001000100000000000400000000"))));
}

TEST(Decode, RdataMustBeAsLongAsItsTypeSays) {
  const QueryMessage query = encode_query(question("a.test", RecordType::a), 5, false, nullptr);
  const auto with = [&query](RecordType type, std::string_view rdata) {
    return decode(MessageBuilder(query.bytes()).record(Section::answer, "a.test", type, 1, rdata).bytes()).has_value();
  };
  EXPECT_TRUE(with(RecordType::a, "1234"));
  EXPECT_FALSE(with(RecordType::a, "123"));
  EXPECT_FALSE(with(RecordType::a, "12345"));
  EXPECT_FALSE(with(RecordType::aaaa, "1234"));
  EXPECT_FALSE(with(RecordType::mx, "1"));
  EXPECT_FALSE(with(RecordType::mx, "12"));
  EXPECT_FALSE(with(RecordType::mx, MessageBuilder::u16(1) + MessageBuilder::wire("a.test") + "x"));
  EXPECT_FALSE(with(RecordType::cname, ""));
  EXPECT_TRUE(with(RecordType::tlsa, "")) << "raw types are their reader's business";
  EXPECT_TRUE(with(RecordType::tlsa, "123"));
}

TEST(Decode, TtlWithTopBitIsZero) {
  const QueryMessage query = encode_query(question("a.test", RecordType::a), 5, false, nullptr);
  EXPECT_EQ(
      decode(MessageBuilder(query.bytes()).a("a.test", 0x8000'0000u, "192.0.2.1").bytes())->records[0].ttl_seconds, 0u);
  EXPECT_EQ(
      decode(MessageBuilder(query.bytes()).a("a.test", 0x7FFF'FFFFu, "192.0.2.1").bytes())->records[0].ttl_seconds,
      0x7FFF'FFFFu);
}

TEST(Decode, OtherClassesAreLeftOutAndOptSaysTheUpperCode) {
  const QueryMessage query = encode_query(question("a.test", RecordType::a), 5, true, nullptr);
  MessageBuilder builder(query.bytes());
  builder.record(Section::answer, "a.test", RecordType::a, 1, "12345", 3);  // CH: length is not ours to judge
  builder.record(Section::additional, ".", RecordType::opt, 0x0100'0000u, "", 1232);
  const std::optional<Message> message = decode(builder.bytes());
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->records.empty());
  EXPECT_TRUE(message->edns);
  EXPECT_EQ(message->code, ResponseCode::bad_version);
  builder.record(Section::additional, ".", RecordType::opt, 0, "", 1232);
  EXPECT_FALSE(decode(builder.bytes())) << "two OPT records";
}

TEST(Decode, TruncatedMessageIsReadUpToItsQuestion) {
  const QueryMessage query = encode_query(question("a.test", RecordType::a), 5, true, nullptr);
  MessageBuilder builder(query.bytes(), {.truncated = true});
  builder.a("a.test", 1, "192.0.2.1");
  const std::optional<Message> message = decode(builder.bytes().first(builder.bytes().size() - 3));
  ASSERT_TRUE(message);
  EXPECT_TRUE(message->truncated);
  EXPECT_TRUE(message->records.empty());
}

// The corpus that found c-ares' bugs. It passes when the reader neither crashes nor reads beyond its input
// (sanitizers).
TEST(Decode, SurvivesTheCorpusOfCares) {
  const char* const root = std::getenv("POSTERN_TEST_DATA");
  if (root == nullptr) GTEST_SKIP() << "POSTERN_TEST_DATA is not set";
  const std::filesystem::path directory = std::filesystem::path(root) / "dns-c-ares";
  if (!std::filesystem::exists(directory)) GTEST_SKIP() << directory << " is not there";
  std::size_t inputs = 0;
  std::size_t decoded = 0;
  for (const char* const part : {"fuzzinput", "fuzznames"}) {
    for (const auto& entry : std::filesystem::directory_iterator(directory / part)) {
      std::ifstream stream(entry.path(), std::ios::binary);
      const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
      ++inputs;
      const std::optional<Message> message = decode(as_bytes(bytes));
      if (!message) continue;
      ++decoded;
      if (message->question) [[maybe_unused]]
        const Interpretation heard = interpret(*message->question, *message, 8);
    }
  }
  EXPECT_GT(inputs, 100u);
  EXPECT_GT(decoded, 10u);
}

}  // namespace
}  // namespace postern::dns
