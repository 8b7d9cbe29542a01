#include <gtest/gtest.h>

#include <postern/route/domain.h>

namespace postern::route {
namespace {

TEST(NormaliseDomain, CaseFinalDotAndULabelsGo) {
  EXPECT_EQ(*normalise_domain("Example.NET"), "example.net");
  EXPECT_EQ(*normalise_domain("example.net."), "example.net");
  EXPECT_EQ(*normalise_domain("bücher.example"), "xn--bcher-kva.example");
  EXPECT_EQ(*normalise_domain("BÜCHER.example"), "xn--bcher-kva.example");
  EXPECT_EQ(*normalise_domain("XN--BCHER-KVA.example"), "xn--bcher-kva.example");
  EXPECT_EQ(*normalise_domain("_dmarc.example"), "_dmarc.example");
}

TEST(NormaliseDomain, AddressLiteralsBecomeCanonical) {
  EXPECT_EQ(*normalise_domain("[192.0.2.1]"), "[192.0.2.1]");
  EXPECT_EQ(*normalise_domain("[ipv6:2001:DB8:0::1]"), "[IPv6:2001:db8::1]");
}

TEST(NormaliseDomain, RefusesWhatIsNoDomain) {
  const std::string long_label(64, 'a');
  const std::string too_long =
      std::string(63, 'a') + "." + std::string(63, 'a') + "." + std::string(63, 'a') + "." + std::string(62, 'a');
  for (const std::string& bad :
       {std::string(""), std::string("."), std::string("a..b"), std::string("-a.test"), std::string("a-.test"),
        std::string("a b"), std::string("a/b"), std::string("a\0b", 3), std::string("[192.0.2]"),
        std::string("[2001:db8::1]"), std::string("[IPv6:192.0.2.1]"), std::string("[192.0.2.1"), std::string("[]"),
        std::string("\xff\xfe.test"), long_label, too_long}) {
    EXPECT_FALSE(normalise_domain(bad).ok()) << bad;
  }
  EXPECT_TRUE(normalise_domain(too_long.substr(1)).ok());
}

TEST(UnquoteLocalPart, QuotesAndBackslashesAreNotPartOfTheName) {
  EXPECT_EQ(unquote_local_part("user"), "user");
  EXPECT_EQ(unquote_local_part("\"john doe\""), "john doe");
  EXPECT_EQ(unquote_local_part("\"a\\\"b\\\\c\""), "a\"b\\c");
  EXPECT_EQ(unquote_local_part("\""), "\"");
}

}  // namespace
}  // namespace postern::route
