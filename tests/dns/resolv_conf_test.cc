#include <gtest/gtest.h>

#include <postern/dns/resolv_conf.h>

namespace postern::dns {
namespace {

TEST(ResolvConf, ServersAndOptionsAreRead) {
  const ResolvConf conf = parse_resolv_conf(
      "# comment\n; comment\nsearch example.test\nnameserver 192.0.2.1 \n\tnameserver\t2001:db8::1\r\nnameserver "
      "fe80::1%eth0\n"
      "nameserver 192.0.2.1\noptions timeout:5 attempts:2 rotate ndots:1 no-edns0\nnameserver");
  ASSERT_EQ(conf.servers.size(), 2u);
  EXPECT_EQ(conf.servers[0], (ServerAddress{*IpAddress::parse("192.0.2.1"), 53}));
  EXPECT_EQ(conf.servers[1], (ServerAddress{*IpAddress::parse("2001:db8::1"), 53}));
  EXPECT_EQ(conf.lookup.timeout, std::chrono::seconds(5));
  EXPECT_EQ(conf.lookup.rounds, 2u);
  EXPECT_FALSE(conf.lookup.edns);
  EXPECT_TRUE(conf.rotate);
}

TEST(ResolvConf, WithoutServersItIsTheLocalOne) {
  for (const char* const text : {"", "nameserver nonsense\n", "options rotate"}) {
    EXPECT_EQ(parse_resolv_conf(text).servers, (std::vector{ServerAddress{IpAddress::v4({127, 0, 0, 1}), 53}}));
  }
}

TEST(ResolvConf, WildValuesAreBounded) {
  const ResolvConf conf = parse_resolv_conf("options timeout:99999 attempts:0\noptions attempts:99");
  EXPECT_EQ(conf.lookup.timeout, std::chrono::seconds(30));
  EXPECT_EQ(conf.lookup.rounds, 5u);
  std::string many;
  for (int i = 1; i < 100; ++i) many += "nameserver 192.0.2." + std::to_string(i) + "\n";
  EXPECT_EQ(parse_resolv_conf(many).servers.size(), servers_max);
}

TEST(ParseServer, TakesPortsAndBrackets) {
  EXPECT_EQ(parse_server("127.0.0.1:5300")->port, 5300);
  EXPECT_EQ(parse_server("127.0.0.1")->port, 53);
  EXPECT_EQ(parse_server("[2001:db8::1]:5300")->port, 5300);
  EXPECT_EQ(parse_server("[2001:db8::1]")->address, *IpAddress::parse("2001:db8::1"));
  EXPECT_EQ(parse_server("2001:db8::1")->port, 53);
  for (const char* const bad :
       {"", "localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "[::1", "[::1]53", "::1:x"}) {
    EXPECT_FALSE(parse_server(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace postern::dns
