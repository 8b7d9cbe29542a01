// The file of users: who they are, what a stranger looks like, from where they may send, and what is wrong with it.
#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <postern/policy/user_table.h>

namespace postern::policy {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// Of "pencil"; the second with the least cost there is.
constexpr std::string_view scram =
    "{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,"
    "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
constexpr std::string_view bcrypt = "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";  // "U*U"

UserTable table_of(std::string_view text, std::string_view secret = "secret") {
  auto table = UserTable::parse(text, "users", secret);
  EXPECT_TRUE(table.ok()) << message_of(table.status());
  return *std::move(table);
}

std::string fault(std::string_view text) {
  const auto table = UserTable::parse(text, "users", "secret");
  return table.ok() ? "" : std::string(message_of(table.status()));
}

bool may_send(const UserTable& table, std::string_view user, std::string_view from) {
  return table.may_send_from(user, {from, static_cast<std::uint16_t>(from.rfind('@') + 1)});
}

TEST(UserTable, KnowsItsUsers) {
  const UserTable table =
      table_of("# ours\n\nalice:" + std::string(scram) + "\r\nbob@x.test:" + std::string(bcrypt) + "\n");
  EXPECT_EQ(table.size(), 2u);
  EXPECT_TRUE(table.matches("alice", "pencil"));
  EXPECT_FALSE(table.matches("alice", "U*U"));
  EXPECT_FALSE(table.matches("Alice", "pencil"));
  EXPECT_TRUE(table.matches("bob@x.test", "U*U"));
  EXPECT_FALSE(table.all_have_verifiers());
  EXPECT_TRUE(table_of("alice:" + std::string(scram)).all_have_verifiers());
  EXPECT_FALSE(table_of("").all_have_verifiers());
}

TEST(UserTable, AStrangerWithAUsersPasswordIsAStranger) {
  const UserTable table = table_of("alice:" + std::string(scram) + "\n");
  EXPECT_FALSE(table.matches("mallory", "pencil"));
  EXPECT_FALSE(table_of("").matches("mallory", "pencil"));
}

TEST(UserTable, AStrangersVerifierLooksLikeAUsersAndStaysTheSame) {
  const std::string text = "alice:" + std::string(scram) + "\nbob:" + std::string(bcrypt) + "\n";
  const UserTable table = table_of(text);
  EXPECT_EQ(table.scram_verifier("alice").iterations, 4096u);
  for (const std::string_view user : {"bob", "mallory"}) {
    const sasl::ScramVerifier made = table.scram_verifier(user);
    EXPECT_EQ(made.iterations, 4096u);
    EXPECT_EQ(made.salt.size(), 16u);
    EXPECT_EQ(table_of(text + "carol:" + std::string(scram) + "\n").scram_verifier(user).salt, made.salt)
        << "whoever is added";
    EXPECT_NE(table.scram_verifier(std::string(user) + "y").salt, made.salt);
    EXPECT_NE(table_of(text, "another").scram_verifier(user).salt, made.salt);
    EXPECT_NE(table.scram_verifier("alice").stored_key, made.stored_key);
  }
  EXPECT_EQ(table_of("").scram_verifier("mallory").salt.size(), 16u);
}

TEST(UserTable, HoldsUsersToTheirSenders) {
  const std::string hash(bcrypt);
  const UserTable table = table_of("any:" + hash + "\none:" + hash + ":One@X.test, two@x.test,@Y.test\n");
  EXPECT_TRUE(may_send(table, "any", "whoever@wherever.test"));
  EXPECT_TRUE(may_send(table, "one", "one@x.test"));
  EXPECT_TRUE(may_send(table, "one", "ONE@X.TEST"));
  EXPECT_TRUE(may_send(table, "one", "\"one\"@x.test"));
  EXPECT_TRUE(may_send(table, "one", "two@x.test"));
  EXPECT_TRUE(may_send(table, "one", "whoever@y.test"));
  EXPECT_FALSE(may_send(table, "one", "three@x.test"));
  EXPECT_FALSE(may_send(table, "one", "@x.test"));
  EXPECT_FALSE(may_send(table, "one", "one@sub.y.test"));
  EXPECT_FALSE(may_send(table, "one", "one@[192.0.2.1]"));
  EXPECT_FALSE(may_send(table, "one", "\"one@x.test\"@z.test"));
  EXPECT_TRUE(table.may_send_from("one", {}));
  EXPECT_FALSE(may_send(table, "gone", "one@x.test"));
  EXPECT_FALSE(table.may_send_from("gone", {}));
}

TEST(UserTable, SaysWhatIsWrongAndWhere) {
  const std::string hash(bcrypt);
  EXPECT_EQ(fault("a:" + hash + "\nb\n"), "users:2: no colon; write USER:HASH, as postern-passwd does");
  EXPECT_THAT(fault("a:secret"), testing::AllOf(StartsWith("users:1: user a: no hash of a known kind "),
                                                HasSubstr("make it with postern-passwd")));
  EXPECT_THAT(fault(":" + hash), HasSubstr("is no name"));
  EXPECT_THAT(fault(" a:" + hash), HasSubstr("without spaces around it"));
  EXPECT_THAT(fault("\xFF:" + hash), HasSubstr("is no name"));
  EXPECT_THAT(fault(std::string(256, 'a') + ":" + hash), HasSubstr("is no name"));
  EXPECT_THAT(fault("a:" + hash + "\n\na:" + hash), HasSubstr("users:3: user a stands here a second time"));
  EXPECT_THAT(fault("a:" + hash + ":"), HasSubstr("leave the last colon out"));
  EXPECT_THAT(fault("a:" + hash + ":x@y.test,"), HasSubstr("\"\" is no sender"));
  EXPECT_THAT(fault("a:" + hash + ":y.test"), HasSubstr("\"y.test\" is no sender"));
  std::string many = "a:" + hash + ":x@y.test";
  for (int i = 0; i < 1000; ++i) many += ",x@y.test";
  EXPECT_THAT(fault(many), HasSubstr("more than 1,000 senders"));
}

}  // namespace
}  // namespace postern::policy
