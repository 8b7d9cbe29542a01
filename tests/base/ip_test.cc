#include <array>
#include <string>

#include <arpa/inet.h>
#include <gtest/gtest.h>

#include <postern/base/ip.h>
#include <postern/base/random.h>

namespace postern {
namespace {

std::string normal(std::string_view text) {
  const auto address = IpAddress::parse(text);
  return address ? address->to_string() : "-";
}

TEST(IpAddress, ReadsDottedQuadsStrictly) {
  EXPECT_EQ(normal("192.0.2.1"), "192.0.2.1");
  EXPECT_EQ(normal("0.0.0.0"), "0.0.0.0");
  EXPECT_EQ(normal("255.255.255.255"), "255.255.255.255");
  for (const char* text : {"", "1", "1.2.3", "1.2.3.4.", "1.2.3.4.5", ".1.2.3.4", "256.1.1.1", "01.2.3.4", "1.2.3.00",
                           "1.2.3.4 ", " 1.2.3.4", "+1.2.3.4", "0x1.2.3.4", "1..3.4", "1.2.3.0004", "[1.2.3.4]"}) {
    EXPECT_FALSE(IpAddress::parse(text)) << text;
  }
}

// The examples of RFC 5952 §4 and §1.
TEST(IpAddress, WritesRfc5952) {
  EXPECT_EQ(normal("2001:0db8::0001"), "2001:db8::1");
  EXPECT_EQ(normal("2001:db8:0:0:0:0:2:1"), "2001:db8::2:1");
  EXPECT_EQ(normal("2001:db8:0:1:1:1:1:1"), "2001:db8:0:1:1:1:1:1") << "one group alone is not shortened";
  EXPECT_EQ(normal("2001:0:0:1:0:0:0:1"), "2001:0:0:1::1") << "the longest run";
  EXPECT_EQ(normal("2001:db8:0:0:1:0:0:1"), "2001:db8::1:0:0:1") << "the first of equals";
  EXPECT_EQ(normal("2001:DB8::ABCD"), "2001:db8::abcd");
  EXPECT_EQ(normal("::"), "::");
  EXPECT_EQ(normal("::1"), "::1");
  EXPECT_EQ(normal("1::"), "1::");
  EXPECT_EQ(normal("0:0:1::"), "0:0:1::");
  EXPECT_EQ(normal("::ffff:192.0.2.1"), "192.0.2.1") << "a mapped address is the IPv4 address";
}

TEST(IpAddress, RefusesWhatRfc4291DoesNotAllow) {
  for (const char* text : {":", ":::", "1:", ":1", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1::2::3", "12345::", "g::",
                           "1:2:3:4:5:6:7::8", "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:1.2.3.4",
                           "::1.2.3", "::1.2.3.4:5", "fe80::1%eth0", "[::1]", "::1 ", "1:2:3:4:5:6:7:"}) {
    EXPECT_FALSE(IpAddress::parse(text)) << text;
  }
}

TEST(IpAddress, AgreesWithTheSystemOnRandomTexts) {
  Random random(5);
  constexpr std::string_view alphabet = "0123af:::..";
  for (int i = 0; i < 50'000; ++i) {
    std::string text(random.below(24), '\0');
    for (char& c : text) c = alphabet[random.below(alphabet.size())];
    std::array<std::uint8_t, 16> system{};
    const bool v6 = text.find(':') != std::string::npos;
    const bool expected = inet_pton(v6 ? AF_INET6 : AF_INET, text.c_str(), system.data()) == 1;
    const auto address = IpAddress::parse(text);
    ASSERT_EQ(address.has_value(), expected) << text;
    if (address && v6) {
      ASSERT_EQ(address->bytes(), system) << text;
    }
  }
}

TEST(IpAddress, TextAndValueAreTheSame) {
  Random random(6);
  for (int i = 0; i < 20'000; ++i) {
    std::array<std::uint8_t, 16> bytes{};
    for (auto& byte : bytes) byte = random.below(2) == 0 ? 0 : static_cast<std::uint8_t>(random());
    const IpAddress address = IpAddress::v6(bytes);
    ASSERT_EQ(IpAddress::parse(address.to_string()), address) << address.to_string();
  }
}

TEST(IpAddress, AddressLiteralsFollowRfc5321) {
  EXPECT_EQ(IpAddress::parse("192.0.2.1")->to_address_literal(), "[192.0.2.1]");
  EXPECT_EQ(IpAddress::parse("2001:db8::1")->to_address_literal(), "[IPv6:2001:db8::1]");
}

bool contains(std::string_view network, std::string_view address) {
  return IpNetwork::parse(network)->contains(*IpAddress::parse(address));
}

TEST(IpNetwork, ContainsByPrefix) {
  EXPECT_TRUE(contains("127.0.0.0/8", "127.255.0.1"));
  EXPECT_FALSE(contains("127.0.0.0/8", "128.0.0.1"));
  EXPECT_TRUE(contains("192.0.2.128/25", "192.0.2.200"));
  EXPECT_FALSE(contains("192.0.2.128/25", "192.0.2.127"));
  EXPECT_TRUE(contains("192.0.2.7", "192.0.2.7"));
  EXPECT_FALSE(contains("192.0.2.7", "192.0.2.6"));
  EXPECT_TRUE(contains("2001:db8::/32", "2001:db8:ffff::1"));
  EXPECT_FALSE(contains("2001:db8::/33", "2001:db8:8000::1"));
  EXPECT_TRUE(contains("::1/128", "::1"));
}

TEST(IpNetwork, TheFamiliesDoNotMix) {
  EXPECT_TRUE(contains("0.0.0.0/0", "8.8.8.8"));
  EXPECT_FALSE(contains("0.0.0.0/0", "2001:db8::1"));
  EXPECT_TRUE(contains("::/0", "2001:db8::1"));
  EXPECT_FALSE(contains("::/0", "8.8.8.8"));
  EXPECT_TRUE(contains("0.0.0.0/0", "::ffff:8.8.8.8"));
}

TEST(IpNetwork, RefusesWithReason) {
  for (const char* text : {"", "/8", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "10.0.0.1/8",
                           "2001:db8::1/64", "example.test/8"}) {
    const auto network = IpNetwork::parse(text);
    ASSERT_FALSE(network.ok()) << text;
    EXPECT_EQ(network.status().code(), StatusCode::kInvalidArgument);
  }
}

TEST(IpNetwork, PrintsWhatItReads) {
  for (const char* text : {"10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "::/0", "2001:db8::/32"}) {
    EXPECT_EQ(IpNetwork::parse(text)->to_string(), text);
  }
}

}  // namespace
}  // namespace postern
