// A shard with mail for more sites than it may have connections at a time: one shard on a simulated machine.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/shard/one_shard.h"

namespace postern::shard {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t sites = 12;
constexpr std::uint32_t places = 2;
constexpr Duration idle = 5min;

class Places : public OneShard {
 protected:
  Places() : OneShard(11) {
    auto options = small_options();
    options->smtp_client.connections = places;
    options->smtp_client.idle = idle;
    options->retry.schedule = {10min};
    for (std::size_t i = 0; i < sites; ++i) {
      const std::string host = "10.1.0." + std::to_string(i + 1);
      hops.push_back(
          std::make_unique<sim::NextHop>(world, oracle, *io::Address::parse(host + ":25"), sim::NextHop::Features{}));
      options->routes.push_back({.match = domain(i), .via = "smtp:[" + host + "]:25", .line = 1});
    }
    start(std::move(options));
  }
  static std::string domain(std::size_t site) { return "d" + std::to_string(site) + ".test"; }

  // `each` messages for every site, in turns.
  void send_to_all(std::size_t each) {
    for (std::size_t i = 0; i < each * sites; ++i) add_mail(domain(i % sites));
    send(mails);
  }

  std::vector<std::unique_ptr<sim::NextHop>> hops;
};

TEST_F(Places, IdleConnectionsMakeRoomForOtherSites) {
  send_to_all(20);
  std::int64_t most = 0;
  EXPECT_TRUE(world.run(world.now() + idle / 2, [&] {
    most = std::max(most, relay->connections_out());
    return delivered() == std::ssize(mails);
  })) << delivered();
  EXPECT_EQ(most, places);
  EXPECT_EQ(relay->deferred(), 0u);
  stop();
}

TEST_F(Places, NoPlaceAtAllIsNoAttemptAndHoldsUpNothingElse) {
  for (std::size_t i = 0; i < places; ++i) hops[i]->set_mood({.silence = 100});
  send_to_all(3);
  world.run(world.now() + 1min);
  // The first two have taken the places and keep them until they time out; meanwhile mail is accepted.
  EXPECT_TRUE(std::ranges::all_of(mails, [](auto* mail) { return mail->fate == sim::Mail::Fate::accepted; }));
  EXPECT_LT(delivered(), std::ssize(mails));
  for (std::size_t i = 0; i < places; ++i) hops[i]->set_mood({});
  EXPECT_TRUE(world.run(world.now() + 1h, [&] { return delivered() == std::ssize(mails); })) << delivered();
  stop();
}

}  // namespace
}  // namespace postern::shard
