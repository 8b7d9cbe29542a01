#include <gtest/gtest.h>

#include <postern/route/route_table.h>

namespace postern::route {
namespace {

mail::PathView path(std::string_view text) {
  const std::size_t at = text.rfind('@');
  return {text, static_cast<std::uint16_t>(at == std::string_view::npos ? text.size() : at + 1)};
}

RouteTable table(std::initializer_list<std::pair<const char*, const char*>> routes) {
  std::vector<RouteRule> rules;
  for (const auto& [match, via] : routes) rules.push_back({*parse_match(match), *parse_via(via)});
  return {std::move(rules), "Mx1.Local.Test"};
}

TEST(RouteTable, FirstMatchWinsWhateverItsKind) {
  const RouteTable routes = table({{"user@a.test", "reject:one"},
                                   {".a.test", "reject:two"},
                                   {"a.test", "reject:three"},
                                   {"b.a.test", "reject:never"},
                                   {"user@a.test", "reject:never"},
                                   {"*", "reject:rest"},
                                   {"z.test", "reject:never"}});
  EXPECT_EQ(routes.find(path("user@a.test")).text, "one");
  EXPECT_EQ(routes.find(path("USER@A.test")).text, "three") << "local parts have case, domains have not";
  EXPECT_EQ(routes.find(path("\"user\"@a.test")).text, "one") << "quotes are not part of the name";
  EXPECT_EQ(routes.find("user", "a.test").text, "one");
  EXPECT_EQ(routes.find("\"user\"", "a.test").text, "three") << "these quotes are";
  EXPECT_EQ(routes.find(path("x@b.a.test")).text, "two");
  EXPECT_EQ(routes.find(path("x@c.b.a.test")).text, "two");
  EXPECT_EQ(routes.find(path("x@xa.test")).text, "rest");
  EXPECT_EQ(routes.find(path("x@z.test")).text, "rest");
}

TEST(RouteTable, NoMatchIsMx) {
  EXPECT_EQ(table({}).find(path("x@a.test")).kind, Via::Kind::mx);
  EXPECT_EQ(table({{"a.test", "discard"}}).find(path("x@b.test")).kind, Via::Kind::mx);
}

TEST(RouteTable, PostmasterHasNoCaseAndTheLocalDomain) {
  const RouteTable routes = table({{"Postmaster@mx1.local.test", "reject:us"}, {"*", "discard"}});
  EXPECT_EQ(routes.find(path("postMASTER")).text, "us");
  EXPECT_EQ(routes.find(path("POSTMASTER@mx1.local.test")).text, "us");
}

TEST(RouteTable, ULabelsAndAddressLiteralsMatch) {
  const RouteTable routes = table({{"bücher.example", "reject:u"}, {"[ipv6:2001:DB8::1]", "reject:l"}});
  EXPECT_EQ(routes.find(path("x@xn--bcher-kva.example")).text, "u");
  EXPECT_EQ(routes.find(path("x@Bücher.example")).text, "u");
  EXPECT_EQ(routes.find(path("x@[IPv6:2001:db8:0::1]")).text, "l");
}

TEST(RouteTable, DomainThatIsNoneMatchesOnlyTheStar) {
  EXPECT_EQ(table({{"a.test", "discard"}, {"*", "reject:r"}}).find(path("x@a..test")).text, "r");
}

TEST(ParseMatch, RefusesWithTheCure) {
  for (const char* const bad : {"", ".", "@a.test", "user@", "a b", "**", ".[192.0.2.1]", "a..b"}) {
    const StatusOr<Match> match = parse_match(bad);
    ASSERT_FALSE(match.ok()) << bad;
    EXPECT_NE(message_of(match.status()).find("write"), std::string_view::npos) << bad;
  }
}

TEST(ParseVia, ReadsWhatItWrites) {
  for (const char* const text : {"mx", "discard", "smtp:relay.test:2525", "smtp:[192.0.2.1]:25",
                                 "smtp:[2001:db8::1]:587", "lmtp:unix:/run/store/lmtp", "lmtp:store.test:24",
                                 "lmtp:[192.0.2.1]:24", "maildir:/srv/{domain}/{local}", "reject:Go away, please"}) {
    const StatusOr<Via> via = parse_via(text);
    ASSERT_TRUE(via.ok()) << text << ": " << message_of(via.status());
    EXPECT_EQ(via->to_text(), text);
  }
}

TEST(ParseVia, SmartHostsHaveDefaultsAndForms) {
  EXPECT_EQ(parse_via("smtp:Relay.Test")->host, "relay.test");
  EXPECT_EQ(parse_via("smtp:relay.test")->port, 25);
  EXPECT_EQ(parse_via("smtp:[192.0.2.1]")->port, 25);
  EXPECT_EQ(parse_via("smtp:192.0.2.1:26")->address, IpAddress::parse("192.0.2.1"));
  EXPECT_EQ(parse_via("smtp:192.0.2.1.")->to_text(), "smtp:[192.0.2.1]:25");
  EXPECT_EQ(parse_via("smtp:１92.0.2.1")->to_text(), "smtp:[192.0.2.1]:25");
  EXPECT_EQ(parse_via("smtp:[IPv6:2001:db8::1]:26")->address, IpAddress::parse("2001:db8::1"));
}

TEST(ParseVia, RefusesWhatIsNotImplementedOrWrong) {
  for (const char* const bad : {"",
                                "MX",
                                "lmtp:",
                                "lmtp:unix:",
                                "lmtp:unix:x",
                                "lmtp:unix:/x\n",
                                "lmtp:store.test",
                                "lmtp:[192.0.2.1]",
                                "lmtp:store.test:0",
                                "smtp",
                                "smtp:",
                                "smtp::25",
                                "smtp:a.test:",
                                "smtp:a.test:0",
                                "smtp:a.test:65536",
                                "smtp:a.test:25x",
                                "smtp:2001:db8::1:25",
                                "smtp:[192.0.2.1",
                                "smtp:[x]:25",
                                "smtp:[192.0.2.1]25",
                                "maildir:",
                                "maildir:/x/{user}",
                                "maildir:/x/{local",
                                "maildir:/x}",
                                "reject:",
                                "reject:a\nb",
                                "reject:ä",
                                "discard:x",
                                "pipe:/bin/sh"}) {
    EXPECT_FALSE(parse_via(bad).ok()) << bad;
  }
  EXPECT_TRUE(parse_via("lmtp:unix:/" + std::string(106, 'x')).ok());
  EXPECT_FALSE(parse_via("lmtp:unix:/" + std::string(107, 'x')).ok());
  EXPECT_FALSE(parse_via("reject:" + std::string(401, 'x')).ok());
}

}  // namespace
}  // namespace postern::route
