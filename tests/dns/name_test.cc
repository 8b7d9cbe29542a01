#include <gtest/gtest.h>

#include <postern/dns/name.h>

namespace postern::dns {
namespace {

TEST(Name, CaseNeverMatters) {
  EXPECT_EQ(Name::parse("MX1.Example.NET"), Name::parse("mx1.example.net."));
  EXPECT_EQ(Name::parse("MX1.Example.NET")->to_text(), "mx1.example.net");
}

TEST(Name, RootIsADotAndNothingElse) {
  EXPECT_TRUE(Name::parse(".")->is_root());
  EXPECT_EQ(Name().to_text(), ".");
  EXPECT_FALSE(Name().is_host_name());
  EXPECT_FALSE(Name::parse(""));
  EXPECT_FALSE(Name::parse(".."));
}

TEST(Name, LengthsAreThoseOfRfc1035) {
  const std::string label63(63, 'a');
  EXPECT_TRUE(Name::parse(label63));
  EXPECT_FALSE(Name::parse(label63 + "a"));
  const std::string name253 = label63 + "." + label63 + "." + label63 + "." + std::string(61, 'b');
  ASSERT_TRUE(Name::parse(name253));
  EXPECT_EQ(Name::parse(name253)->wire().size(), Name::wire_bytes_max);
  EXPECT_TRUE(Name::parse(name253 + "."));
  EXPECT_FALSE(Name::parse(name253 + "b"));
  EXPECT_FALSE(Name::parse("a..b"));
  EXPECT_FALSE(Name::parse(".a"));
}

TEST(Name, AnyOctetSurvivesTheText) {
  const std::string wire(
      "\x05"
      "a.\\\x00\xff"
      "\x01"
      "b\x00",
      9);
  const std::optional<Name> name = Name::from_wire(wire);
  ASSERT_TRUE(name);
  EXPECT_EQ(name->to_text(), "a\\.\\\\\\000\\255.b");
  EXPECT_EQ(Name::parse(name->to_text()), name);
  EXPECT_FALSE(name->is_host_name());
  EXPECT_FALSE(Name::parse("a\\"));
  EXPECT_FALSE(Name::parse("a\\25"));
  EXPECT_FALSE(Name::parse("a\\256"));
}

TEST(Name, WireFormIsCheckedToItsLastOctet) {
  EXPECT_FALSE(Name::from_wire(""));
  EXPECT_FALSE(Name::from_wire(std::string_view("\x01", 1)));
  EXPECT_FALSE(
      Name::from_wire(std::string_view("\x01"
                                       "a",
                                       2)));
  EXPECT_FALSE(Name::from_wire(std::string_view("\x00\x00", 2)));
  EXPECT_FALSE(Name::from_wire(std::string_view("\xC0\x00", 2)));
}

TEST(Name, WithinAZoneGoesByWholeLabels) {
  const Name zone = *Name::parse("example.net");
  EXPECT_TRUE(Name::parse("example.net")->is_within(zone));
  EXPECT_TRUE(Name::parse("a.b.example.net")->is_within(zone));
  EXPECT_TRUE(Name::parse("example.net")->is_within(Name()));
  EXPECT_FALSE(Name::parse("badexample.net")->is_within(zone));
  EXPECT_FALSE(Name::parse("net")->is_within(zone));
  EXPECT_FALSE(Name::parse("x\\007example\\003net")->is_within(zone));
}

TEST(Name, HostNamesHaveLettersDigitsHyphensAndUnderscores) {
  EXPECT_TRUE(Name::parse("_dmarc.a-1.test")->is_host_name());
  EXPECT_FALSE(Name::parse("a b.test")->is_host_name());
  EXPECT_FALSE(Name::parse("a\\.b.test")->is_host_name());
}

}  // namespace
}  // namespace postern::dns
