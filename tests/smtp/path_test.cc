#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <postern/smtp/path.h>

namespace postern::smtp {
namespace {

std::string mailbox_of(std::string_view text) {
  const std::optional<Path> path = parse_path(text);
  return path ? std::string(path->mailbox.text) : "(none)";
}

TEST(PathTest, KeepsCaseAndQuotes) {
  const std::optional<Path> path = parse_path("<Fred.\"x\"@Example.ORG>");
  EXPECT_FALSE(path.has_value()) << "dot-string or quoted-string, not a mix of both";
  EXPECT_EQ(mailbox_of("<Fred.Bloggs@Example.ORG>"), "Fred.Bloggs@Example.ORG");
  EXPECT_EQ(mailbox_of("<\"Fred \\\"the @ one\\\" Bloggs\"@Example.ORG>"),
            "\"Fred \\\"the @ one\\\" Bloggs\"@Example.ORG");
}

TEST(PathTest, DomainBeginsBehindTheLastAt) {
  const std::optional<Path> path = parse_path("<\"a@b\"@c.example> SIZE=3");
  ASSERT_TRUE(path);
  EXPECT_EQ(path->mailbox.domain(), "c.example");
  EXPECT_EQ(path->mailbox.local_part(), "\"a@b\"");
  EXPECT_EQ(path->consumed, std::string_view("<\"a@b\"@c.example>").size());
}

TEST(PathTest, NullAndPostmasterAreSpecial) {
  EXPECT_TRUE(parse_path("<>")->mailbox.null());
  const std::optional<Path> postmaster = parse_path("<PostMaster>");
  ASSERT_TRUE(postmaster);
  EXPECT_EQ(postmaster->mailbox.text, "PostMaster");
  EXPECT_TRUE(postmaster->mailbox.domain().empty());
  EXPECT_EQ(postmaster->mailbox.local_part(), "PostMaster");
  EXPECT_EQ(mailbox_of("<postmaster@example.org>"), "postmaster@example.org");
  EXPECT_EQ(mailbox_of("<webmaster>"), "(none)");
  EXPECT_FALSE(parse_mailbox("postmaster"));
  EXPECT_FALSE(parse_mailbox(""));
}

TEST(PathTest, SourceRouteIsReadAndIgnored) {
  EXPECT_EQ(mailbox_of("<@one.example:b@c.example>"), "b@c.example");
  EXPECT_EQ(mailbox_of("<@one.example,@[192.0.2.1]:b@c.example>"), "b@c.example");
  EXPECT_EQ(mailbox_of("<@one.example:postmaster>"), "postmaster");
  for (const char* bad :
       {"<@one.example b@c.example>", "<@one.example,b@c.example>", "<@one.example,:b@c.example>", "<@:b@c.example>",
        "<@one.example:>", "<@one.example>", "<@", "<@one.example:", "<@\xFF:b@c.example>"}) {
    EXPECT_EQ(mailbox_of(bad), "(none)") << bad;
  }
}

TEST(PathTest, AddressLiterals) {
  for (const char* good : {"<a@[192.0.2.1]>", "<a@[IPv6:2001:db8::1]>", "<a@[ipv6:::ffff:192.0.2.1]>"}) {
    EXPECT_NE(mailbox_of(good), "(none)") << good;
  }
  for (const char* bad : {"<a@[]>", "<a@[192.0.2]>", "<a@[192.0.2.256]>", "<a@[2001:db8::1]>", "<a@[IPv6:192.0.2.1]>",
                          "<a@[192.0.2.1>", "<a@[tag:x]>", "<a@[192.0.2.1]x>", "<a@[IPv6:]>"}) {
    EXPECT_EQ(mailbox_of(bad), "(none)") << bad;
  }
  EXPECT_TRUE(is_address_literal("[192.0.2.1]"));
  EXPECT_FALSE(is_address_literal("192.0.2.1"));
  EXPECT_FALSE(is_address_literal(""));
}

TEST(PathTest, Domains) {
  const std::string label63(63, 'a');
  EXPECT_TRUE(is_domain("a", false));
  EXPECT_TRUE(is_domain("a-b.c_d.example", false));
  EXPECT_TRUE(is_domain(label63 + ".example", false));
  EXPECT_FALSE(is_domain(label63 + "a.example", false));
  EXPECT_FALSE(is_domain("", false));
  EXPECT_FALSE(is_domain(".", false));
  EXPECT_FALSE(is_domain("a.", false));
  EXPECT_FALSE(is_domain("a..b", false));
  EXPECT_FALSE(is_domain("-a.b", false));
  EXPECT_FALSE(is_domain("a-.b", false));
  EXPECT_FALSE(is_domain("a b", false));
  EXPECT_FALSE(is_domain("\xC3\xA4.example", false));
  EXPECT_TRUE(is_domain("\xC3\xA4.example", true));
  EXPECT_FALSE(is_domain("\xC3.example", true));
  const std::string long_domain = label63 + "." + label63 + "." + label63 + "." + label63;
  EXPECT_EQ(long_domain.size(), domain_bytes_max);
  EXPECT_TRUE(is_domain(long_domain, false));
  EXPECT_FALSE(is_domain(long_domain + "." + "a", false));
}

TEST(PathTest, IsBoundedAt256Octets) {
  const std::string local(mailbox_bytes_max - std::string_view("@example.org").size(), 'l');
  EXPECT_EQ(mailbox_of("<" + local + "@example.org>").size(), mailbox_bytes_max);
  EXPECT_EQ(mailbox_of("<" + local + "l@example.org>"), "(none)");
}

TEST(PathTest, EightBitIsReportedAndMustBeUtf8) {
  EXPECT_FALSE(parse_path("<a@example.org>")->has_eight_bit);
  EXPECT_TRUE(parse_path("<\xC3\xA4@example.org>")->has_eight_bit);
  EXPECT_TRUE(parse_path("<\"\xC3\xA4 \"@example.org>")->has_eight_bit);
  EXPECT_TRUE(parse_path("<a@\xF0\x9F\x93\xA8.example>")->has_eight_bit);
  for (const char* bad : {"\xC3", "\xC3(", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                          "\xF8\x88\x80\x80\x80", "\x80", "\xFF"}) {
    EXPECT_FALSE(parse_path("<" + std::string(bad) + "@example.org>")) << testing::PrintToString(bad);
  }
}

TEST(PathTest, RefusesWhatIsNoPath) {
  for (const char* bad : {"",        "<",       ">",          "a@example.org", "<a@example.org",
                          "<a>",     "<@>",     "<a@>",       "<@b>",          "< a@b>",
                          "<a@b >",  "<a b@c>", "<.a@b>",     "<a.@b>",        "<a..b@c>",
                          "<a@b@c>", "<\"a@b>", "<\"a\"b@c>", "<\"a\\\"@b>",   "<a(c)@b>",
                          "<<a@b>>", "<a\t@b>", "<\"\t\"@b>", "<\"\x7F\"@b>",  "<a,b@c>"}) {
    EXPECT_EQ(mailbox_of(bad), "(none)") << bad;
  }
}

// The vectors of isemail.info judge RFC 5321 and 5322 alike; what they call valid in SMTP must parse, what only a
// header field may hold must not.
TEST(PathTest, AgreesWithTheIsemailVectors) {
  const char* folder = std::getenv("POSTERN_TEST_DATA");
  if (folder == nullptr) GTEST_SKIP() << "POSTERN_TEST_DATA is not set";
  std::ifstream file(std::string(folder) + "/address-isemail/tests.xml");
  const std::string xml{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(xml.empty());

  const std::set<std::string> smtp_categories = {"ISEMAIL_VALID_CATEGORY", "ISEMAIL_DNSWARN", "ISEMAIL_RFC5321"};
  // Where we differ on purpose, and why.
  const std::map<std::string, bool> ours = {
      // Local parts beyond 64 octets are taken: the bound is the path's.
      {"ISEMAIL_RFC5322_LOCAL_TOOLONG", true},
      {"ISEMAIL_RFC5322_TOOLONG", false},
      // "::" for one group only: RFC 5952 would not write it, RFC 4291 reads it.
      {"ISEMAIL_RFC5321_IPV6DEPRECATED", true},
  };
  const auto element = [](std::string_view test, const std::string& name) -> std::string {
    const std::size_t start = test.find("<" + name + ">");
    if (start == std::string_view::npos) return "";
    const std::size_t text = start + name.size() + 2;
    return std::string(test.substr(text, test.find("</" + name + ">", text) - text));
  };
  std::size_t tests = 0;
  std::size_t start = 0;
  while ((start = xml.find("<test id", start)) != std::string::npos) {
    const std::size_t end = xml.find("</test>", start);
    const std::string_view test = std::string_view(xml).substr(start, end - start);
    start = end;
    std::string address = element(test, "address");
    for (const auto& [entity, text] : {std::pair{"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}}) {
      for (std::size_t at = address.find(entity); at != std::string::npos; at = address.find(entity, at + 1)) {
        address.replace(at, std::string_view(entity).size(), text);
      }
    }
    // "&#x24NN;" stands for the control character NN.
    for (std::size_t at = address.find("&#x24"); at != std::string::npos; at = address.find("&#x24", at + 1)) {
      address.replace(at, 8, 1, static_cast<char>(std::stoi(address.substr(at + 5, 2), nullptr, 16)));
    }
    for (std::size_t at = address.find("&#xA9;"); at != std::string::npos; at = address.find("&#xA9;")) {
      address.replace(at, 6, "\xC2\xA9");
    }
    const std::string diagnosis = element(test, "diagnosis");
    const auto exception = ours.find(diagnosis);
    const bool expected =
        exception != ours.end() ? exception->second : smtp_categories.contains(element(test, "category"));
    EXPECT_EQ(parse_mailbox(address).has_value(), expected)
        << address << " (" << diagnosis << ", " << element(test, "category") << ")";
    ++tests;
  }
  EXPECT_EQ(tests, 164u);
}

}  // namespace
}  // namespace postern::smtp
