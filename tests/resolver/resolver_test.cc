#include "resolver/resolver.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "io/uring/uring_loop.h"
#include "tests/dns/message_builder.h"
#include "tests/resolver/dns_server.h"

namespace postern::resolver {
namespace {

using dns::Answer;
using dns::RecordType;
using dns::ResponseCode;
using dns::testing::MessageBuilder;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::DnsServer;

dns::Question question(std::string_view name, RecordType type = RecordType::a) {
  return {*dns::Name::parse(name), type};
}

// What most tests' server says: by the name's first label.
std::optional<std::string> respond(Bytes query, const dns::Question& asked, bool tcp) {
  const std::string name = asked.name.to_text();
  if (name.starts_with("silent")) return std::nullopt;
  if (name.starts_with("ill")) return MessageBuilder(query, {.code = ResponseCode::server_failure}).text();
  if (name.starts_with("gone"))
    return MessageBuilder(query, {.code = ResponseCode::no_such_name}).soa("test", 60, 60).text();
  if (name.starts_with("empty")) return MessageBuilder(query).soa("test", 60, 60).text();
  if (name.starts_with("large") && !tcp) return MessageBuilder(query, {.truncated = true}).text();
  MessageBuilder builder(query);
  if (name.starts_with("large")) {
    for (int i = 0; i < 60; ++i) builder.a(name, 60, "192.0.2." + std::to_string(i));
  } else {
    builder.a(name, 60, "192.0.2.1");
  }
  return builder.text();
}

// A shard in little: a loop, a reader, a resolver, and the answers that came.
class Shard final : public io::Sink, public Waiter, public Notifier {
 public:
  Shard(dns::Cache& cache, std::uint16_t number, std::unique_ptr<io::Loop> loop, const ResolverOptions& options)
      : loop_(std::move(loop)), reader_(cache, number) {
    reader_.online();
    resolver_ = std::make_unique<Resolver>(*loop_, reader_, *this, options, Random(number));
  }
  ~Shard() {
    resolver_->stop();
    for (int i = 0; i < 100 && !resolver_->idle(); ++i) turn(milliseconds(10));
    EXPECT_TRUE(resolver_->idle());
  }

  // True when it was answered at once.
  bool ask(const dns::Question& asked, std::uint64_t cookie = 0) {
    const Answer* answer = resolver_->lookup(asked, *this, cookie);
    if (answer != nullptr) answers.emplace_back(cookie, *answer);
    return answer != nullptr;
  }
  void turn(Duration at_most) {
    reader_.quiescent();
    const Instant until = std::min(loop_->now() + at_most, resolver_->next_deadline());
    loop_->run_once(*this, until);
    resolver_->on_deadline(loop_->now());
  }
  void run_until_answers(std::size_t count) {
    const Instant until = loop_->now() + seconds(10);
    while (answers.size() < count && loop_->now() < until) turn(milliseconds(20));
    ASSERT_EQ(answers.size(), count);
  }
  Resolver& resolver() { return *resolver_; }
  Waiter& waiter() { return *this; }

  std::vector<std::pair<std::uint64_t, Answer>> answers;
  std::vector<std::pair<std::uint16_t, dns::Question>> notices;
  std::optional<dns::Question> ask_again;  // from within the next on_answer()

 private:
  void on_completion(const io::Completion& completion) override { resolver_->on_completion(completion); }
  void on_answer(const dns::Question&, const Answer& answer, std::uint64_t cookie) override {
    answers.emplace_back(cookie, answer);
    if (ask_again) {
      const dns::Question next = *std::exchange(ask_again, std::nullopt);
      ask(next, 99);
    }
  }
  void notify(std::uint16_t shard, const dns::Question& asked) override { notices.emplace_back(shard, asked); }

  std::unique_ptr<io::Loop> loop_;
  dns::Cache::Reader reader_;
  std::unique_ptr<Resolver> resolver_;
};

class ResolverTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.servers = {address(server_.port())};
    options_.lookup = {.timeout = milliseconds(100), .rounds = 2};
    options_.first_kind = 40;
    if (!io::make_uring_loop().ok()) GTEST_SKIP() << "io_uring cannot be used here";
  }
  static io::Address address(std::uint16_t port) { return io::Address::ip(IpAddress::v4({127, 0, 0, 1}), port); }
  std::unique_ptr<Shard> make_shard(std::uint16_t number = 0) {
    return std::make_unique<Shard>(cache_, number, *io::make_uring_loop({.receive_buffers = 16}), options_);
  }

  DnsServer server_{respond};
  dns::Cache cache_{{.shards = 2, .seed = 1}};
  ResolverOptions options_;
};

TEST_F(ResolverTest, AnswersComeLaterAndHitsAtOnce) {
  const auto shard = make_shard();
  EXPECT_FALSE(shard->ask(question("a.test"), 7));
  shard->run_until_answers(1);
  EXPECT_EQ(shard->answers[0].first, 7u);
  EXPECT_EQ(shard->answers[0].second.kind, Answer::Kind::records);
  EXPECT_EQ(shard->answers[0].second.addresses, std::vector{*IpAddress::parse("192.0.2.1")});
  EXPECT_TRUE(shard->ask(question("A.test"), 8));
  EXPECT_EQ(server_.queries("a.test"), 1);
  EXPECT_EQ(shard->resolver().counters().hits, 1u);
}

TEST_F(ResolverTest, KindsOfAnswersAreKeptApart) {
  const auto shard = make_shard();
  const std::vector<std::pair<std::string, Answer::Kind>> cases{{"gone.test", Answer::Kind::no_such_name},
                                                                {"empty.test", Answer::Kind::no_data},
                                                                {"ill.test", Answer::Kind::temporary},
                                                                {"silent.test", Answer::Kind::temporary}};
  for (std::size_t i = 0; i < cases.size(); ++i) EXPECT_FALSE(shard->ask(question(cases[i].first), i));
  shard->run_until_answers(cases.size());
  for (const auto& [cookie, answer] : shard->answers)
    EXPECT_EQ(answer.kind, cases[cookie].second) << cases[cookie].first;
  EXPECT_EQ(server_.queries("silent.test"), 2) << "one for each round";
}

TEST_F(ResolverTest, TruncatedAnswerIsFetchedOverTcp) {
  const auto shard = make_shard();
  shard->ask(question("large.test"));
  shard->run_until_answers(1);
  EXPECT_EQ(shard->answers[0].second.addresses.size(), 60u);
  EXPECT_EQ(shard->resolver().counters().tcp_queries, 1u);
}

TEST_F(ResolverTest, DeadServerIsPassedOver) {
  std::uint16_t dead = 0;
  {
    dead = DnsServer(respond).port();
  }
  options_.servers = {address(dead), address(server_.port())};
  const auto shard = make_shard();
  shard->ask(question("a.test"));
  shard->run_until_answers(1);
  EXPECT_EQ(shard->answers[0].second.kind, Answer::Kind::records);
}

TEST_F(ResolverTest, WaitersOfOneQuestionShareOneQuery) {
  const auto shard = make_shard();
  for (std::uint64_t i = 0; i < 10; ++i) EXPECT_FALSE(shard->ask(question("a.test"), i));
  shard->run_until_answers(10);
  EXPECT_EQ(server_.queries("a.test"), 1);
}

TEST_F(ResolverTest, MoreQuestionsThanFlightsTakeTurns) {
  options_.flights_max = 2;
  const auto shard = make_shard();
  for (std::uint64_t i = 0; i < 50; ++i) shard->ask(question("host" + std::to_string(i) + ".test"), i);
  shard->run_until_answers(50);
  for (const auto& [cookie, answer] : shard->answers) EXPECT_EQ(answer.kind, Answer::Kind::records) << cookie;
}

TEST_F(ResolverTest, WaitersBeyondTheBoundAreToldAtOnce) {
  options_.waiters_max = 1;
  const auto shard = make_shard();
  EXPECT_FALSE(shard->ask(question("a.test"), 1));
  EXPECT_TRUE(shard->ask(question("b.test"), 2));
  EXPECT_EQ(shard->answers[0].second.failure, Answer::Failure::overloaded);
  shard->run_until_answers(2);
  EXPECT_FALSE(shard->ask(question("b.test"), 3)) << "it was not cached";
}

TEST_F(ResolverTest, ForgottenWaitersAreNotCalled) {
  const auto shard = make_shard();
  shard->ask(question("a.test"));
  shard->resolver().forget(shard->waiter());
  for (int i = 0; i < 20; ++i) shard->turn(milliseconds(10));
  EXPECT_TRUE(shard->answers.empty());
  EXPECT_TRUE(shard->ask(question("a.test"))) << "the flight went on";
}

TEST_F(ResolverTest, WaiterMayAskFromItsAnswer) {
  const auto shard = make_shard();
  shard->ask_again = question("b.test");
  shard->ask(question("a.test"));
  shard->run_until_answers(2);
  EXPECT_EQ(shard->answers[1].first, 99u);
}

TEST_F(ResolverTest, TwoShardsShareOneFlight) {
  const auto first = make_shard(0);
  const auto second = make_shard(1);
  EXPECT_FALSE(first->ask(question("a.test")));
  EXPECT_FALSE(second->ask(question("a.test")));
  first->run_until_answers(1);
  ASSERT_EQ(first->notices.size(), 1u);
  EXPECT_EQ(first->notices[0].first, 1);
  second->resolver().on_notice(first->notices[0].second);
  EXPECT_EQ(second->answers.size(), 1u);
  EXPECT_EQ(server_.queries("a.test"), 1);
}

TEST_F(ResolverTest, AbandonedFlightIsTakenOver) {
  const auto second = make_shard(1);
  {
    const auto first = make_shard(0);
    EXPECT_FALSE(first->ask(question("silent.test")));
    EXPECT_FALSE(first->ask(question("a.test")));
    EXPECT_FALSE(second->ask(question("a.test")));
    first->resolver().stop();
    EXPECT_EQ(first->answers.size(), 2u);
    EXPECT_EQ(first->answers[0].second.kind, Answer::Kind::temporary);
    EXPECT_TRUE(first->ask(question("b.test"))) << "refused";
    ASSERT_EQ(first->notices.size(), 1u);
    second->resolver().on_notice(first->notices[0].second);
  }
  second->run_until_answers(1);
  EXPECT_EQ(second->answers[0].second.kind, Answer::Kind::records);
}

TEST_F(ResolverTest, LostNoticeEndsInATimeOut) {
  options_.notice_timeout = milliseconds(50);
  const auto first = make_shard(0);
  const auto second = make_shard(1);
  first->ask(question("silent.test"));
  second->ask(question("silent.test"));
  second->run_until_answers(1);
  EXPECT_EQ(second->answers[0].second.failure, Answer::Failure::timed_out);
}

}  // namespace
}  // namespace postern::resolver
