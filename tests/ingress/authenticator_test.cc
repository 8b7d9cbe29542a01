// Passwords are checked outside of the loop's thread, a bounded number at a time; clients may go meanwhile.
#include "ingress/authenticator.h"

#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/net/harness.h"

namespace postern::ingress {
namespace {

using testing::ElementsAre;

struct Answers final : AuthenticatorUser {
  void on_password_checked(SlotId client, PasswordCheck result) override { got.emplace_back(client.slot, result); }
  std::vector<std::pair<std::uint32_t, PasswordCheck>> got;
};

std::shared_ptr<const policy::UserTable> users(std::uint32_t iterations = 4096) {
  return std::make_shared<const policy::UserTable>(*policy::UserTable::parse(
      "user:{SCRAM-SHA-256}" + std::to_string(iterations) + ",c2FsdA==," +
          "cccccccccccccccccccccccccccccccccccccccccc8=,cccccccccccccccccccccccccccccccccccccccccc8=\n" +
          "good:$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n",
      "users", "secret"));
}

struct AuthenticatorTest : testing::Test {
  net::Net net;
  Answers answers;
  Authenticator authenticator{*net.loop, net.dispatcher, answers};
};

TEST_F(AuthenticatorTest, AnswersEachInItsTurn) {
  const auto table = users();
  EXPECT_TRUE(authenticator.check(table, "good", "U*U", {1, 1}));
  EXPECT_TRUE(authenticator.check(table, "good", "wrong", {2, 1}));
  EXPECT_TRUE(authenticator.check(table, "nobody", "U*U", {3, 1}));
  EXPECT_TRUE(answers.got.empty()) << "never from within";
  ASSERT_TRUE(net.run_until([&] { return authenticator.idle(); }));
  EXPECT_THAT(answers.got, ElementsAre(std::pair{1u, PasswordCheck::right}, std::pair{2u, PasswordCheck::wrong},
                                       std::pair{3u, PasswordCheck::wrong}));
}

TEST_F(AuthenticatorTest, TakesNoMoreThanItsBound) {
  const auto table = users(100'000);
  for (std::uint32_t i = 0; i < Authenticator::checks_max; ++i) {
    ASSERT_TRUE(authenticator.check(table, "user", "x", {i, 1})) << i;
  }
  EXPECT_FALSE(authenticator.check(table, "user", "x", {99, 1}));
  ASSERT_TRUE(net.run_until([&] { return authenticator.idle(); }, std::chrono::seconds(120)));
  EXPECT_EQ(answers.got.size(), Authenticator::checks_max);
  EXPECT_TRUE(authenticator.check(table, "good", "U*U", {1, 1}));
  ASSERT_TRUE(net.run_until([&] { return authenticator.idle(); }));
}

TEST_F(AuthenticatorTest, TheTableLivesAsLongAsItIsLookedAt) {
  ASSERT_TRUE(authenticator.check(users(), "good", "U*U", {1, 1}));
  ASSERT_TRUE(net.run_until([&] { return authenticator.idle(); }));
  EXPECT_THAT(answers.got, ElementsAre(std::pair{1u, PasswordCheck::right}));
}

}  // namespace
}  // namespace postern::ingress
