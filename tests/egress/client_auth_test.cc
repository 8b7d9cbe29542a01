// Deliveries to next hops that ask who we are: a whole Egress on a simulated loop, against our own server side of SASL.
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <postern/base/timer_wheel.h>
#include <postern/sasl/base64.h>
#include <postern/sasl/server_exchange.h>

#include "egress/egress.h"
#include "io/sim/peer.h"
#include "io/sim/world.h"
#include "tests/smtp/content_reference.h"

namespace postern::egress {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using Trouble = smtp::ClientSession::AuthTrouble;

constexpr std::string_view password = "pencil";

// What a host does about AUTH.
enum class Plan : std::uint8_t { good, not_offered, puts_off, closes_in_auth };

class Host {
 public:
  Host(io::sim::World& world, io::Address address) : world_(world) {
    world.network().serve(address, [this](io::sim::StreamPtr stream) {
      sessions_.push_back(std::make_unique<Session>(*this));
      sessions_.back()->take(std::move(stream));
    });
  }

  Plan plan = Plan::good;
  std::string knows = std::string(password);
  int sessions = 0, auths = 0;
  std::vector<std::string> mails;  // who had authenticated when MAIL came; "": nobody

 private:
  class Session final : public io::sim::Peer {
   public:
    explicit Session(Host& of) : Peer(of.world_), host_(of), plan_(of.plan) { ++host_.sessions; }

   private:
    void on_open() override { send("220 hop\r\n"); }
    void on_bytes(std::string_view bytes) override {
      input_ += bytes;
      for (std::size_t end = input_.find('\n'); end != std::string::npos && !closed(); end = input_.find('\n')) {
        const std::string line = input_.substr(0, end - 1);
        input_.erase(0, end + 1);
        on_line(line);
      }
    }
    void on_end() override { close(); }
    void on_lost(int /*error*/) override {}

    void on_line(std::string_view line) {
      constexpr std::string_view auth = "AUTH SCRAM-SHA-256 ";
      if (content_) {
        if (line != ".") return;
        content_ = false;
        send("250 kept\r\n");
      } else if (exchange_ && exchange_->step() == sasl::ServerExchange::Step::challenge) {
        exchange_->on_response(sasl::from_base64(line).value_or(""));
        go_on();
      } else if (line.starts_with("EHLO")) {
        send(plan_ == Plan::not_offered ? "250 hop\r\n" : "250-hop\r\n250 AUTH SCRAM-SHA-256\r\n");
      } else if (line.starts_with(auth)) {
        ++host_.auths;
        if (plan_ == Plan::puts_off) return send("454 4.7.0 later\r\n");
        if (plan_ == Plan::closes_in_auth) return close();
        exchange_.emplace(sasl::Mechanism::scram_sha_256, false, sasl::from_base64(line.substr(auth.size())));
        go_on();
      } else if (line.starts_with("MAIL")) {
        host_.mails.push_back(user_);
        send("250 ok\r\n");
      } else if (line.starts_with("DATA")) {
        content_ = true;
        send("354 go\r\n");
      } else if (line.starts_with("QUIT")) {
        send("221 bye\r\n");
        finish();
      } else {
        send(line.starts_with("RCPT") || line.starts_with("RSET") ? "250 ok\r\n" : "500 what?\r\n");
      }
    }

    void go_on() {
      using Step = sasl::ServerExchange::Step;
      if (exchange_->step() == Step::credentials) {
        exchange_->on_credentials(sasl::make_scram_verifier(host_.knows, "salt", 4096), "serverNONCE", "");
      }
      if (exchange_->step() == Step::challenge) {
        return send("334 " + sasl::to_base64(exchange_->challenge()) + "\r\n");
      }
      if (exchange_->step() == Step::proven) user_ = exchange_->user();
      send(exchange_->step() == Step::proven ? "235 in\r\n" : "535 5.7.8 no\r\n");
    }

    Host& host_;
    const Plan plan_;
    std::string input_, user_;
    std::optional<sasl::ServerExchange> exchange_;
    bool content_ = false;
  };

  io::sim::World& world_;
  std::vector<std::unique_ptr<Session>> sessions_;
};

io::Address address_of(std::uint8_t last) {
  return io::Address::ip(IpAddress::v4({192, 0, 2, last}), 25);
}

EgressCredentials credentials_of(std::string_view user, std::string_view with = password) {
  auto made = std::make_shared<sasl::Credentials>();
  made->user = user;
  made->password = sasl::Secret(with);
  made->mechanisms.add(sasl::Mechanism::scram_sha_256);
  made->without_tls = true;
  return {{"provider", std::move(made)}};
}

struct Rig final : EgressUser, PieceSource {
  explicit Rig(unsigned splits = 0)
      : world({.seed = 1 + splits, .network = {.splits = splits}}),
        loop(world.make_loop({.short_receives = splits})),
        wheel(loop->now()),
        table(*loop, dispatcher, wheel),
        egress({.loop = *loop,
                .connections = table,
                .dispatcher = dispatcher,
                .timers = wheel,
                .user = *this,
                .pieces = *this,
                .options = {.session = {.ehlo_name = "relay.test"}, .hostname = "relay.test"},
                .credentials = credentials_of("us")}) {
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

  [[nodiscard]] bool run_until(const std::function<bool()>& condition) {
    const Instant until = loop->now() + 1h;
    while (!condition()) {
      if (loop->now() >= until) return false;
      (void)loop->run_once(dispatcher, std::min(wheel.next_expiry(), until));
      (void)wheel.advance(loop->now());
    }
    return true;
  }

  // All of one site, whatever they are authenticated by: what Egress keeps apart, it keeps apart itself.
  mail::RecipientResult deliver(const std::string& credentials = "provider", std::size_t host_count = 2) {
    auto made = std::make_shared<route::Route>();
    made->verdict = route::Route::Verdict::deliver;
    made->site_key = "smtp:hop.test:25;auth=provider";
    made->site = {7};
    made->credentials = credentials;
    for (std::uint8_t last = 1; last <= host_count; ++last) {
      made->next_hops.push_back({.address = address_of(last).ip(), .port = 25, .host = "hop.test"});
    }
    delivery.clear();
    delivery.work.site = made->site;
    delivery.work.recipients = {0};
    delivery.message = &message;
    delivery.route = std::move(made);
    if (idle > 0) --idle;
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
  void on_peer_secured(std::string_view, std::string_view, const net::TlsFacts&) override {}
  void on_peer_tls_failed(std::string_view, std::string_view, std::string_view, bool) override {}
  void on_peer_authenticated(const HopAuthentication& authentication) override {
    EXPECT_EQ(authentication.user, user);
    EXPECT_EQ(authentication.mechanism, authentication.trouble == Trouble::none ? "SCRAM-SHA-256" : "");
    told.push_back(authentication.trouble);
  }
  // --- PieceSource: nothing is spooled
  void fetch_piece(const Delivery& /*of*/, std::size_t /*index*/, ContentReader& /*reader*/) override {}
  void forget_reader(ContentReader& /*reader*/) override {}
  void release_piece(ContentReader& /*reader*/) override {}

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
  std::string user = "us";
  std::vector<Trouble> told;
  Egress egress;
};

TEST(ClientAuth, OncePerConnectionHoweverTheBytesAreCut) {
  for (const unsigned splits : {0u, 50u, 100u}) {
    SCOPED_TRACE(splits);
    Rig rig(splits);
    EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
    EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
    EXPECT_THAT(rig.hosts[0].mails, ElementsAre("us", "us"));
    EXPECT_EQ(rig.hosts[0].sessions, 1);
    EXPECT_THAT(rig.told, ElementsAre(Trouble::none));
  }
}

TEST(ClientAuth, AConnectionIsUsedForWhomItWasMadeAlone) {
  Rig rig;
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.deliver("").outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_THAT(rig.hosts[0].mails, ElementsAre("us", "", "us"));
  EXPECT_EQ(rig.hosts[0].sessions, 3);
}

TEST(ClientAuth, NewCredentialsNeedANewConnectionAndTheSameDoNot) {
  Rig rig;
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  rig.egress.set_credentials(credentials_of("us"));
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_EQ(rig.hosts[0].sessions, 1);
  rig.user = "others";
  rig.egress.set_credentials(credentials_of("others"));
  EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
  EXPECT_THAT(rig.hosts[0].mails, ElementsAre("us", "us", "others"));
}

TEST(ClientAuth, CredentialsThatAreGoneDeferWithoutAConnection) {
  Rig rig;
  EXPECT_EQ(rig.deliver("").outcome, mail::Outcome::relayed);  // and its connection is kept
  rig.egress.set_credentials({});
  const mail::RecipientResult result = rig.deliver();
  EXPECT_EQ(result.outcome, mail::Outcome::deferred);
  EXPECT_THAT(result.reply.text, HasSubstr("\"provider\" are gone"));
  EXPECT_EQ(rig.hosts[0].sessions, 1);
  EXPECT_THAT(rig.hosts[0].mails, ElementsAre(""));
}

TEST(ClientAuth, ARefusalIsAskedForOnce) {
  Rig rig;
  rig.hosts[0].knows = rig.hosts[1].knows = "something else";
  const mail::RecipientResult result = rig.deliver();
  EXPECT_EQ(result.outcome, mail::Outcome::deferred);
  EXPECT_EQ(result.reply.code, 0);
  EXPECT_THAT(result.reply.text, HasSubstr("answered AUTH SCRAM-SHA-256 with 535 5.7.8 no"));
  EXPECT_EQ(rig.delivery.path, PathState::failed);
  EXPECT_EQ(rig.hosts[0].auths + rig.hosts[1].auths, 1) << "some lock who fails too often";
  EXPECT_THAT(rig.told, ElementsAre(Trouble::refused));
}

TEST(ClientAuth, WhatMayBeBetterElsewhereIsTriedElsewhere) {
  const std::vector<std::pair<Plan, Trouble>> cases{{Plan::not_offered, Trouble::unusable},
                                                    {Plan::puts_off, Trouble::put_off},
                                                    {Plan::closes_in_auth, Trouble::broken}};
  for (const auto& [plan, trouble] : cases) {
    Rig rig;
    rig.hosts[0].plan = plan;
    EXPECT_EQ(rig.deliver().outcome, mail::Outcome::relayed);
    EXPECT_THAT(rig.hosts[0].mails, testing::IsEmpty());
    EXPECT_THAT(rig.hosts[1].mails, ElementsAre("us"));
    EXPECT_THAT(rig.told, ElementsAre(trouble, Trouble::none));
  }
}

}  // namespace
}  // namespace postern::egress
