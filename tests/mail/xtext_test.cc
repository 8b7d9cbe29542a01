#include <string>

#include <gtest/gtest.h>

#include <postern/mail/xtext.h>

namespace postern::mail {
namespace {

TEST(Xtext, EncodesPlusAndEqualsAndNothingElseThatIsPrintable) {
  EXPECT_TRUE(is_xtext(""));
  EXPECT_TRUE(is_xtext("a+2Bb+3Dc"));
  EXPECT_TRUE(is_xtext("!\"#$%&'()*,-./09:;<>?@AZ[\\]^_`az{|}~"));
  EXPECT_FALSE(is_xtext("a+b"));
  EXPECT_FALSE(is_xtext("a=b"));
  EXPECT_FALSE(is_xtext("a b"));
  EXPECT_FALSE(is_xtext("a\tb"));
  EXPECT_FALSE(is_xtext("a\x7F"));
  EXPECT_FALSE(is_xtext("\xC3\xA4"));
}

TEST(Xtext, HexIsTwoUpperCaseDigitsAndNeverNul) {
  EXPECT_EQ(decode_xtext("a+2Bb"), "a+b");
  EXPECT_EQ(decode_xtext("+0A+FF"), "\n\xFF");
  for (const char* bad : {"+", "+2", "+2b", "+g0", "+00", "x+00y", "++2B"}) {
    EXPECT_EQ(decode_xtext(bad), std::nullopt) << bad;
    EXPECT_FALSE(is_xtext(bad)) << bad;
  }
}

TEST(Xtext, DecodesWhatItEncodes) {
  std::string all;
  for (int c = 1; c < 256; ++c) all += static_cast<char>(c);
  std::string encoded;
  append_xtext(encoded, all + std::string(1, '\0'));
  EXPECT_TRUE(is_xtext(encoded));
  EXPECT_EQ(decode_xtext(encoded), all);
}

TEST(Xtext, AnEnvelopeIdIsPrintableAndBounded) {
  EXPECT_TRUE(is_envelope_id("QQ314159"));
  EXPECT_TRUE(is_envelope_id("a+20b"));
  EXPECT_TRUE(is_envelope_id(std::string(100, 'x')));
  EXPECT_FALSE(is_envelope_id(std::string(101, 'x')));
  EXPECT_FALSE(is_envelope_id(""));
  EXPECT_FALSE(is_envelope_id("a+0D+0AX:y"));
  EXPECT_FALSE(is_envelope_id("a+E4"));
}

TEST(Xtext, AnOriginalRecipientHasATypeAndIsBounded) {
  EXPECT_TRUE(is_original_recipient("rfc822;us+2Ber@example.test", false));
  EXPECT_FALSE(is_original_recipient("x400;C=de", false));
  EXPECT_TRUE(is_original_recipient("rfc822;" + std::string(493, 'x'), false));
  EXPECT_FALSE(is_original_recipient("rfc822;" + std::string(494, 'x'), false));
  for (const char* bad : {"", ";a@b", "rfc822;", "rfc822", "rfc 822;a@b", "rfc.822;a@b", "rfc822;a+00b", "rfc822;a+0Ab",
                          "rfc822;a=b", "rfc822;a b"}) {
    EXPECT_FALSE(is_original_recipient(bad, false)) << bad;
  }
  EXPECT_FALSE(is_original_recipient(std::string(65, 't') + ";a@b", false));
}

TEST(Xtext, AUtf8AddressHasItsOwnNotation) {
  EXPECT_TRUE(is_original_recipient("utf-8;gr\\x{FC}n@example.test", false));
  EXPECT_TRUE(is_original_recipient("UTF-8;\\x{1F600}@example.test", false));
  EXPECT_TRUE(is_original_recipient("utf-8;gr\xC3\xBCn@example.test", true));
  EXPECT_FALSE(is_original_recipient("utf-8;gr\xC3\xBCn@example.test", false));
  for (const char* bad : {"utf-8;a\\b", "utf-8;\\x{}", "utf-8;\\x{D800}", "utf-8;\\x{110000}", "utf-8;\\x{00}",
                          "utf-8;a+2Bb", "utf-8;\xC3", "utf-8;\\x{fc}"}) {
    EXPECT_FALSE(is_original_recipient(bad, true)) << bad;
  }
}

}  // namespace
}  // namespace postern::mail
