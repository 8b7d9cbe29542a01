#include <gtest/gtest.h>

#include <postern/dns/answer.h>

#include "tests/dns/message_builder.h"

namespace postern::dns {
namespace {

using std::chrono::seconds;
using testing::MessageBuilder;
using testing::ResponseOptions;

class InterpretTest : public ::testing::Test {
 protected:
  void ask(std::string_view name, RecordType type) { question_ = {*Name::parse(name), type}; }
  [[nodiscard]] MessageBuilder response(const ResponseOptions& options = {}) const {
    return MessageBuilder(encode_query(question_, 1, true, nullptr).bytes(), options);
  }
  [[nodiscard]] Interpretation heard(const MessageBuilder& builder) const {
    return interpret(question_, *decode(builder.bytes()), 8);
  }
  Question question_;
};

TEST_F(InterpretTest, RecordsOfOtherNamesAreIgnored) {
  ask("a.test", RecordType::a);
  const Interpretation result =
      heard(response().a("a.test", 60, "192.0.2.1").a("evil.test", 9, "192.0.2.66").a("a.test", 30, "192.0.2.2"));
  EXPECT_EQ(result.answer.kind, Answer::Kind::records);
  EXPECT_EQ(result.answer.addresses, (std::vector{*IpAddress::parse("192.0.2.1"), *IpAddress::parse("192.0.2.2")}));
  EXPECT_EQ(result.answer.ttl, seconds(30));
}

TEST_F(InterpretTest, AnswersWithoutRecursionAreTaken) {
  ask("a.test", RecordType::a);
  EXPECT_EQ(heard(response({.recursion_available = false}).a("a.test", 60, "192.0.2.1")).answer.kind,
            Answer::Kind::records);
}

TEST_F(InterpretTest, MxComeSortedAndTheWorstAreDropped) {
  ask("a.test", RecordType::mx);
  MessageBuilder builder = response();
  for (unsigned i = 100; i > 0; --i)
    builder.mx("a.test", 60, static_cast<std::uint16_t>(i), "m" + std::to_string(i) + ".test");
  const Answer answer = heard(builder).answer;
  ASSERT_EQ(answer.mx.size(), Answer::records_max);
  EXPECT_EQ(answer.mx.front(), (MxRecord{1, *Name::parse("m1.test")}));
  EXPECT_EQ(answer.mx.back().preference, Answer::records_max);
}

TEST_F(InterpretTest, NoDataAndNoSuchNameAreKeptApart) {
  ask("a.test", RecordType::mx);
  Answer answer = heard(response().soa("test", 300, 60)).answer;
  EXPECT_EQ(answer.kind, Answer::Kind::no_data);
  EXPECT_EQ(answer.ttl, seconds(60)) << "the lesser of SOA's TTL and MINIMUM";
  answer = heard(response({.code = ResponseCode::no_such_name}).soa("test", 30, 60)).answer;
  EXPECT_EQ(answer.kind, Answer::Kind::no_such_name);
  EXPECT_EQ(answer.ttl, seconds(30));
  answer = heard(response()).answer;
  EXPECT_EQ(answer.kind, Answer::Kind::no_data);
  EXPECT_EQ(answer.ttl, seconds(0)) << "no SOA, not to be kept";
  answer = heard(response().soa("other", 30, 60)).answer;
  EXPECT_EQ(answer.ttl, seconds(0)) << "the SOA of another zone says nothing";
}

TEST_F(InterpretTest, ServerTroubleIsTemporary) {
  ask("a.test", RecordType::mx);
  for (const auto code : {ResponseCode::server_failure, ResponseCode::refused, ResponseCode::not_implemented,
                          ResponseCode::format_error, ResponseCode{9}}) {
    EXPECT_EQ(heard(response({.code = code})).answer.kind, Answer::Kind::temporary);
  }
}

TEST_F(InterpretTest, ReferralIsNotNoData) {
  ask("a.test", RecordType::mx);
  EXPECT_EQ(heard(response().ns(Section::authority, "test", 60, "ns.test")).answer.kind, Answer::Kind::temporary);
  EXPECT_EQ(heard(response().ns(Section::authority, "test", 60, "ns.test").soa("test", 60, 60)).answer.kind,
            Answer::Kind::no_data);
}

TEST_F(InterpretTest, AliasesAreFollowedInAnyOrderOfRecords) {
  ask("a.test", RecordType::a);
  const Interpretation result =
      heard(response().a("c.test", 60, "192.0.2.1").cname("b.test", 7, "c.test").cname("a.test", 20, "b.test"));
  EXPECT_EQ(result.answer.kind, Answer::Kind::records);
  EXPECT_EQ(result.answer.ttl, seconds(7)) << "the least of the chain";
  EXPECT_EQ(result.aliases, 2u);
}

TEST_F(InterpretTest, NoSuchNameSpeaksOfTheChainsEnd) {
  ask("a.test", RecordType::a);
  const Interpretation result =
      heard(response({.code = ResponseCode::no_such_name}).cname("a.test", 20, "b.test").soa("test", 60, 60));
  EXPECT_EQ(result.answer.kind, Answer::Kind::no_such_name);
  EXPECT_FALSE(result.ask_next);
}

TEST_F(InterpretTest, ChainThatLeavesTheMessageIsAskedOn) {
  ask("a.test", RecordType::a);
  const Interpretation result = heard(response().cname("a.test", 20, "b.elsewhere"));
  ASSERT_TRUE(result.ask_next);
  EXPECT_EQ(result.ask_next->to_text(), "b.elsewhere");
  EXPECT_EQ(result.answer.ttl, seconds(20));
}

TEST_F(InterpretTest, AliasLoopEnds) {
  ask("a.test", RecordType::a);
  const Interpretation result = heard(response().cname("a.test", 20, "b.test").cname("b.test", 20, "a.test"));
  EXPECT_EQ(result.answer.kind, Answer::Kind::temporary);
  EXPECT_EQ(result.answer.failure, Answer::Failure::alias_loop);
}

TEST_F(InterpretTest, QuestionForAnAliasItselfIsAnsweredByIt) {
  ask("a.test", RecordType::cname);
  EXPECT_EQ(heard(response().cname("a.test", 20, "b.test")).answer.kind, Answer::Kind::records);
}

TEST_F(InterpretTest, OtherTypesComeRaw) {
  ask("_25._tcp.a.test", RecordType::tlsa);
  const Interpretation result =
      heard(response().record(Section::answer, "_25._tcp.a.test", RecordType::tlsa, 5, "\x03\x01\x01xyz"));
  EXPECT_EQ(result.answer.raw_records, std::vector<std::string>{"\x03\x01\x01xyz"});
}

}  // namespace
}  // namespace postern::dns
