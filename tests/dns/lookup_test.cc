#include <gtest/gtest.h>

#include <postern/dns/lookup.h>

#include "tests/dns/message_builder.h"

namespace postern::dns {
namespace {

using std::chrono::seconds;
using testing::MessageBuilder;
using testing::ResponseOptions;

class LookupTest : public ::testing::Test {
 protected:
  void start(std::string_view name, RecordType type, std::vector<std::uint8_t> servers, LookupOptions options = {}) {
    lookup_.emplace(Question{*Name::parse(name), type}, servers, options, now_, random_);
  }
  // What is sent now: its server, or -1.
  int sent() {
    const std::optional<Lookup::Send> send = lookup_->take_send();
    if (!send) return -1;
    tcp_ = send->tcp;
    query_ = std::string(as_text(send->message.subspan(send->tcp ? 2 : 0)));
    return send->server;
  }
  [[nodiscard]] MessageBuilder response(const ResponseOptions& options = {}) const {
    return MessageBuilder(as_bytes(query_), options);
  }
  void answer(const MessageBuilder& builder) { lookup_->on_datagram(builder.bytes(), now_, random_); }
  void pass_deadline() {
    now_ = lookup_->next_deadline();
    lookup_->on_deadline(now_, random_);
  }

  Instant now_{seconds(1000)};
  Random random_{42};
  std::optional<Lookup> lookup_;
  bool tcp_ = false;
  std::string query_;
};

TEST_F(LookupTest, AnswerEndsIt) {
  start("a.test", RecordType::a, {0});
  EXPECT_EQ(sent(), 0);
  EXPECT_EQ(sent(), -1);
  answer(response().a("a.test", 60, "192.0.2.1"));
  ASSERT_TRUE(lookup_->done());
  EXPECT_EQ(lookup_->answer().kind, Answer::Kind::records);
  EXPECT_EQ(lookup_->answer().ttl, seconds(60));
  EXPECT_EQ(lookup_->next_deadline(), never);
  EXPECT_EQ(lookup_->take_credit().credit, Lookup::Credit::success);
}

TEST_F(LookupTest, TimeoutsGoRoundTheServersAndDoubleEachRound) {
  start("a.test", RecordType::a, {1, 0}, {.timeout = seconds(1), .rounds = 3, .total_max = seconds(30)});
  std::vector<int> servers;
  std::vector<Duration> waits;
  while (!lookup_->done()) {
    servers.push_back(sent());
    const Instant before = now_;
    pass_deadline();
    waits.push_back(now_ - before);
    EXPECT_EQ(lookup_->take_credit().credit, Lookup::Credit::failure);
  }
  EXPECT_EQ(servers, (std::vector{1, 0, 1, 0, 1, 0}));
  EXPECT_EQ(waits, (std::vector<Duration>{seconds(1), seconds(1), seconds(2), seconds(2), seconds(4), seconds(4)}));
  EXPECT_EQ(lookup_->answer().kind, Answer::Kind::temporary);
  EXPECT_EQ(lookup_->answer().failure, Answer::Failure::timed_out);
}

TEST_F(LookupTest, EndsByItsTotalTime) {
  start("a.test", RecordType::a, {0, 1, 2, 3, 4, 5, 6, 7},
        {.timeout = seconds(10), .rounds = 5, .total_max = seconds(25)});
  const Instant began = now_;
  while (!lookup_->done()) {
    (void)sent();
    pass_deadline();
  }
  EXPECT_EQ(now_ - began, seconds(25));
}

TEST_F(LookupTest, EachAttemptHasAnotherIdAndAnOldAnswerIsIgnored) {
  start("abcdefghijkl.test", RecordType::a, {0});
  (void)sent();
  const std::string first = query_;
  pass_deadline();
  (void)sent();
  EXPECT_NE(first, query_);
  answer(MessageBuilder(as_bytes(first)).a("abcdefghijkl.test", 60, "192.0.2.66"));
  EXPECT_FALSE(lookup_->done());
  answer(response().a("abcdefghijkl.test", 60, "192.0.2.1"));
  EXPECT_TRUE(lookup_->done());
}

TEST_F(LookupTest, GuessingLeadsToTcp) {
  start("a.test", RecordType::a, {0});
  (void)sent();
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(sent(), -1);
    MessageBuilder forged = response().a("a.test", 60, "192.0.2.66");
    forged.text()[0] = static_cast<char>(forged.text()[0] ^ (i + 1));
    answer(forged);
  }
  EXPECT_EQ(sent(), 0);
  EXPECT_TRUE(tcp_);
}

TEST_F(LookupTest, OtherCaseIsAskedAgainOverTcpWhereItIsTaken) {
  start("abcdefghijklmnop.test", RecordType::a, {0});
  (void)sent();
  MessageBuilder lowered = response().a("abcdefghijklmnop.test", 60, "192.0.2.1");
  for (std::size_t i = header_bytes; i < query_.size(); ++i) {
    char& c = lowered.text()[i];
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c | 0x20);
  }
  answer(lowered);
  EXPECT_FALSE(lookup_->done());
  EXPECT_EQ(sent(), 0);
  ASSERT_TRUE(tcp_);
  const std::string taken = response().a("ABCDEFGHIJKLMNOP.test", 60, "192.0.2.1").text();
  lookup_->on_stream(as_bytes(MessageBuilder::u16(static_cast<unsigned>(taken.size())) + taken), now_, random_);
  EXPECT_TRUE(lookup_->done());
}

TEST_F(LookupTest, TruncationLeadsToTcpCutAnywhere) {
  start("a.test", RecordType::a, {3});
  (void)sent();
  answer(response({.truncated = true}));
  EXPECT_EQ(sent(), 3);
  ASSERT_TRUE(tcp_);
  MessageBuilder builder = response();
  for (int i = 0; i < 60; ++i) builder.a("a.test", 60, "192.0.2." + std::to_string(i));
  const std::string framed = MessageBuilder::u16(static_cast<unsigned>(builder.text().size())) + builder.text();
  for (const char& c : framed) {
    EXPECT_FALSE(lookup_->done());
    lookup_->on_stream(as_bytes({&c, 1}), now_, random_);
  }
  ASSERT_TRUE(lookup_->done());
  EXPECT_EQ(lookup_->answer().addresses.size(), 60u);
}

TEST_F(LookupTest, TcpFailureGoesToTheNextServer) {
  start("a.test", RecordType::a, {0, 1});
  (void)sent();
  answer(response({.truncated = true}));
  (void)sent();
  lookup_->on_failure(now_, random_);
  EXPECT_EQ(sent(), 1);
  EXPECT_FALSE(tcp_);
}

TEST_F(LookupTest, ServerFailureAsksEachServerOnceOnly) {
  start("a.test", RecordType::a, {0, 1});
  EXPECT_EQ(sent(), 0);
  answer(response({.code = ResponseCode::server_failure}));
  EXPECT_EQ(sent(), 1);
  answer(response({.code = ResponseCode::server_failure}));
  ASSERT_TRUE(lookup_->done());
  EXPECT_EQ(lookup_->answer().failure, Answer::Failure::server_failure);
}

TEST_F(LookupTest, ServerWithoutEdnsIsAskedWithoutIt) {
  start("a.test", RecordType::a, {0});
  (void)sent();
  const std::size_t size = query_.size();
  answer(response({.code = ResponseCode::format_error}));
  EXPECT_EQ(sent(), 0);
  EXPECT_EQ(query_.size(), size - 11);
  answer(response({.code = ResponseCode::format_error}));
  EXPECT_TRUE(lookup_->done()) << "and no third time";
}

TEST_F(LookupTest, AliasOutOfTheMessageIsAskedAndItsTtlCounts) {
  start("a.test", RecordType::a, {0});
  (void)sent();
  answer(response().cname("a.test", 20, "b.elsewhere"));
  EXPECT_EQ(sent(), 0);
  EXPECT_EQ(decode(as_bytes(query_))->question->name.to_text(), "b.elsewhere");
  answer(response().a("b.elsewhere", 60, "192.0.2.1"));
  ASSERT_TRUE(lookup_->done());
  EXPECT_EQ(lookup_->answer().ttl, seconds(20));
  EXPECT_EQ(lookup_->question().name.to_text(), "a.test");
}

TEST_F(LookupTest, AliasesOverMessagesAreBounded) {
  start("n0.test", RecordType::a, {0});
  for (int i = 0; i < 20 && !lookup_->done(); ++i) {
    (void)sent();
    answer(response().cname("n" + std::to_string(i) + ".test", 20, "n" + std::to_string(i + 1) + ".test"));
  }
  ASSERT_TRUE(lookup_->done());
  EXPECT_EQ(lookup_->answer().failure, Answer::Failure::alias_loop);
}

TEST_F(LookupTest, MalformedAnswerGoesToTheNextServer) {
  start("a.test", RecordType::a, {0, 1});
  (void)sent();
  answer(response().record(Section::answer, "a.test", RecordType::a, 1, "123"));
  EXPECT_EQ(sent(), 1);
}

TEST(ServerHealth, ServersThatFailStandBackForAWhile) {
  ServerHealth health(3, false);
  const Instant now{seconds(100)};
  EXPECT_EQ(health.order(now), (std::vector<std::uint8_t>{0, 1, 2}));
  for (unsigned i = 0; i < ServerHealth::failures_to_avoid; ++i) health.on_failure(0, now);
  EXPECT_EQ(health.order(now), (std::vector<std::uint8_t>{1, 2, 0}));
  EXPECT_EQ(health.order(now + ServerHealth::avoid_for), (std::vector<std::uint8_t>{0, 1, 2}));
  health.on_failure(0, now);
  health.on_success(0);
  EXPECT_EQ(health.order(now), (std::vector<std::uint8_t>{0, 1, 2}));
}

TEST(ServerHealth, RotationSpreadsQuestions) {
  ServerHealth health(2, true);
  EXPECT_EQ(health.order({}).front(), 0);
  EXPECT_EQ(health.order({}).front(), 1);
  EXPECT_EQ(health.order({}).front(), 0);
}

}  // namespace
}  // namespace postern::dns
