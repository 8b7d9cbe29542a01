// Starts of the relay in a world that denies it something, step by step: what a start cannot have must not cost mail.
#include <chrono>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/sim/world.h"
#include "tests/sim/client.h"
#include "tests/sim/relay.h"

namespace postern::sim {
namespace {

using namespace std::chrono_literals;

const io::Address listener = *io::Address::parse("10.0.0.1:25");

std::shared_ptr<const shard::Options> options() {
  auto made = std::make_shared<shard::Options>();
  made->hostname = "relay.test";
  made->data_dir = "/spool";
  made->shards = 1;
  made->memory_bytes = 32u << 20;
  shard::ListenerOptions where;
  where.text = listener.to_string();
  where.address = listener;
  where.relay_from = {*IpNetwork::parse("10.2.0.0/16")};
  made->listeners = {where};
  made->dns.servers = {{.address = *IpAddress::parse("10.3.0.1"), .port = 53}};
  made->spool.segment_bytes = 2u << 20;
  made->spool.min_free_bytes = 4u << 20;
  made->routes = {{.match = "down.test", .via = "smtp:[10.1.0.1]:25", .line = 1}};  // where nobody listens
  return made;
}

class Start : public testing::Test {
 protected:
  Start() {
    for (const char* path : {"/spool", "/spool/logs"}) EXPECT_EQ(world_.disk().make_directory(path), 0);
  }

  // Until it has started or has said that it cannot.
  void start() {
    relay_ = std::make_unique<Relay>(world_, options(), io::sim::LoopOptions{}, 128);
    ASSERT_TRUE(world_.run(world_.now() + 60s, [this] { return relay_->started(); }));
  }
  void stop() {
    relay_->request_stop(0s);
    ASSERT_TRUE(world_.run(world_.now() + 60s, [this] { return relay_->stopped(); }));
    ASSERT_TRUE(relay_->clean());
    relay_->take_down();
    world_.end_process();
  }

  io::sim::World world_{{.seed = 1, .stepped = true}};
  std::unique_ptr<Relay> relay_;
};

TEST_F(Start, WithoutDescriptorsForItsLogsFailsAndTakesNothingForLost) {
  ASSERT_NO_FATAL_FAILURE(start());
  Oracle oracle;
  Mail& mail = oracle.add("s@senders.test", "Subject: waits\r\n\r\nhere\r\n", {"r@down.test"});
  bool done = false;
  Client client(world_, oracle, {}, {&mail}, [&done] { done = true; });
  client.connect(*io::Address::parse("10.2.0.1:0"), listener);
  ASSERT_TRUE(world_.run(world_.now() + 60s, [&done] { return done; }));
  ASSERT_EQ(mail.fate, Mail::Fate::accepted);
  // Each start begins a segment, and the files of all are needed while the first one's message waits.
  for (int i = 0; i < 2; ++i) {
    ASSERT_NO_FATAL_FAILURE(stop());
    ASSERT_NO_FATAL_FAILURE(start());
  }
  ASSERT_NO_FATAL_FAILURE(stop());

  for (std::size_t descriptors = 0; descriptors < 3; ++descriptors) {
    world_.set_descriptors_max(descriptors);
    ASSERT_NO_FATAL_FAILURE(start());
    EXPECT_THAT(message_of(relay_->start_failure()), testing::HasSubstr("Too many open files"));
    EXPECT_THAT(relay_->alarms(), testing::IsEmpty());
    ASSERT_NO_FATAL_FAILURE(stop());
  }
  world_.set_descriptors_max(100);
  ASSERT_NO_FATAL_FAILURE(start());
  EXPECT_TRUE(relay_->start_failure().ok());
  EXPECT_TRUE(world_.run(world_.now() + 10s, [this] { return relay_->waiting() == 1; }));
  ASSERT_NO_FATAL_FAILURE(stop());
}

}  // namespace
}  // namespace postern::sim
