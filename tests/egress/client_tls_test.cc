// Deliveries to next hops that speak TLS, do not, or break it: a whole Egress on a simulated loop, with a stream that
// changes no byte. What is told of each is the same however the network cuts the bytes.
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <postern/base/timer_wheel.h>

#include "egress/egress.h"
#include "io/sim/peer.h"
#include "io/sim/world.h"
#include "tests/net/transparent_tls_client.h"
#include "tests/smtp/content_reference.h"

namespace postern::egress {
namespace {

using namespace std::chrono_literals;
using route::TlsLevel;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

// What a host does about TLS.
enum class Plan : std::uint8_t {
  good,
  not_offered,
  refused,         // 454
  goes_away,       // 421
  closes,          // instead of an answer to STARTTLS
  resets,          // the same
  silent,          // the same
  injects,         // says more behind its 220
  no_tls,          // 220, and then knows nothing of TLS
  breaks_off,      // closes at the hello
  hangs,           // at the hello
  closes_secured,  // when greeted under TLS
  silent_secured,  // the same
  dead,            // takes connections and closes them, whatever is said
};

constexpr Plan broken_plans[] = {Plan::goes_away,      Plan::closes,        Plan::resets,     Plan::silent,
                                 Plan::injects,        Plan::no_tls,        Plan::breaks_off, Plan::hangs,
                                 Plan::closes_secured, Plan::silent_secured};

class Host {
 public:
  Host(io::sim::World& world, io::Address address) : world_(world) {
    world.network().serve(address, [this](io::sim::StreamPtr stream) {
      sessions_.push_back(std::make_unique<Session>(*this));
      sessions_.back()->take(std::move(stream));
    });
  }

  Plan plan = Plan::good;
  int sessions = 0, starttls = 0, secured = 0;
  int mails_secured = 0, mails_plain = 0;  // MAIL commands

 private:
  class Session final : public io::sim::Peer {
   public:
    explicit Session(Host& of) : Peer(of.world_), host_(of), plan_(of.plan) { ++host_.sessions; }

   private:
    void on_open() override {
      if (plan_ == Plan::dead) return close();
      send("220 hop\r\n");
    }
    void on_bytes(std::string_view bytes) override {
      input_ += bytes;
      for (std::size_t end = input_.find('\n'); end != std::string::npos && !closed(); end = input_.find('\n')) {
        const std::string line = input_.substr(0, end + 1);
        input_.erase(0, end + 1);
        on_line(line);
      }
    }
    void on_end() override { close(); }
    void on_lost(int /*error*/) override {}

    void on_line(std::string_view line) {
      if (content_) {
        if (line == ".\r\n") {
          content_ = false;
          send("250 kept\r\n");
        }
      } else if (line == "hello\n") {
        if (plan_ == Plan::breaks_off) return close();
        if (plan_ == Plan::hangs) return;
        if (plan_ == Plan::no_tls) return send("500 what?\r\n");
        ++host_.secured;
        secured_ = true;
        send("HELLO\n");
      } else if (line.starts_with("EHLO")) {
        if (secured_ && plan_ == Plan::closes_secured) return close();
        if (secured_ && plan_ == Plan::silent_secured) return;
        send(secured_ || plan_ == Plan::not_offered ? "250 hop\r\n" : "250-hop\r\n250 STARTTLS\r\n");
      } else if (line.starts_with("STARTTLS")) {
        ++host_.starttls;
        on_starttls();
      } else if (line.starts_with("MAIL")) {
        ++(secured_ ? host_.mails_secured : host_.mails_plain);
        send("250 ok\r\n");
      } else if (line.starts_with("DATA")) {
        content_ = true;
        send("354 go\r\n");
      } else if (line.starts_with("QUIT")) {
        send("221 bye\r\n");
        finish();
      } else if (line.starts_with("RCPT")) {
        send("250 ok\r\n");
      } else {
        send("500 what?\r\n");
      }
    }

    void on_starttls() {
      switch (plan_) {
        case Plan::refused:
          return send("454 4.7.0 not now\r\n");
        case Plan::goes_away:
          send("421 4.3.2 going\r\n");
          return finish();
        case Plan::closes:
          return close();
        case Plan::resets:
          return close(true);
        case Plan::silent:
          return;
        case Plan::injects:
          return send("220 go\r\n250 ok\r\n");
        default:
          return send("220 go\r\n");
      }
    }

    Host& host_;
    const Plan plan_;
    std::string input_;
    bool secured_ = false, content_ = false;
  };

  io::sim::World& world_;
  std::vector<std::unique_ptr<Session>> sessions_;
};

io::Address address_of(std::uint8_t last) {
  return io::Address::ip(IpAddress::v4({192, 0, 2, last}), 25);
}

struct Rig final : EgressUser, PieceSource {
  explicit Rig(TlsLevel level, std::uint64_t seed = 1, unsigned splits = 0, Duration kept = 5s)
      : world({.seed = seed, .network = {.splits = splits}}),
        loop(world.make_loop({.short_receives = splits})),
        wheel(loop->now()),
        table(*loop, dispatcher, wheel),
        egress({.loop = *loop,
                .connections = table,
                .dispatcher = dispatcher,
                .timers = wheel,
                .user = *this,
                .pieces = *this,
                .options = {.session = {.ehlo_name = "relay.test"}, .hostname = "relay.test", .idle = kept},
                .tls = {.context = context, .usual = {.level = level}}}) {
    constexpr std::string_view content = "Subject: x\r\n\r\nhello\r\n";
    message.envelope.set_reverse_path("a@example.test", 2);
    message.envelope.add_recipient({.forward_path = {"b@example.net", 2}, .notify = {}, .original_recipient = {}});
    message.facts = smtp::testing::reference_facts(content, mail::ContentForm::dot_stuffed);
    message.content.append(as_bytes(content));
    for (const std::uint8_t last : {std::uint8_t{1}, std::uint8_t{2}}) hosts.emplace_back(world, address_of(last));
  }
  ~Rig() {
    egress.close_all_idle();
    EXPECT_TRUE(run_until([this] { return egress.idle() && table.empty(); }));
    EXPECT_EQ(slots, 0);
    EXPECT_EQ(idle, 0);
  }

  [[nodiscard]] bool run_until(const std::function<bool()>& condition, Duration patience = 1h) {
    const Instant until = loop->now() + patience;
    while (!condition()) {
      if (loop->now() >= until) return false;
      (void)loop->run_once(dispatcher, std::min(wheel.next_expiry(), until));
      (void)wheel.advance(loop->now());
    }
    return true;
  }
  void pass(Duration time) {
    (void)run_until([] { return false; }, time);
  }

  // Delivers to the first `host_count` hosts; the site and its policy as usual, unless `policy` says otherwise.
  mail::RecipientResult deliver(std::size_t host_count = 1, std::optional<route::TlsPolicy> policy = std::nullopt,
                                std::string name = "mx.test") {
    auto made = std::make_shared<route::Route>();
    made->verdict = route::Route::Verdict::deliver;
    made->site_key = "mx:mx.test:25";
    made->site = {7};
    made->tls = std::move(policy);
    for (std::uint8_t last = 1; last <= host_count; ++last) {
      made->next_hops.push_back(
          {.address = address_of(last).ip(), .port = 25, .preference = last, .host = name, .unix_path = ""});
    }
    delivery.clear();
    delivery.work.site = made->site;
    delivery.work.recipients = {0};
    delivery.message = &message;
    delivery.route = std::move(made);
    if (idle > 0) --idle;  // its connection's place is the delivery's, whatever becomes of the connection
    ++slots;
    done = false;
    egress.start(delivery);
    EXPECT_TRUE(run_until([this] { return done; }));
    if (delivery.outcomes.size() != 1) {
      ADD_FAILURE() << delivery.outcomes.size() << " outcomes";
      return {};
    }
    return delivery.outcomes.front().result;
  }

  // --- EgressUser
  void on_outcomes(Delivery& /*back*/) override { done = true; }
  void on_slot_free(mail::SiteId /*site*/, queue::ShardIndex /*owner*/, bool kept) override {
    --slots;
    if (kept) ++idle;
  }
  void on_idle_closed(mail::SiteId /*site*/) override { --idle; }
  void on_connection_opened() override {}
  void on_connection_failed() override {}
  void on_peer_secured(std::string_view site, std::string_view peer, const net::TlsFacts& facts) override {
    told.push_back("secured " + std::string(site) + " " + std::string(peer) + (facts.resumed ? " resumed" : ""));
  }
  void on_peer_tls_failed(std::string_view /*site*/, std::string_view peer, std::string_view why, bool plain) override {
    told.push_back("failed " + std::string(peer) + " " + std::string(why) + (plain ? " plain" : ""));
  }
  void on_peer_authenticated(const HopAuthentication& /*authentication*/) override {}
  // --- PieceSource: nothing is spooled
  void fetch_piece(const Delivery& /*of*/, std::size_t /*index*/, ContentReader& /*reader*/) override {}
  void forget_reader(ContentReader& /*reader*/) override {}
  void release_piece(ContentReader& /*reader*/) override {}

  std::shared_ptr<net::TransparentTlsClients> context = std::make_shared<net::TransparentTlsClients>();
  io::sim::World world;
  std::unique_ptr<io::Loop> loop;
  net::Dispatcher dispatcher;
  TimerWheel wheel;
  net::ConnectionTable table;
  std::deque<Host> hosts;
  mail::Message message;
  Delivery delivery;
  bool done = false;
  int slots = 0, idle = 0;
  std::vector<std::string> told;
  Egress egress;
};

constexpr const char* first_hop = "mx.test[192.0.2.1]:25";

TEST(ClientTls, GoodTlsIsUsedByEveryPolicyButNone) {
  for (const TlsLevel level : {TlsLevel::none, TlsLevel::opportunistic, TlsLevel::required, TlsLevel::verified}) {
    for (const unsigned splits : {0u, 50u, 100u}) {
      SCOPED_TRACE(std::string(route::to_text(level)) + " " + std::to_string(splits));
      Rig rig(level, 1 + splits, splits);
      EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
      const bool tls = level != TlsLevel::none;
      EXPECT_EQ(rig.hosts[0].mails_secured, tls ? 1 : 0);
      EXPECT_EQ(rig.hosts[0].mails_plain, tls ? 0 : 1);
      EXPECT_EQ(rig.delivery.tls_version, tls ? "TLSv0" : "");
      EXPECT_EQ(rig.delivery.tls_verified, tls);
      if (!tls) continue;
      EXPECT_THAT(rig.told, ElementsAre("secured mx:mx.test:25 " + std::string(first_hop)));
      ASSERT_EQ(rig.context->targets.size(), 1u);
      EXPECT_EQ(rig.context->targets[0].server_name, "mx.test");
      EXPECT_THAT(rig.context->targets[0].names, ElementsAre("mx.test"));
      EXPECT_EQ(rig.context->targets[0].verify, level == TlsLevel::verified);
    }
  }
}

TEST(ClientTls, WhatIsAskedOfAServersName) {
  Rig rig(TlsLevel::none, 1, 0, 0s);
  (void)rig.deliver(1, route::TlsPolicy{.level = TlsLevel::verified}, "[192.0.2.1]");
  (void)rig.deliver(1, route::TlsPolicy{.level = TlsLevel::verified, .names = {"a.test", "b.test"}}, "[192.0.2.1]");
  (void)rig.deliver(1, route::TlsPolicy{.level = TlsLevel::verified, .names = {"a.test", "b.test"}});
  ASSERT_EQ(rig.context->targets.size(), 3u);
  EXPECT_EQ(rig.context->targets[0].server_name, "") << "an address is no name";
  EXPECT_THAT(rig.context->targets[0].names, ElementsAre("[192.0.2.1]"));
  EXPECT_EQ(rig.context->targets[1].server_name, "a.test");
  EXPECT_EQ(rig.context->targets[2].server_name, "mx.test");
  EXPECT_THAT(rig.context->targets[2].names, ElementsAre("a.test", "b.test"));
}

TEST(ClientTls, OpportunisticSurvivesEveryBreakAtOnce) {
  for (const Plan plan : broken_plans) {
    for (const unsigned splits : {0u, 50u, 100u}) {
      SCOPED_TRACE("plan " + std::to_string(static_cast<int>(plan)) + " splits " + std::to_string(splits));
      Rig rig(TlsLevel::opportunistic, 1 + splits, splits, 0s);
      rig.hosts[0].plan = plan;
      EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
      EXPECT_EQ(rig.hosts[0].sessions, 2);
      EXPECT_EQ(rig.hosts[0].mails_plain, 1);
      EXPECT_EQ(rig.hosts[0].mails_secured, 0);
      EXPECT_EQ(rig.delivery.tls_version, "");
      ASSERT_FALSE(rig.told.empty());
      EXPECT_THAT(rig.told.back(), HasSubstr(" plain"));
      // It is remembered …
      EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
      EXPECT_EQ(rig.hosts[0].sessions, 3);
      EXPECT_EQ(rig.hosts[0].starttls, 1);
      // … but not for ever.
      rig.hosts[0].plan = Plan::good;
      rig.pass(TlsMemory::broken_for);
      EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
      EXPECT_EQ(rig.hosts[0].mails_secured, 1);
    }
  }
}

TEST(ClientTls, WhereItMustBeNothingIsSaidInTheClear) {
  for (const TlsLevel level : {TlsLevel::required, TlsLevel::verified}) {
    for (const Plan plan : broken_plans) {
      for (const unsigned splits : {0u, 100u}) {
        SCOPED_TRACE("plan " + std::to_string(static_cast<int>(plan)) + " splits " + std::to_string(splits));
        Rig rig(level, 1 + splits, splits);
        rig.hosts[0].plan = plan;
        const mail::RecipientResult result = rig.deliver();
        EXPECT_EQ(result.outcome, mail::Outcome::deferred);
        EXPECT_EQ(rig.delivery.path, PathState::failed);
        EXPECT_EQ(rig.hosts[0].sessions, 1);
        EXPECT_EQ(rig.hosts[0].mails_plain + rig.hosts[0].mails_secured, 0);
        EXPECT_THAT(result.reply.text, HasSubstr(first_hop)) << "the log says whose fault it was";
        // The next attempt asks for TLS again, and the next host had been asked in the same one.
        rig.hosts[0].plan = Plan::good;
        EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
        EXPECT_EQ(rig.hosts[0].mails_secured, 1);
        rig.hosts[0].plan = plan;
      }
    }
  }
}

TEST(ClientTls, AnotherHostDoesBetter) {
  for (const Plan plan : {Plan::not_offered, Plan::refused, Plan::closes, Plan::no_tls, Plan::closes_secured}) {
    Rig rig(TlsLevel::required);
    rig.hosts[0].plan = plan;
    EXPECT_EQ(rig.deliver(2).outcome, mail::Outcome::relayed);
    EXPECT_EQ(rig.delivery.next_hop, "mx.test[192.0.2.2]:25");
    EXPECT_EQ(rig.hosts[0].mails_plain, 0);
    EXPECT_EQ(rig.hosts[1].mails_secured, 1);
  }
}

TEST(ClientTls, WithoutAnOfferOpportunisticGoesOnAndTheOthersSayWhyNot) {
  for (const Plan plan : {Plan::not_offered, Plan::refused}) {
    Rig rig(TlsLevel::opportunistic);
    rig.hosts[0].plan = plan;
    EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
    EXPECT_EQ(rig.hosts[0].sessions, 1) << "on the same connection";
    EXPECT_THAT(rig.told, IsEmpty());
    Rig strict(TlsLevel::required);
    strict.hosts[0].plan = plan;
    const mail::RecipientResult result = strict.deliver();
    EXPECT_EQ(result.outcome, mail::Outcome::deferred);
    EXPECT_EQ(result.reply.status, (mail::EnhancedStatus{4, 7, 4}));
  }
}

TEST(ClientTls, ABadCertificateMattersToVerifiedAlone) {
  for (const TlsLevel level : {TlsLevel::opportunistic, TlsLevel::required, TlsLevel::verified}) {
    Rig rig(level);
    rig.egress.set_tls({.context = std::make_shared<net::TransparentTlsClients>(false), .usual = {.level = level}});
    const mail::RecipientResult result = rig.deliver();
    const bool matters = level == TlsLevel::verified;
    EXPECT_EQ(result.outcome, matters ? mail::Outcome::deferred : mail::Outcome::relayed);
    EXPECT_EQ(rig.hosts[0].mails_secured, matters ? 0 : 1);
    EXPECT_FALSE(rig.delivery.tls_verified);
    if (!matters) continue;
    EXPECT_EQ(result.reply.status, (mail::EnhancedStatus{4, 7, 5}));
    EXPECT_EQ(result.reply.text, std::string(first_hop) + ": TLS handshake: the certificate is no good");
  }
}

TEST(ClientTls, AHostThatIsDeadEitherWayEndsTheAttempt) {
  Rig rig(TlsLevel::opportunistic);
  rig.hosts[0].plan = Plan::breaks_off;
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  rig.hosts[0].plan = Plan::dead;
  rig.pass(TlsMemory::broken_for);
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::deferred);
  EXPECT_EQ(rig.hosts[0].sessions, 3);
}

TEST(ClientTls, AConnectionIsLentOnlyWhereItIsSafeEnough) {
  Rig rig(TlsLevel::none);
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.hosts[0].sessions, 1);
  // The usual policy becomes another one while the connection is kept.
  rig.egress.set_tls({.context = rig.context, .usual = {.level = TlsLevel::required}});
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.hosts[0].sessions, 2);
  EXPECT_EQ(rig.hosts[0].mails_secured, 1);
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.hosts[0].sessions, 2);
  // Others are trusted from now on.
  rig.egress.set_tls(
      {.context = std::make_shared<net::TransparentTlsClients>(), .usual = {.level = TlsLevel::required}});
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.hosts[0].sessions, 3);
  EXPECT_EQ(rig.hosts[0].mails_plain, 2);
}

TEST(ClientTls, ASessionIsResumedWhereTheSameIsAsked) {
  Rig rig(TlsLevel::required, 1, 0, 0s);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  const std::string secured = "secured mx:mx.test:25 " + std::string(first_hop);
  EXPECT_THAT(rig.told, ElementsAre(secured, secured + " resumed", secured + " resumed"));
  EXPECT_EQ(rig.deliver(1, route::TlsPolicy{.level = TlsLevel::verified}).outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.told.back(), secured) << "what was not looked at then must be now";
  rig.egress.set_tls(
      {.context = std::make_shared<net::TransparentTlsClients>(), .usual = {.level = TlsLevel::required}});
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.told.back(), secured) << "others are trusted now";
}

TEST(ClientTls, WithoutALibraryOpportunisticIsNoneAndTheRestWaits) {
  Rig rig(TlsLevel::opportunistic);
  rig.egress.set_tls({.context = nullptr, .usual = {.level = TlsLevel::opportunistic}});
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.hosts[0].starttls, 0);
  rig.egress.set_tls({.context = nullptr, .usual = {.level = TlsLevel::required}});
  const mail::RecipientResult result = rig.deliver();
  EXPECT_EQ(result.outcome, mail::Outcome::deferred);
  EXPECT_THAT(result.reply.text, HasSubstr("this host cannot speak it"));
  EXPECT_EQ(rig.hosts[0].mails_plain, 1);
}

TEST(ClientTls, AnEndInTheMiddleOfEverythingLeavesNothingBehind) {
  for (int micros = 10; micros < 400; micros += 10) {
    Rig rig(TlsLevel::required);
    auto made = std::make_shared<route::Route>();
    made->site = {7};
    made->next_hops.push_back(
        {.address = address_of(1).ip(), .port = 25, .preference = 0, .host = "mx.test", .unix_path = ""});
    rig.delivery.work.site = made->site;
    rig.delivery.work.recipients = {0};
    rig.delivery.message = &rig.message;
    rig.delivery.route = std::move(made);
    ++rig.slots;
    rig.egress.start(rig.delivery);
    (void)rig.run_until([&] { return rig.done; }, std::chrono::microseconds(micros));
    rig.egress.abort_all();
    EXPECT_TRUE(rig.run_until([&] { return rig.done; }));
  }
}

}  // namespace
}  // namespace postern::egress
