// What is kept of passwords: which texts are taken, and which passwords they are of.
#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <postern/sasl/base64.h>
#include <postern/sasl/password.h>

namespace postern::sasl {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::string_view salt = "0123456789abcdef";

std::string fault(std::string_view text) {
  const auto parsed = StoredPassword::parse(text);
  return parsed.ok() ? "" : std::string(message_of(parsed.status()));
}

TEST(StoredPassword, OfEachSchemeKnowsItsPassword) {
  for (const std::string_view name : {"scram-sha-256", "yescrypt", "bcrypt", "sha512"}) {
    const auto scheme = scheme_named(name);
    ASSERT_TRUE(scheme) << name;
    const auto text = store_password(*scheme, "p\xC3\xA4ss word", salt);
    ASSERT_TRUE(text.ok()) << name;
    EXPECT_EQ(text->find(':'), std::string::npos) << "it stands in a file of such fields";
    const auto stored = StoredPassword::parse(*text);
    ASSERT_TRUE(stored.ok()) << name << ": " << *text << ": " << message_of(stored.status());
    EXPECT_TRUE(stored->matches("p\xC3\xA4ss word")) << name;
    for (const std::string_view wrong : {"", "p\xC3\xA4ss worD", "p\xC3\xA4ss", "p\xC3\xA4ss word "}) {
      EXPECT_FALSE(stored->matches(wrong)) << name << " " << wrong;
    }
    EXPECT_EQ(stored->scram() != nullptr, name == "scram-sha-256");
  }
  EXPECT_EQ(scheme_named("md5"), std::nullopt);
}

TEST(StoredPassword, OfOtherProgramsIsUnderstood) {
  // The vectors of crypt_blowfish and of the SHA-crypt specification.
  const auto bcrypt = StoredPassword::parse("$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW");
  ASSERT_TRUE(bcrypt.ok());
  EXPECT_TRUE(bcrypt->matches("U*U"));
  EXPECT_FALSE(bcrypt->matches("U*U*"));
  const auto sha512 = StoredPassword::parse(
      "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/"
      "y3RnOaw5v.");
  ASSERT_TRUE(sha512.ok());
  EXPECT_TRUE(sha512->matches("Hello world!"));
  EXPECT_FALSE(sha512->matches("Hello world"));
}

TEST(StoredPassword, OfTheScramExample) {  // [RFC 7677 §3]
  const auto made = make_scram_verifier("pencil", *from_base64("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096);
  EXPECT_EQ(to_base64(as_text(made.stored_key)), "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=");
  EXPECT_EQ(to_base64(as_text(made.server_key)), "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=");
  const auto parsed = StoredPassword::parse(
      "{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,"
      "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=");
  ASSERT_TRUE(parsed.ok());
  EXPECT_TRUE(parsed->matches("pencil"));
  EXPECT_FALSE(parsed->matches("Pencil"));
}

TEST(StoredPassword, IsRefusedWithACure) {
  EXPECT_THAT(fault(""), HasSubstr("postern-passwd"));
  EXPECT_THAT(fault("secret"), HasSubstr("no hash of a known kind"));
  EXPECT_THAT(fault("$1$salt$qJH7.N4xYta3aEG/dfqo/0"), HasSubstr("no hash of a known kind"));
  EXPECT_THAT(fault("$2b$16$" + std::string(53, '.')), HasSubstr("cost above 15"));
  EXPECT_THAT(fault("$2b$10$" + std::string(52, '.')), HasSubstr("cut or changed"));
  EXPECT_THAT(fault("$2b$"), HasSubstr("cut or changed"));
  EXPECT_THAT(fault("$6$rounds=999999999$a$b"), HasSubstr("5,000,000 rounds"));
  EXPECT_THAT(fault("$6$rounds="), HasSubstr("5,000,000 rounds"));
  EXPECT_THAT(fault("$6$salt$short"), HasSubstr("cut or changed"));
  EXPECT_THAT(fault("$y$jFT$salt$" + std::string(43, '.')), HasSubstr("64 MiB"));
  EXPECT_THAT(fault("$y$j9T$salt$" + std::string(42, '.')), HasSubstr("cut or changed"));
  EXPECT_THAT(fault("$y$"), HasSubstr("no hash of a known kind"));
  EXPECT_THAT(fault(std::string("$6$") + std::string(5000, '.')), HasSubstr("no hash of a known kind"));
  const std::string key(43, 'A');
  EXPECT_THAT(fault("{SCRAM-SHA-256}4095,AAAA," + key + "=," + key + "="), HasSubstr("4,096 … 1,000,000"));
  EXPECT_THAT(fault("{SCRAM-SHA-256}1000001,AAAA," + key + "=," + key + "="), HasSubstr("4,096 … 1,000,000"));
  EXPECT_EQ(fault("{SCRAM-SHA-256}4096,AAAA," + key + "=," + key + "="), "");
  for (const std::string& text :
       {std::string("{SCRAM-SHA-256}"), "{SCRAM-SHA-256}4096,AAAA," + key + "=",
        "{SCRAM-SHA-256}4096,," + key + "=," + key + "=", "{SCRAM-SHA-256}4096,AAAA,AAAA," + key + "=",
        "{SCRAM-SHA-256}x,AAAA," + key + "=," + key + "=", "{SCRAM-SHA-256}4096,AAAA," + key + "=," + key + "=,AAAA"}) {
    EXPECT_THAT(fault(text), StartsWith("a SCRAM verifier is")) << text;
  }
}

TEST(StoredPassword, IsMadeOfNothingThatWouldNotBeChecked) {
  for (const Scheme scheme : {Scheme::scram_sha_256, Scheme::sha512}) {
    EXPECT_FALSE(store_password(scheme, "", salt).ok());
    EXPECT_FALSE(store_password(scheme, "a\tb", salt).ok());
    EXPECT_FALSE(store_password(scheme, "\xFF", salt).ok());
    EXPECT_FALSE(store_password(scheme, std::string(512, 'a'), salt).ok());
  }
  EXPECT_FALSE(store_password(Scheme::bcrypt, std::string(73, 'a'), salt).ok());
}

TEST(Secret, IsOverwrittenWhenItMoves) {
  Secret one("short");
  const char* const bytes = one.view().data();
  const Secret other(std::move(one));
  EXPECT_EQ(other.view(), "short");
  EXPECT_EQ(std::string(bytes, 5), std::string(5, '\0'));  // a short text lies in the object itself
}

TEST(Wipe, ReachesWhatStandsBehindTheEnd) {
  std::string text(100, 'x');
  const char* const bytes = text.data();
  text.resize(10);
  wipe(text);
  EXPECT_TRUE(text.empty());
  EXPECT_EQ(std::string(bytes, 100), std::string(100, '\0'));
}

}  // namespace
}  // namespace postern::sasl
