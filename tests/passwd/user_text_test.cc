// One line of a file of users exchanged.
#include "passwd/user_text.h"

#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace postern::passwd {
namespace {

constexpr std::string_view text = "# ours\n\na:one\nab:two:x@y.test\r\n#ab:no\nb:three";

TEST(UserText, FindsTheLineOfAUser) {
  EXPECT_EQ(find_entry(text, "a")->hash, "one");
  EXPECT_EQ(find_entry(text, "a")->senders, std::nullopt);
  EXPECT_EQ(find_entry(text, "ab")->hash, "two");
  EXPECT_EQ(find_entry(text, "ab")->senders, "x@y.test");
  EXPECT_EQ(find_entry(text, "b")->hash, "three");
  for (const std::string_view none : {"c", "", "# ours", "one", "#ab", "a:one"})
    EXPECT_FALSE(find_entry(text, none)) << none;
  EXPECT_FALSE(find_entry("", "a"));
  EXPECT_FALSE(find_entry("a", "a"));
}

TEST(UserText, ExchangesOneLineAndKeepsItsSenders) {
  EXPECT_EQ(with_entry(text, "a", "new", std::nullopt), "# ours\n\na:new\nab:two:x@y.test\r\n#ab:no\nb:three");
  EXPECT_EQ(with_entry(text, "ab", "new", std::nullopt), "# ours\n\na:one\nab:new:x@y.test\n#ab:no\nb:three");
  EXPECT_EQ(with_entry(text, "ab", "new", "@z.test"), "# ours\n\na:one\nab:new:@z.test\n#ab:no\nb:three");
  EXPECT_EQ(with_entry(text, "b", "new", std::nullopt), "# ours\n\na:one\nab:two:x@y.test\r\n#ab:no\nb:new\n");
}

TEST(UserText, AddsAtTheEnd) {
  EXPECT_EQ(with_entry("", "a", "new", std::nullopt), "a:new\n");
  EXPECT_EQ(with_entry("b:x", "a", "new", "@z.test"), "b:x\na:new:@z.test\n");
  EXPECT_EQ(with_entry("b:x\n", "a", "new", std::nullopt), "b:x\na:new\n");
}

TEST(UserText, RemovesALine) {
  EXPECT_EQ(without(text, *find_entry(text, "ab")), "# ours\n\na:one\n#ab:no\nb:three");
  EXPECT_EQ(without(text, *find_entry(text, "b")), "# ours\n\na:one\nab:two:x@y.test\r\n#ab:no\n");
}

TEST(UserText, IsCheckedAsTheDaemonDoes) {
  EXPECT_TRUE(check_text("# nobody\n", "users").ok());
  EXPECT_EQ(message_of(check_text("a", "users")), "users:1: no colon; write USER:HASH, as postern-passwd does");
}

}  // namespace
}  // namespace postern::passwd
