// RecipientTable: look-ups, aliases and their bounds, and what is said of wrong entries.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <postern/policy/recipient_table.h>

namespace postern::policy {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Found = RecipientTable::Found;

mail::PathView path(std::string_view text) {
  const std::size_t at = text.rfind('@');
  return {text, static_cast<std::uint16_t>(at == std::string_view::npos ? text.size() : at + 1)};
}

RecipientTable table(std::string_view text, char separator = '\0') {
  RecipientTableBuilder builder(separator, 7);
  const Status status = builder.add_lines(text, "file");
  EXPECT_TRUE(status.ok()) << message_of(status);
  StatusOr<RecipientTable> made = std::move(builder).finish();
  EXPECT_TRUE(made.ok()) << message_of(made.status());
  return *std::move(made);
}

std::string fault(std::string_view text) {
  RecipientTableBuilder builder('\0');
  const Status status = builder.add_lines(text, "file");
  if (!status.ok()) return std::string(message_of(status));
  const StatusOr<RecipientTable> made = std::move(builder).finish();
  return made.ok() ? "" : std::string(message_of(made.status()));
}

Found found(const RecipientTable& table, std::string_view address) {
  std::vector<std::string_view> targets;
  return table.find(path(address), targets);
}

std::vector<std::string> targets(const RecipientTable& table, std::string_view address) {
  std::vector<std::string_view> found{"left from before"};
  EXPECT_EQ(table.find(path(address), found), Found::alias) << address;
  return {found.begin(), found.end()};
}

TEST(RecipientTable, KnowsItsAddressesAndNobodyElse) {
  const RecipientTable known = table("a@x.test\r\n  b@x.test   # Bob\n\n# c@x.test\nd#e@x.test\na@x.test\n");
  EXPECT_EQ(known.size(), 3u);
  for (const char* const good : {"a@x.test", "A@X.Test", "a@x.test.", "b@x.test", "d#e@x.test", "\"a\"@x.test"}) {
    EXPECT_EQ(found(known, good), Found::exists) << good;
  }
  for (const char* const bad :
       {"c@x.test", "a@y.test", "ab@x.test", "@x.test", "a@sub.x.test", "a+b@x.test", "x.test"}) {
    EXPECT_EQ(found(known, bad), Found::unknown) << bad;
  }
  EXPECT_EQ(found(known, std::string(600, 'a') + "@x.test"), Found::unknown);
  EXPECT_EQ(found(known, "\"" + std::string(600, 'a') + "\"@x.test"), Found::unknown);
  EXPECT_EQ(found(table(""), "a@x.test"), Found::unknown);
}

TEST(RecipientTable, DomainsAreComparedAsDnsDoes) {
  const RecipientTable known = table(
      "a@b\xC3\xBC"
      "cher.example\nb@[192.0.2.1]\n\"two words\"@x.test\n");
  EXPECT_EQ(found(known, "a@xn--bcher-kva.example"), Found::exists);
  EXPECT_EQ(found(known,
                  "a@B\xC3\xBC"
                  "cher.example"),
            Found::exists);
  EXPECT_EQ(found(known, "b@[192.0.2.1]"), Found::exists);
  EXPECT_EQ(found(known, "\"two words\"@x.test"), Found::exists);
  EXPECT_EQ(found(known, "a@x..test"), Found::unknown);
}

TEST(RecipientTable, ThePostmasterExistsEverywhere) {
  EXPECT_EQ(found(table("a@x.test"), "PostMaster@y.test"), Found::exists);
  EXPECT_THAT(targets(table("postmaster@y.test: a@x.test"), "postmaster@y.test"), ElementsAre("a@x.test"));
  EXPECT_THAT(targets(table("@y.test: a@x.test"), "postmaster@y.test"), ElementsAre("a@x.test"));
}

TEST(RecipientTable, ACatchAllIsTheLastResort) {
  const RecipientTable known = table("@x.test: rest@z.test\na@x.test\n@y.test\n");
  EXPECT_EQ(found(known, "a@x.test"), Found::exists);
  EXPECT_THAT(targets(known, "b@x.test"), ElementsAre("rest@z.test"));
  EXPECT_EQ(found(known, "anyone@y.test"), Found::exists);
  EXPECT_EQ(found(known, "a@sub.y.test"), Found::unknown);
}

TEST(RecipientTable, TagsAreLookedUpWithAndWithout) {
  const RecipientTable known =
      table("a@x.test\nb+c@x.test: other@x.test\nb@x.test: b@z.test\n@y.test: q@x.test\n", '+');
  EXPECT_EQ(found(known, "a+tag@x.test"), Found::exists);
  EXPECT_EQ(found(known, "a+tag+more@x.test"), Found::exists);
  EXPECT_EQ(found(known, "+tag@x.test"), Found::unknown);
  EXPECT_THAT(targets(known, "B+C@x.test"), ElementsAre("other@x.test"));
  EXPECT_THAT(targets(known, "b+d@x.test"), ElementsAre("b@z.test"));
  EXPECT_THAT(targets(known, "z+d@y.test"), ElementsAre("q@x.test"));
  EXPECT_EQ(found(table("a@x.test"), "a+tag@x.test"), Found::unknown);
}

TEST(RecipientTable, AliasesAreFollowedAndEachTargetComesOnce) {
  const RecipientTable known = table(
      "all@x.test: one@x.test, team@x.test , One@X.test, out@z.test\n"
      "team@x.test: two@x.test, one@x.test\n"
      "two@x.test: two@x.test, copy@z.test\n"
      "one@x.test\n");
  EXPECT_EQ(known.aliases(), 3u);
  // "One" and "one" are one to us and may be two to a store: both get it.
  EXPECT_THAT(targets(known, "all@x.test"),
              ElementsAre("one@x.test", "two@x.test", "copy@z.test", "One@x.test", "out@z.test"));
  EXPECT_THAT(targets(known, "two@x.test"), ElementsAre("two@x.test", "copy@z.test"));
}

TEST(RecipientTable, ACatchAllMayNameAnAddressThatOnlyItCatches) {
  EXPECT_THAT(targets(table("@x.test: admin@x.test"), "who@x.test"), ElementsAre("admin@x.test"));
}

TEST(RecipientTable, CirclesAndExcessAreRefusedWithTheirLine) {
  EXPECT_THAT(fault("ok@x.test\na@x.test: b@x.test\nb@x.test: c@x.test\nc@x.test: a@x.test\n"),
              ::testing::AllOf(HasSubstr("file:"), HasSubstr("leads back to itself")));
  EXPECT_THAT(fault("a@x.test: b@x.test\n@x.test: a@x.test\n"), HasSubstr("leads back to itself"));
  std::string chain;
  for (int i = 0; i < 11; ++i) {
    chain += "a" + std::to_string(i) + "@x.test: a" + std::to_string(i + 1) + "@x.test\n";
  }
  EXPECT_THAT(fault(chain), HasSubstr("more than 10 deep"));
  EXPECT_EQ(fault(chain.substr(chain.find('\n') + 1)), "");
  std::string wide;
  for (int i = 0; i < 100; ++i) wide += (i == 0 ? "" : ", ") + ("u" + std::to_string(i)) + "@z.test";
  EXPECT_EQ(fault("all@x.test: " + wide), "");
  EXPECT_THAT(fault("all@x.test: " + wide + ", v@z.test"), HasSubstr("at most 100 targets"));
  EXPECT_THAT(fault("all@x.test: " + wide + "\nmore@x.test: all@x.test, one@z.test"),
              HasSubstr("file:2: \"more@x.test\""));
}

TEST(RecipientTable, ALongChainOfAliasesCostsNoStack) {
  std::string chain;
  for (int i = 0; i < 50'000; ++i) {
    chain += "a" + std::to_string(i) + "@x.test: a" + std::to_string(i + 1) + "@x.test\n";
  }
  EXPECT_THAT(fault(chain), HasSubstr("more than 10 deep"));
}

TEST(RecipientTable, WrongEntriesAreRefusedWithTheirLine) {
  for (const char* const bad :
       {"a", "@", "a@", "a b@x.test", "a@x test", "<a@x.test>", ".a@x.test", "a..b@x.test", "a@x.test:", "a@x.test: ,",
        "a@x.test: b", "a@x.test: b@x.test,", "a@x.test: @y.test", "\xC3\xA4@x.test", "a@x.test: \"b@x.test",
        "a@x.test b@x.test", ": a@x.test", "a@x..test"}) {
    EXPECT_THAT(fault(std::string("ok@x.test\n") + bad + "\n"), HasSubstr("file:2: ")) << bad;
  }
  EXPECT_THAT(fault("a@x.test\na@x.test: b@x.test"), HasSubstr("stands there twice"));
  EXPECT_THAT(fault("a@x.test: b@x.test\nA@x.test: c@x.test"), HasSubstr("file:2: "));
  EXPECT_THAT(fault("a@x.test: " + std::string(70'000, 'b') + "@x.test"), HasSubstr("longer than 64 KiB"));
  EXPECT_THAT(fault(std::string(250, 'a') + "@long.test"), HasSubstr("longer than a path"));
}

// A cdb file with these records, and 256 tables without slots behind them: nothing looks into the tables.
std::string cdb(const std::vector<std::pair<std::string, std::string>>& records) {
  const auto number = [](std::size_t value) {
    std::string bytes;
    for (int i = 0; i < 4; ++i) bytes += static_cast<char>(value >> (8 * i) & 0xFF);
    return bytes;
  };
  std::string content;
  for (const auto& [key, value] : records) content += number(key.size()) + number(value.size()) + key + value;
  std::string head;
  for (int i = 0; i < 256; ++i) head += number(2048 + content.size()) + number(0);
  return head + content;
}

TEST(RecipientTable, IsReadFromACdbFile) {
  RecipientTableBuilder builder('\0');
  const std::string file = cdb({{"a@x.test", ""},
                                {std::string("b@x.test\0", 9), std::string("c@z.test, d@z.test\0", 19)},
                                {"@y.test", "a@x.test"}});
  const Status status = builder.add_cdb(as_bytes(file), "file.cdb");
  ASSERT_TRUE(status.ok()) << message_of(status);
  const RecipientTable known = *std::move(builder).finish();
  EXPECT_EQ(known.size(), 3u);
  EXPECT_EQ(found(known, "a@x.test"), Found::exists);
  EXPECT_EQ(found(known, "z@x.test"), Found::unknown);
  EXPECT_THAT(targets(known, "b@x.test"), ElementsAre("c@z.test", "d@z.test"));
  EXPECT_THAT(targets(known, "q@y.test"), ElementsAre("a@x.test"));
}

TEST(RecipientTable, ACdbFileThatIsNoneOrCutOffIsRefused) {
  const std::string file = cdb({{"a@x.test", ""}, {"b@x.test", "c@z.test"}});
  for (std::size_t size = 0; size < file.size(); ++size) {
    // A copy of that size, so that a sanitizer sees every byte read outside of it.
    const std::vector<char> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    RecipientTableBuilder builder('\0');
    EXPECT_FALSE(builder.add_cdb(as_bytes(std::string_view(cut.data(), cut.size())), "file.cdb").ok()) << size;
  }
  // Every byte of the head and of the records' sizes gone wrong: a fault or other entries, and nothing worse.
  for (std::size_t at = 0; at < file.size(); ++at) {
    std::vector<char> wrong(file.begin(), file.end());
    wrong[at] = static_cast<char>(wrong[at] ^ 0x81);
    RecipientTableBuilder builder('\0');
    (void)builder.add_cdb(as_bytes(std::string_view(wrong.data(), wrong.size())), "file.cdb").ok();
  }
  RecipientTableBuilder builder('\0');
  const std::string bad = cdb({{"a@x.test", ""}, {"nobody", ""}});
  EXPECT_THAT(std::string(message_of(builder.add_cdb(as_bytes(bad), "file.cdb"))), HasSubstr("file.cdb:2: \"nobody\""));
}

TEST(RecipientTable, ManyAddressesAreFoundAmongThemselves) {
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "user" + std::to_string(i) + "@x.test\n";
  const RecipientTable known = table(text);
  EXPECT_EQ(known.size(), 20'000u);
  for (int i = 0; i < 20'000; ++i) EXPECT_EQ(found(known, "user" + std::to_string(i) + "@x.test"), Found::exists);
  for (int i = 20'000; i < 21'000; ++i) EXPECT_EQ(found(known, "user" + std::to_string(i) + "@x.test"), Found::unknown);
  EXPECT_LT(known.memory_bytes(), 20'000u * 48u);
}

}  // namespace
}  // namespace postern::policy
