#include <map>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <postern/route/resolution.h>

namespace postern::route {
namespace {

using dns::Answer;
using dns::RecordType;
using std::chrono::seconds;
using Verdict = Route::Verdict;

// A little DNS: what is not in it does not exist.
class World {
 public:
  void mx(const std::string& name, std::uint16_t preference, const std::string& exchange) {
    Answer& answer = at(name, RecordType::mx);
    answer.kind = Answer::Kind::records;
    answer.mx.push_back({preference, *dns::Name::parse(exchange)});
  }
  void address(const std::string& name, std::string_view text) {
    const IpAddress address = *IpAddress::parse(text);
    Answer& answer = at(name, address.is_v4() ? RecordType::a : RecordType::aaaa);
    answer.kind = Answer::Kind::records;
    answer.addresses.push_back(address);
  }
  void failure(const std::string& name, RecordType type) {
    at(name, type) = Answer::temporary(Answer::Failure::timed_out);
  }
  Answer& at(const std::string& name, RecordType type) {
    names_.insert(name);
    Answer& answer = answers_[{name, type}];
    answer.expires_at = Instant(seconds(100));
    return answer;
  }
  [[nodiscard]] Answer answer(const dns::Question& question) const {
    const std::string name = question.name.to_text();
    if (const auto found = answers_.find({name, question.type}); found != answers_.end()) return found->second;
    Answer answer;
    answer.kind = names_.contains(name) ? Answer::Kind::no_data : Answer::Kind::no_such_name;
    answer.expires_at = Instant(seconds(50));
    return answer;
  }

 private:
  std::map<std::pair<std::string, RecordType>, Answer> answers_;
  std::set<std::string> names_;
};

class ResolutionTest : public ::testing::Test {
 protected:
  Route resolve(std::string_view domain, std::string_view via_text = "mx") {
    return resolve(*parse_via(via_text), domain);
  }
  Route resolve(const Via& via, std::string_view domain) {
    Resolution resolution(via, domain, options_);
    questions_ = 0;
    while (!resolution.done()) {
      // All at once, answered backwards: the order of answers must not matter.
      std::vector<dns::Question> asked;
      while (const auto question = resolution.take_question()) asked.push_back(*question);
      EXPECT_FALSE(asked.empty() || asked.size() > 2 * Route::mx_max);
      if (asked.empty()) break;
      questions_ += asked.size();
      for (auto question = asked.rbegin(); question != asked.rend(); ++question) {
        resolution.on_answer(*question, world_.answer(*question), random_);
      }
    }
    return resolution.take_route();
  }
  static std::vector<std::string> hops(const Route& route) {
    std::vector<std::string> result;
    for (const NextHop& hop : route.next_hops)
      result.push_back(hop.host + "=" + hop.address.to_string() + ":" + std::to_string(hop.port));
    return result;
  }
  static void expect_failure(const Route& route, Verdict verdict, mail::ReplyCode code, mail::EnhancedStatus status) {
    EXPECT_EQ(route.verdict, verdict);
    EXPECT_EQ(route.reply.code, code) << route.reply.text;
    EXPECT_EQ(route.reply.status, status) << route.reply.text;
    EXPECT_FALSE(route.reply.text.empty());
    EXPECT_TRUE(route.next_hops.empty());
  }

  World world_;
  ResolutionOptions options_{
      .smtp_port = 25, .own_names = {"Mx.Us.Test"}, .own_endpoints = {{*IpAddress::parse("198.51.100.1"), 25}}};
  Random random_{1};
  std::size_t questions_ = 0;
};

TEST_F(ResolutionTest, MxAreTriedInOrderOfPreference) {
  world_.mx("a.test", 20, "m2.test");
  world_.mx("a.test", 10, "m1.test");
  world_.address("m1.test", "192.0.2.1");
  world_.address("m2.test", "192.0.2.2");
  const Route route = resolve("a.test");
  EXPECT_EQ(route.verdict, Verdict::deliver);
  EXPECT_EQ(hops(route), (std::vector<std::string>{"m1.test=192.0.2.1:25", "m2.test=192.0.2.2:25"}));
  EXPECT_EQ(route.site_key, "mx:m1.test,m2.test:25");
  EXPECT_EQ(route.site, site_id(route.site_key, 0));
  EXPECT_EQ(route.expires_at, Instant(seconds(50))) << "the first of all answers to expire";
}

TEST_F(ResolutionTest, EqualPreferencesAreShuffledAndKeepTheirSite) {
  for (const char* const host : {"m1.test", "m2.test", "m3.test"}) world_.address(host, "192.0.2.1");
  world_.mx("a.test", 10, "m1.test");
  world_.mx("a.test", 10, "m2.test");
  world_.mx("a.test", 10, "m3.test");
  std::map<std::string, int> first;
  for (int i = 0; i < 300; ++i) {
    const Route route = resolve("a.test");
    ++first[route.next_hops.front().host];
    EXPECT_EQ(route.site_key, "mx:m1.test,m2.test,m3.test:25");
  }
  for (const auto& [host, count] : first) EXPECT_GT(count, 60) << host;
  EXPECT_EQ(first.size(), 3u);
}

TEST_F(ResolutionTest, NullMxTakesNoMail) {
  world_.mx("a.test", 0, ".");
  expect_failure(resolve("a.test"), Verdict::fail, 556, {5, 1, 10});
}

TEST_F(ResolutionTest, NullMxAmongOthersIsPassedOver) {
  world_.mx("a.test", 0, ".");
  world_.mx("a.test", 10, "m1.test");
  world_.address("m1.test", "192.0.2.1");
  EXPECT_EQ(hops(resolve("a.test")), (std::vector<std::string>{"m1.test=192.0.2.1:25"}));
}

TEST_F(ResolutionTest, DomainWithoutMxIsItsOwnHost) {
  world_.address("a.test", "192.0.2.1");
  world_.address("a.test", "2001:db8::1");
  const Route route = resolve("a.test");
  EXPECT_EQ(hops(route), (std::vector<std::string>{"a.test=2001:db8::1:25", "a.test=192.0.2.1:25"}));
  EXPECT_EQ(route.site_key, "mx:a.test:25");
}

TEST_F(ResolutionTest, MxThatHaveNoAddressDoNotFallBackToTheDomain) {
  world_.mx("a.test", 10, "gone.test");
  world_.address("a.test", "192.0.2.1");
  expect_failure(resolve("a.test"), Verdict::fail, 550, {5, 4, 4});
}

TEST_F(ResolutionTest, UnknownDomainFailsAndServerTroubleDefers) {
  expect_failure(resolve("nowhere.test"), Verdict::fail, 550, {5, 1, 2});
  world_.failure("a.test", RecordType::mx);
  expect_failure(resolve("a.test"), Verdict::defer, 451, {4, 4, 3});
  world_.mx("b.test", 10, "m1.test");
  world_.failure("m1.test", RecordType::a);
  expect_failure(resolve("b.test"), Verdict::defer, 451, {4, 4, 3});
  world_.at("c.test", RecordType::txt).kind = Answer::Kind::records;
  expect_failure(resolve("c.test"), Verdict::fail, 550, {5, 4, 4});
}

TEST_F(ResolutionTest, HostThatCannotBeLookedUpIsSkippedWhenAnotherCan) {
  world_.mx("a.test", 10, "m1.test");
  world_.mx("a.test", 20, "m2.test");
  world_.failure("m1.test", RecordType::a);
  world_.failure("m1.test", RecordType::aaaa);
  world_.address("m2.test", "192.0.2.2");
  const Route route = resolve("a.test");
  EXPECT_EQ(hops(route), (std::vector<std::string>{"m2.test=192.0.2.2:25"}));
  EXPECT_EQ(route.site_key, "mx:m1.test,m2.test:25") << "the site is the MX set, not what answered today";
}

TEST_F(ResolutionTest, OurselvesByNameAndWorseAreDropped) {
  world_.mx("a.test", 10, "m1.test");
  world_.mx("a.test", 20, "mx.us.test");
  world_.mx("a.test", 20, "m2.test");
  world_.mx("a.test", 30, "m3.test");
  for (const char* const host : {"m1.test", "m2.test", "m3.test"}) world_.address(host, "192.0.2.1");
  EXPECT_EQ(hops(resolve("a.test")), (std::vector<std::string>{"m1.test=192.0.2.1:25"}));
  world_.mx("b.test", 10, "MX.us.test");
  expect_failure(resolve("b.test"), Verdict::fail, 554, {5, 4, 6});
  world_.address("mx.us.test", "192.0.2.1");
  expect_failure(resolve("mx.us.test"), Verdict::fail, 554, {5, 4, 6});
}

TEST_F(ResolutionTest, OurselvesByAddressAndWorseAreDropped) {
  world_.mx("a.test", 10, "m1.test");
  world_.mx("a.test", 20, "m2.test");
  world_.mx("a.test", 30, "m3.test");
  world_.address("m1.test", "192.0.2.1");
  world_.address("m2.test", "192.0.2.2");
  world_.address("m2.test", "198.51.100.1");
  world_.address("m3.test", "192.0.2.3");
  EXPECT_EQ(hops(resolve("a.test")), (std::vector<std::string>{"m1.test=192.0.2.1:25"}));
  world_.address("b.test", "198.51.100.1");
  expect_failure(resolve("b.test"), Verdict::fail, 554, {5, 4, 6});
  options_.own_endpoints.push_back({IpAddress::v4({0, 0, 0, 0}), 25});
  world_.address("c.test", "127.0.0.1");
  expect_failure(resolve("c.test"), Verdict::fail, 554, {5, 4, 6});
  options_.smtp_port = 26;
  EXPECT_EQ(resolve("b.test").verdict, Verdict::deliver) << "another port is not us";
}

TEST_F(ResolutionTest, RefusedNetworksAreNotReachedThroughMx) {
  options_.refuse_networks = {*IpNetwork::parse("127.0.0.0/8"), *IpNetwork::parse("::1/128")};
  world_.mx("a.test", 10, "localhost.test");
  world_.address("localhost.test", "127.0.0.1");
  world_.address("localhost.test", "::1");
  world_.address("localhost.test", "::ffff:127.0.0.2");
  expect_failure(resolve("a.test"), Verdict::fail, 550, {5, 4, 4});
  expect_failure(resolve("[127.0.0.1]"), Verdict::fail, 550, {5, 4, 4});
  world_.address("localhost.test", "192.0.2.1");
  EXPECT_EQ(hops(resolve("a.test")), (std::vector<std::string>{"localhost.test=192.0.2.1:25"}));
  EXPECT_EQ(resolve("a.test", "smtp:[127.0.0.1]:2525").verdict, Verdict::deliver)
      << "a smart host is the operator's word";
  EXPECT_EQ(hops(resolve("a.test", "smtp:localhost.test:2525")).size(), 4u);
}

TEST_F(ResolutionTest, FamiliesTakeTurnsAndListsAreBounded) {
  for (int i = 0; i < 30; ++i) {
    for (int host = 0; host < 12; ++host) {
      world_.address("m" + std::to_string(host) + ".test", "192.0.2." + std::to_string(i));
      world_.address("m" + std::to_string(host) + ".test", "2001:db8::" + std::to_string(i));
    }
  }
  for (std::uint16_t host = 0; host < 12; ++host) world_.mx("a.test", host, "m" + std::to_string(host) + ".test");
  const Route route = resolve("a.test");
  EXPECT_EQ(questions_, 1 + 2 * Route::mx_max);
  ASSERT_EQ(route.next_hops.size(), Route::next_hops_max);
  for (std::size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(route.next_hops[i].address.is_v4(), i % 2 == 1);
    EXPECT_EQ(route.next_hops[i].host, "m" + std::to_string(i / Route::addresses_per_host_max) + ".test");
  }
}

TEST_F(ResolutionTest, WithoutIpv6NothingAsksForIt) {
  options_.use_ipv6 = false;
  world_.address("a.test", "192.0.2.1");
  world_.address("a.test", "2001:db8::1");
  EXPECT_EQ(hops(resolve("a.test")), (std::vector<std::string>{"a.test=192.0.2.1:25"}));
  EXPECT_EQ(questions_, 2u);
}

TEST_F(ResolutionTest, SmartHostGoesByItsAddressAndIsNeverAReasonToReturnMail) {
  world_.address("relay.test", "192.0.2.9");
  world_.mx("relay.test", 10, "other.test");
  const Route route = resolve("whatever.test", "smtp:Relay.test:2525");
  EXPECT_EQ(hops(route), (std::vector<std::string>{"relay.test=192.0.2.9:2525"}));
  EXPECT_EQ(route.site_key, "smtp:relay.test:2525");
  expect_failure(resolve("whatever.test", "smtp:gone.test"), Verdict::defer, 451, {4, 3, 5});
  expect_failure(resolve("whatever.test", "smtp:[198.51.100.1]:25"), Verdict::defer, 451, {4, 3, 5});
  world_.failure("ill.test", RecordType::a);
  expect_failure(resolve("whatever.test", "smtp:ill.test"), Verdict::defer, 451, {4, 4, 3});
}

TEST_F(ResolutionTest, ATlsPolicyOfItsOwnMakesARouteASiteOfItsOwn) {
  world_.address("relay.test", "192.0.2.9");
  world_.mx("a.test", 10, "m1.test");
  world_.address("m1.test", "192.0.2.1");
  const auto resolve_with = [&](std::string_view via_text, const TlsPolicy& policy) {
    Via via = *parse_via(via_text);
    via.tls = policy;
    return resolve(via, "a.test");
  };
  EXPECT_EQ(resolve("a.test").tls, std::nullopt);
  const Route route = resolve_with("smtp:relay.test:25", {.level = TlsLevel::verified, .names = {"x.test", "y.test"}});
  EXPECT_EQ(route.site_key, "smtp:relay.test:25;tls=verified:x.test,y.test");
  EXPECT_EQ(route.site, site_id(route.site_key, 0));
  ASSERT_TRUE(route.tls);
  EXPECT_EQ(route.tls->level, TlsLevel::verified);
  EXPECT_EQ(resolve_with("mx", {.level = TlsLevel::none}).site_key, "mx:m1.test:25;tls=none");
  EXPECT_EQ(resolve_with("smtp:[192.0.2.9]:25", {.level = TlsLevel::required}).site_key,
            "smtp:[192.0.2.9]:25;tls=required");
  // Nothing leaves the machine.
  EXPECT_EQ(resolve_with("lmtp:unix:/run/x", {.level = TlsLevel::required}).site_key, "lmtp:unix:/run/x");
}

TEST_F(ResolutionTest, CredentialsMakeARouteASiteOfItsOwn) {
  world_.address("relay.test", "192.0.2.9");
  world_.mx("a.test", 10, "m1.test");
  world_.address("m1.test", "192.0.2.1");
  const auto resolve_with = [&](std::string_view via_text) {
    Via via = *parse_via(via_text);
    via.tls = TlsPolicy{.level = TlsLevel::required};
    via.credentials = "provider";
    return resolve(via, "a.test");
  };
  const Route route = resolve_with("smtp:relay.test:25");
  EXPECT_EQ(route.site_key, "smtp:relay.test:25;tls=required;auth=provider");
  EXPECT_EQ(route.site, site_id(route.site_key, 0));
  EXPECT_EQ(route.credentials, "provider");
  EXPECT_EQ(resolve_with("lmtp:[192.0.2.9]:24").site_key, "lmtp:[192.0.2.9]:24;tls=required;auth=provider");
  // No password goes where DNS alone led, or where it makes no sense.
  EXPECT_EQ(resolve_with("mx").credentials, "");
  EXPECT_EQ(resolve_with("lmtp:unix:/run/x").credentials, "");
}

TEST_F(ResolutionTest, LiteralsNeedNoQuestion) {
  Route route = resolve("whatever.test", "smtp:[2001:db8::9]:2525");
  EXPECT_EQ(questions_, 0u);
  EXPECT_EQ(hops(route), (std::vector<std::string>{"[IPv6:2001:db8::9]=2001:db8::9:2525"}));
  route = resolve("[192.0.2.7]");
  EXPECT_EQ(hops(route), (std::vector<std::string>{"[192.0.2.7]=192.0.2.7:25"}));
  EXPECT_EQ(route.site_key, "mx:[192.0.2.7]:25");
  EXPECT_EQ(route.expires_at, never);
  expect_failure(resolve("[198.51.100.1]"), Verdict::fail, 554, {5, 4, 6});
}

TEST_F(ResolutionTest, LmtpGoesWhereTheOperatorSays) {
  Route route = resolve("a.test", "lmtp:unix:/run/store/lmtp");
  EXPECT_EQ(questions_, 0u);
  EXPECT_EQ(route.verdict, Verdict::deliver);
  EXPECT_EQ(route.transport, mail::Transport::lmtp);
  EXPECT_EQ(route.site_key, "lmtp:unix:/run/store/lmtp");
  ASSERT_EQ(route.next_hops.size(), 1u);
  EXPECT_EQ(route.next_hops.front().unix_path, "/run/store/lmtp");
  route = resolve("a.test", "lmtp:[198.51.100.1]:24");
  EXPECT_EQ(route.transport, mail::Transport::lmtp);
  EXPECT_EQ(route.site_key, "lmtp:[198.51.100.1]:24") << "refused networks are not looked at";
  EXPECT_NE(route.site, resolve("a.test", "smtp:[198.51.100.1]:24").site);
  route = resolve("a.test", "lmtp:nowhere.test:24");
  expect_failure(route, Verdict::defer, 451, {4, 3, 5});
}

TEST_F(ResolutionTest, LocalTransportsAreSettledAtOnce) {
  Route route = resolve("a.test", "maildir:/srv/{local}");
  EXPECT_EQ(route.transport, mail::Transport::maildir);
  EXPECT_EQ(route.maildir, "/srv/{local}");
  EXPECT_EQ(route.site_key, "maildir:/srv/{local}");
  EXPECT_EQ(resolve("a.test", "discard").transport, mail::Transport::discard);
  route = resolve("a.test", "reject:No thanks");
  expect_failure(route, Verdict::fail, 550, {5, 7, 1});
  EXPECT_EQ(route.reply.text, "No thanks");
}

TEST_F(ResolutionTest, DomainThatIsNoneFails) {
  expect_failure(resolve(""), Verdict::fail, 550, {5, 1, 2});
  expect_failure(resolve("a b.test"), Verdict::fail, 550, {5, 1, 2});
}

TEST(SiteId, SeedsMakeAnotherId) {
  EXPECT_EQ(site_id("mx:a:25", 1), site_id("mx:a:25", 1));
  EXPECT_NE(site_id("mx:a:25", 1), site_id("mx:a:25", 2));
  EXPECT_NE(site_id("mx:a:25", 1), site_id("mx:b:25", 1));
}

}  // namespace
}  // namespace postern::route
