// What SCRAM makes of a password is computed outside of the loop's thread, once for each salt; who waits may go.
#include "egress/salted_passwords.h"

#include <memory>
#include <optional>
#include <string>

#include <gtest/gtest.h>

#include "tests/net/harness.h"

namespace postern::egress {
namespace {

struct Waiter final : SaltedPasswordUser {
  void on_salted_password(const sasl::Digest* salted) override {
    ++told;
    got = salted == nullptr ? std::nullopt : std::optional(*salted);
  }
  int told = 0;
  std::optional<sasl::Digest> got;
};

std::shared_ptr<const sasl::Credentials> credentials_of(std::string_view password) {
  auto made = std::make_shared<sasl::Credentials>();
  made->user = "user";
  made->password = sasl::Secret(password);
  return made;
}

struct SaltedPasswordsTest : testing::Test {
  net::Net net;
  std::shared_ptr<const sasl::Credentials> credentials = credentials_of("pencil");
  SaltedPasswords passwords{*net.loop, net.dispatcher};
};

TEST_F(SaltedPasswordsTest, AreComputedOnceForAllWhoAsk) {
  Waiter first, second, other;
  EXPECT_EQ(passwords.ask(credentials, "salt", 4096, first), nullptr);
  EXPECT_EQ(passwords.ask(credentials, "salt", 4096, second), nullptr);
  EXPECT_EQ(passwords.ask(credentials, "pepper", 4096, other), nullptr);
  EXPECT_EQ(first.told, 0) << "never from within";
  ASSERT_TRUE(net.run_until([&] { return passwords.idle(); }));
  EXPECT_EQ(first.got, sasl::pbkdf2_hmac_sha256("pencil", "salt", 4096));
  EXPECT_EQ(second.got, first.got);
  EXPECT_EQ(other.got, sasl::pbkdf2_hmac_sha256("pencil", "pepper", 4096));
  EXPECT_EQ(passwords.computed(), 2u);
  const sasl::Digest* const known = passwords.ask(credentials, "salt", 4096, first);
  ASSERT_NE(known, nullptr);
  EXPECT_EQ(*known, *first.got);
  EXPECT_EQ(first.told, 1);
}

TEST_F(SaltedPasswordsTest, AreNobodyElses) {
  Waiter waiter;
  EXPECT_EQ(passwords.ask(credentials, "salt", 4096, waiter), nullptr);
  ASSERT_TRUE(net.run_until([&] { return passwords.idle(); }));
  EXPECT_EQ(passwords.ask(credentials_of("pencil"), "salt", 4096, waiter), nullptr) << "other credentials";
  ASSERT_TRUE(net.run_until([&] { return passwords.idle(); }));
  EXPECT_EQ(passwords.ask(credentials, "salt", 4097, waiter), nullptr) << "another count";
  ASSERT_TRUE(net.run_until([&] { return passwords.idle(); }));
  passwords.clear();
  EXPECT_EQ(passwords.ask(credentials, "salt", 4096, waiter), nullptr) << "forgotten";
  ASSERT_TRUE(net.run_until([&] { return passwords.idle(); }));
  EXPECT_EQ(waiter.told, 4);
}

TEST_F(SaltedPasswordsTest, WhoIsGoneIsNotTold) {
  Waiter stays, leaves;
  auto dies = std::make_unique<Waiter>();
  EXPECT_EQ(passwords.ask(credentials, "salt", 100'000, *dies), nullptr);
  EXPECT_EQ(passwords.ask(credentials, "pepper", 4096, leaves), nullptr);
  EXPECT_EQ(passwords.ask(credentials, "chili", 4096, stays), nullptr);
  dies.reset();
  SaltedPasswords::forget(leaves);
  ASSERT_TRUE(net.run_until([&] { return stays.told == 1; }));
  EXPECT_EQ(leaves.told, 0);
  EXPECT_EQ(passwords.computed(), 2u) << "what nobody waits for any more is not begun";
  ASSERT_TRUE(net.run_until([&] { return passwords.idle(); }));
}

TEST_F(SaltedPasswordsTest, NoMoreAreKeptThanTheBound) {
  Waiter waiter;
  for (std::size_t i = 0; i <= SaltedPasswords::kept_max; ++i) {
    ASSERT_EQ(passwords.ask(credentials, std::to_string(i), 1, waiter), nullptr);
    ASSERT_TRUE(net.run_until([&] { return passwords.idle(); }));
  }
  EXPECT_NE(passwords.ask(credentials, "1", 1, waiter), nullptr);
  EXPECT_EQ(passwords.ask(credentials, "0", 1, waiter), nullptr) << "the first to come is the first to go";
  ASSERT_TRUE(net.run_until([&] { return passwords.idle(); }));
}

}  // namespace
}  // namespace postern::egress
