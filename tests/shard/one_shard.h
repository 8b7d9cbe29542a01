// One shard as in production, on a simulated machine, with a client before it: what the tests of a shard's behaviour
// share. Next hops and routes are the test's own.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/sim/world.h"
#include "shard/options.h"
#include "tests/sim/client.h"
#include "tests/sim/next_hop.h"
#include "tests/sim/oracle.h"
#include "tests/sim/relay.h"

namespace postern::shard {

class OneShard : public testing::Test {
 protected:
  explicit OneShard(std::uint64_t seed) : world({.seed = seed, .stepped = true}) {
    for (const char* path : {"/spool", "/spool/logs"}) EXPECT_EQ(world.disk().make_directory(path), 0);
  }
  ~OneShard() override {
    EXPECT_THAT(oracle.violations(), testing::IsEmpty());
    EXPECT_FALSE(world.first_breach()) << *world.first_breach();
  }

  static std::shared_ptr<Options> small_options() {
    auto options = std::make_shared<Options>();
    options->hostname = "relay.test";
    options->data_dir = "/spool";
    options->shards = 1;
    options->memory_bytes = 32u << 20;
    ListenerOptions where;
    where.text = listener.to_string();
    where.address = listener;
    where.relay_from = {*IpNetwork::parse("10.2.0.0/16")};
    options->listeners = {where};
    options->spool.segment_bytes = 2u << 20;
    options->spool.min_free_bytes = 4u << 20;
    options->dns.servers = {{IpAddress::v4({10, 3, 0, 1}), 53}};  // never asked: routes name addresses
    return options;
  }

  void start(std::shared_ptr<const Options> options) {
    using namespace std::chrono_literals;
    relay = std::make_unique<sim::Relay>(world, std::move(options), io::sim::LoopOptions{}, 128);
    ASSERT_TRUE(world.run(world.now() + 1min, [&] { return relay->started(); }));
    ASSERT_TRUE(relay->start_failure().ok()) << relay->start_failure().ToString();
  }
  void stop(Duration grace = std::chrono::seconds(20)) {
    relay->request_stop(grace);
    ASSERT_TRUE(world.run(world.now() + std::chrono::minutes(1), [&] { return relay->stopped(); }));
    ASSERT_TRUE(relay->clean());
    relay->take_down();
    world.end_process();
  }

  // One more message, for r<number>@`domain`; from s<number>@senders.test, or from none.
  sim::Mail* add_mail(const std::string& domain, bool with_sender = false) {
    const std::string number = std::to_string(mails.size());
    const std::string sender = with_sender ? "s" + number + "@senders.test" : "";
    mails.push_back(&oracle.add(sender, "X-Sim: " + number + "\r\n\r\nhello\r\n", {"r" + number + "@" + domain}));
    return mails.back();
  }
  // A client that sends `batch` on one connection from port `port`.
  void send(std::vector<sim::Mail*> batch, std::function<void()> done = nullptr, const char* from = "10.2.0.1:1000") {
    client = std::make_unique<sim::Client>(world, oracle, sim::Client::Manners{}, std::move(batch), std::move(done));
    client->connect(*io::Address::parse(from), listener);
  }

  [[nodiscard]] std::ptrdiff_t delivered() const {
    return std::ranges::count_if(mails,
                                 [](const sim::Mail* mail) { return mail->recipients[0].deliveries.size() == 1; });
  }

  static inline const io::Address listener = *io::Address::parse("10.0.0.1:25");
  io::sim::World world;
  sim::Oracle oracle;
  std::unique_ptr<sim::Relay> relay;
  std::unique_ptr<sim::Client> client;
  std::vector<sim::Mail*> mails;
};

}  // namespace postern::shard
