#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <postern/policy/relay_policy.h>

namespace postern::policy {
namespace {

mail::PathView path(std::string_view text) {
  const std::size_t at = text.rfind('@');
  return {.text = text,
          .domain_offset = static_cast<std::uint16_t>(at == std::string_view::npos ? text.size() : at + 1)};
}

RelayPolicy policy_for(std::vector<std::string> accept, std::string hostname = "mx1.example.net") {
  auto policy = RelayPolicy::make(accept, std::move(hostname));
  EXPECT_TRUE(policy.ok()) << message_of(policy.status());
  return *std::move(policy);
}

bool accepts(const RelayPolicy& policy, std::string_view recipient, bool may_relay = false) {
  const Verdict verdict = policy.judge_recipient({.may_relay = may_relay}, path(recipient), 7);
  if (verdict.kind == Verdict::Kind::refuse) {
    EXPECT_EQ(verdict.code, 550);
    EXPECT_EQ(verdict.status, (mail::EnhancedStatus{5, 7, 1}));
  }
  return verdict.kind == Verdict::Kind::accept;
}

TEST(RelayPolicy, AcceptsOurDomainsFromAnyone) {
  const RelayPolicy policy = policy_for({"Example.Test", "other.test."});
  EXPECT_TRUE(accepts(policy, "a@example.test"));
  EXPECT_TRUE(accepts(policy, "a@EXAMPLE.TEST"));
  EXPECT_TRUE(accepts(policy, "a@example.test."));
  EXPECT_TRUE(accepts(policy, "\"a@b\"@other.test"));
  EXPECT_FALSE(accepts(policy, "a@sub.example.test"));
  EXPECT_FALSE(accepts(policy, "a@xexample.test"));
  EXPECT_FALSE(accepts(policy, "a@test"));
}

TEST(RelayPolicy, ULabelsAndALabelsAreTheSameDomain) {
  for (const char* written : {"b\xC3\xBC"
                              "cher.test",
                              "xn--bcher-kva.test"}) {
    const RelayPolicy policy = policy_for({written, std::string(".") + "wild." + written});
    EXPECT_TRUE(accepts(policy,
                        "a@b\xC3\xBC"
                        "cher.test"))
        << written;
    EXPECT_TRUE(accepts(policy,
                        "a@B\xC3\x9C"
                        "CHER.test."))
        << written;
    EXPECT_TRUE(accepts(policy,
                        "a@bu\xCC\x88"
                        "cher.test"))
        << written;  // u and a combining diaeresis
    EXPECT_TRUE(accepts(policy, "a@XN--bcher-kva.test")) << written;
    EXPECT_TRUE(accepts(policy,
                        "a@sub.wild.b\xC3\xBC"
                        "cher.test"))
        << written;
    EXPECT_FALSE(accepts(policy,
                         "a@sub.b\xC3\xBC"
                         "cher.test"))
        << written;
    EXPECT_FALSE(accepts(policy, "a@bucher.test")) << written;
    EXPECT_FALSE(accepts(policy,
                         "a@b\xC3\xBC"
                         "cher.other"))
        << written;
    EXPECT_FALSE(accepts(policy,
                         "a@b\xC3"
                         "cher.test"))
        << written;  // no UTF-8
  }
}

TEST(RelayPolicy, ALeadingDotIncludesTheDomainAndItsSubdomains) {
  const RelayPolicy policy = policy_for({".example.test"});
  EXPECT_TRUE(accepts(policy, "a@example.test"));
  EXPECT_TRUE(accepts(policy, "a@sub.example.test"));
  EXPECT_TRUE(accepts(policy, "a@deep.SUB.example.test"));
  EXPECT_FALSE(accepts(policy, "a@notexample.test"));
}

TEST(RelayPolicy, OthersNeedAPeerThatMayRelay) {
  const RelayPolicy policy = policy_for({"example.test"});
  EXPECT_FALSE(accepts(policy, "a@elsewhere.test"));
  EXPECT_TRUE(accepts(policy, "a@elsewhere.test", true));
  EXPECT_TRUE(accepts(policy, "a@[192.0.2.1]", true));
}

TEST(RelayPolicy, AddressLiteralsAreAcceptedOnlyIfListed) {
  const RelayPolicy policy = policy_for({"[192.0.2.1]"});
  EXPECT_TRUE(accepts(policy, "a@[192.0.2.1]"));
  EXPECT_FALSE(accepts(policy, "a@[192.0.2.2]"));
}

TEST(RelayPolicy, PostmasterWithoutADomainIsAlwaysAccepted) {
  const RelayPolicy policy = policy_for({"example.test"});
  EXPECT_TRUE(accepts(policy, "Postmaster"));
  EXPECT_FALSE(accepts(policy, "somebody"));
}

TEST(RelayPolicy, PostmasterGoesToTheNearestDomainOfOurs) {
  EXPECT_EQ(policy_for({"a.test", "mx1.example.net"}).postmaster_domain(), "mx1.example.net");
  EXPECT_EQ(policy_for({"a.test", "example.net"}).postmaster_domain(), "example.net");
  EXPECT_EQ(policy_for({"a.test", ".net"}).postmaster_domain(), "mx1.example.net");
  EXPECT_EQ(policy_for({"a.test", "b.test"}).postmaster_domain(), "a.test");
  EXPECT_EQ(policy_for({}).postmaster_domain(), "mx1.example.net");
}

TEST(RelayPolicy, RefusesEntriesThatAreNoDomains) {
  for (const std::string entry :
       {"", ".", "a b", "user@example.test", "*.example.test", "a..b", "..a", ".[192.0.2.1]"}) {
    EXPECT_FALSE(RelayPolicy::make(std::vector<std::string>{entry}, "h.test").ok()) << entry;
  }
}

TEST(RelayPolicy, OverlongDomainsAreNotOurs) {
  EXPECT_FALSE(policy_for({".test"}).accepts_domain(std::string(300, 'a') + ".test"));
  EXPECT_FALSE(policy_for({".test"}).accepts_domain(""));
  EXPECT_FALSE(policy_for({".test"}).accepts_domain("."));
}

TEST(NetworkSet, HoldsWhatIsInAnyOfItsNetworks) {
  const NetworkSet set({*IpNetwork::parse("127.0.0.0/8"), *IpNetwork::parse("::1/128")});
  EXPECT_TRUE(set.contains(*IpAddress::parse("127.1.2.3")));
  EXPECT_TRUE(set.contains(*IpAddress::parse("::1")));
  EXPECT_FALSE(set.contains(*IpAddress::parse("192.0.2.1")));
  EXPECT_FALSE(NetworkSet().contains(*IpAddress::parse("127.0.0.1")));
}

}  // namespace
}  // namespace postern::policy
