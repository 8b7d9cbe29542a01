#include "io/address.h"

#include <cstddef>
#include <cstring>
#include <string>

#include <arpa/inet.h>
#include <gtest/gtest.h>

namespace postern::io {
namespace {

TEST(Address, PrintsWhatItParses) {
  for (const char* const text : {"192.0.2.1:25", "0.0.0.0:0", "255.255.255.255:65535", "[2001:db8::1]:25", "[::]:2525",
                                 "[::1]:1", "unix:/run/postern/x.sock", "unix:relative"}) {
    const auto address = Address::parse(text);
    ASSERT_TRUE(address.ok()) << text << ": " << address.status().message();
    EXPECT_EQ(address->to_string(), text);
    EXPECT_FALSE(address->empty());
  }
}

TEST(Address, RefusesWhatIsNoneAndSaysWhy) {
  const std::string long_path = "unix:/" + std::string(107, 'x');
  for (const std::string& text : {std::string(),
                                  std::string("192.0.2.1"),
                                  std::string("192.0.2.1:"),
                                  std::string("192.0.2.1:65536"),
                                  std::string("192.0.2.1:-1"),
                                  std::string("192.0.2.1:+25"),
                                  std::string("192.0.2.1: 25"),
                                  std::string("192.0.2.1:25x"),
                                  std::string("192.0.2:25"),
                                  std::string("localhost:25"),
                                  std::string("2001:db8::1:25"),
                                  std::string("[2001:db8::1]"),
                                  std::string("[2001:db8::1"),
                                  std::string("[2001:db8::1]25"),
                                  std::string("[192.0.2.1]:25"),
                                  std::string("[]:25"),
                                  std::string(":25"),
                                  std::string("unix:"),
                                  std::string("unix:a\0b", 8),
                                  long_path}) {
    const auto address = Address::parse(text);
    EXPECT_FALSE(address.ok()) << text;
    EXPECT_EQ(address.status().code(), StatusCode::kInvalidArgument) << text;
    EXPECT_GT(message_of(address.status()).size(), text.size() + 15) << "says what is wrong";
  }
}

TEST(Address, PartsAreThoseGiven) {
  const auto v4 = Address::parse("192.0.2.1:25");
  ASSERT_TRUE(v4.ok());
  EXPECT_TRUE(v4->is_ip());
  EXPECT_FALSE(v4->is_unix());
  EXPECT_EQ(v4->ip(), IpAddress::v4({192, 0, 2, 1}));
  EXPECT_EQ(v4->port(), 25);
  EXPECT_EQ(v4->kernel()->sa_family, AF_INET);
  EXPECT_EQ(v4->kernel_size(), sizeof(sockaddr_in));

  const auto v6 = Address::parse("[2001:db8::1]:2525");
  ASSERT_TRUE(v6.ok());
  EXPECT_FALSE(v6->ip().is_v4());
  EXPECT_EQ(v6->port(), 2525);
  EXPECT_EQ(v6->kernel()->sa_family, AF_INET6);

  const Address local = Address::unix_path("/run/x");
  EXPECT_TRUE(local.is_unix());
  EXPECT_FALSE(local.is_ip());
  EXPECT_EQ(local.path(), "/run/x");
  EXPECT_EQ(local.port(), 0);

  EXPECT_TRUE(Address().empty());
  EXPECT_FALSE(Address().is_ip());
  EXPECT_FALSE(Address().is_unix());
}

TEST(Address, LongestUnixPathFits) {
  const std::string path = "/" + std::string(106, 'x');
  const Address address = Address::unix_path(path);
  EXPECT_EQ(address.path(), path);
  EXPECT_EQ(Address::from_kernel(address.kernel(), address.kernel_size()), address);
}

TEST(Address, ComparesByMeaningNotByPadding) {
  const auto one = Address::parse("192.0.2.1:25");
  sockaddr_in padded{};
  std::memset(&padded, 0xEE, sizeof padded);
  padded.sin_family = AF_INET;
  padded.sin_port = htons(25);
  padded.sin_addr.s_addr = htonl(0xC000'0201);
  EXPECT_EQ(Address::from_kernel(reinterpret_cast<const sockaddr*>(&padded), sizeof padded), *one);
  EXPECT_NE(*Address::parse("192.0.2.1:26"), *one);
  EXPECT_NE(*Address::parse("192.0.2.2:25"), *one);
  EXPECT_NE(*Address::parse("[2001:db8::1]:25"), *one);
  EXPECT_NE(Address::unix_path("/a"), Address::unix_path("/b"));
  EXPECT_NE(Address(), *one);
  EXPECT_EQ(Address(), Address());
}

TEST(Address, MappedIpv4FromTheKernelIsIpv4) {
  sockaddr_in6 mapped{};
  mapped.sin6_family = AF_INET6;
  mapped.sin6_port = htons(25);
  inet_pton(AF_INET6, "::ffff:192.0.2.1", &mapped.sin6_addr);
  const Address address = Address::from_kernel(reinterpret_cast<const sockaddr*>(&mapped), sizeof mapped);
  EXPECT_EQ(address.to_string(), "192.0.2.1:25");
  EXPECT_EQ(address, *Address::parse("192.0.2.1:25"));
}

TEST(Address, UnnamedUnixSocketHasNoPath) {
  sockaddr_un unnamed{};
  unnamed.sun_family = AF_UNIX;
  const Address address = Address::from_kernel(reinterpret_cast<const sockaddr*>(&unnamed), sizeof(sa_family_t));
  EXPECT_TRUE(address.is_unix());
  EXPECT_EQ(address.path(), "");
  EXPECT_EQ(address.to_string(), "unix:");
}

TEST(Address, FromKernelRefusesShortAndUnknown) {
  sockaddr_in v4{};
  v4.sin_family = AF_INET;
  EXPECT_TRUE(Address::from_kernel(reinterpret_cast<const sockaddr*>(&v4), 4).empty());
  EXPECT_TRUE(Address::from_kernel(reinterpret_cast<const sockaddr*>(&v4), 0).empty());
  EXPECT_TRUE(Address::from_kernel(nullptr, 16).empty());
  v4.sin_family = AF_NETLINK;
  EXPECT_TRUE(Address::from_kernel(reinterpret_cast<const sockaddr*>(&v4), sizeof v4).empty());
}

}  // namespace
}  // namespace postern::io
