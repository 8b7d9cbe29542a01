// The simulated backend: the conformance suite, and what only it promises: runs that repeat, and the fault model.
#include <cstddef>
#include <fcntl.h>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "io/sim/world.h"
#include "tests/io/conformance.h"

namespace postern::io::testing {
namespace {

using namespace std::chrono_literals;

// The machine of one test, per thread: loops in two threads live in two worlds, and wake each other all the same.
thread_local std::unique_ptr<sim::World> machine;

Backend backend(std::string name, std::size_t completions_per_turn, unsigned disorder, unsigned splits) {
  return {.name = std::move(name),
          .make = [=](const Needs& needs) -> StatusOr<std::unique_ptr<Loop>> {
            if (!machine) {
              sim::World::Options options;
              options.network.splits = splits;
              options.disk.latency_max = 2ms;
              machine = std::make_unique<sim::World>(options);
            }
            return machine->make_loop({.receive_buffers = needs.receive_buffers,
                                       .receive_buffer_bytes = needs.receive_buffer_bytes,
                                       .completions_per_turn = completions_per_turn,
                                       .tasks_queued = needs.tasks_queued,
                                       .refuse_direct = needs.refuse_direct,
                                       .disorder = disorder});
          },
          .exhaust_descriptors = [] { machine->set_descriptors_max(machine->open_descriptors()); },
          .restore_descriptors = [] { machine->set_descriptors_max(65536); },
          .directory = "/conformance",
          .task_threads = false,
          .kernel_descriptors = false,
          .finish = [] { machine.reset(); }};
}

// `unruly`: few completions at a time, in any order, and streams cut into many pieces.
INSTANTIATE_TEST_SUITE_P(sim, Conformance, ::testing::Values(backend("usual", 256, 0, 0), backend("unruly", 3, 50, 30)),
                         name_of_backend);

// --- the fault model -------------------------------------------------------------------------------------------------

// A file of `size` bytes under a durable name.
sim::FilePtr make_durable(sim::Disk& disk, const char* path, std::size_t size) {
  sim::FilePtr file;
  EXPECT_EQ(disk.open(path, O_CREAT | O_RDWR, file), 0);
  EXPECT_EQ(disk.allocate(*file, 0, size), 0);
  sim::FilePtr root;
  EXPECT_EQ(disk.sync(*file), 0);
  EXPECT_EQ(disk.open("/", O_RDONLY | O_DIRECTORY, root), 0);
  EXPECT_EQ(disk.sync(*root), 0);
  return file;
}

TEST(SimDisk, PowerCutKeepsWhatWasSyncedAndWholeSectorsOfTheRest) {
  std::size_t kept = 0;
  std::size_t lost = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    sim::World world({.seed = seed});
    sim::Disk& disk = world.disk();
    const sim::FilePtr file = make_durable(disk, "/file", 16 * sim::Disk::sector_bytes);
    const std::vector<std::byte> first(4 * sim::Disk::sector_bytes, std::byte{1});
    const std::vector<std::byte> second(8 * sim::Disk::sector_bytes, std::byte{2});
    disk.write(*file, first, 0, true);
    disk.write(*file, second, 8 * sim::Disk::sector_bytes, false);
    disk.cut_power();
    for (std::size_t sector = 0; sector < 16; ++sector) {
      const std::byte value = file->now[sector * sim::Disk::sector_bytes];
      for (std::size_t i = 0; i < sim::Disk::sector_bytes; ++i) {
        ASSERT_EQ(file->now[sector * sim::Disk::sector_bytes + i], value) << "half a sector";
      }
      if (sector < 4) {
        EXPECT_EQ(value, std::byte{1});
      } else if (sector < 8) {
        EXPECT_EQ(value, std::byte{0});
      } else {
        ++(value == std::byte{2} ? kept : lost);
      }
    }
  }
  EXPECT_GT(kept, 0u);
  EXPECT_GT(lost, 0u);
}

TEST(SimDisk, NamesSurviveAPowerCutInTheOrderTheyWereMade) {
  bool some_lost = false;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    sim::World world({.seed = seed});
    sim::Disk& disk = world.disk();
    (void)make_durable(disk, "/old", 512);
    sim::FilePtr file;
    for (const char* path : {"/a", "/b", "/c"}) EXPECT_EQ(disk.open(path, O_CREAT | O_RDWR, file), 0);
    EXPECT_EQ(disk.sync(*file), 0);  // keeps its bytes, not its name
    EXPECT_EQ(disk.rename("/a", "/d", true), 0);
    disk.cut_power();
    EXPECT_NE(disk.find("/old"), nullptr);
    EXPECT_TRUE(disk.find("/c") == nullptr || disk.find("/b") != nullptr) << "the later name without the earlier";
    EXPECT_FALSE(disk.find("/a") != nullptr && disk.find("/d") != nullptr) << "half a rename";
    some_lost |= disk.find("/c") == nullptr;
  }
  EXPECT_TRUE(some_lost);
}

TEST(SimDisk, AKilledProcessLosesNothingOfThePageCache) {
  sim::World world({.seed = 1});
  const sim::FilePtr file = make_durable(world.disk(), "/file", 512);
  const std::vector<std::byte> data(512, std::byte{7});
  world.disk().write(*file, data, 0, false);
  world.crash_at(1, false);
  EXPECT_FALSE(world.tick());
  world.end_process();
  EXPECT_EQ(file->now[511], std::byte{7});
}

TEST(SimWorld, AProcessThatDiedChangesNothingAnyMore) {
  sim::World world({.seed = 1});
  const sim::FilePtr file = make_durable(world.disk(), "/file", 4096);
  auto loop = world.make_loop({});
  Recorder seen(*loop);
  const auto log = loop->open_log("/file", true);
  ASSERT_TRUE(log.ok());
  std::vector<std::byte> data(4096, std::byte{7});
  world.crash_at(1, true);
  loop->durable_write(*log, data, 0, {.slot = 1});
  for (int i = 0; i < 100; ++i) (void)loop->run_once(seen, loop->now() + 1ms);
  EXPECT_TRUE(world.crashed());
  EXPECT_EQ(seen.total(), 0u);
  world.end_process();
  EXPECT_EQ(world.open_descriptors(), 0u);
}

TEST(SimWorld, BreachesOfTheContractAreNoticed) {
  sim::World world({.seed = 1});
  auto loop = world.make_loop({});
  loop->release({3});
  ASSERT_TRUE(world.first_breach().has_value());
  EXPECT_NE(world.first_breach()->find("not lent"), std::string::npos);
}

// Two ends on one loop exchange some bytes; everything that can be random is.
std::uint64_t hash_of_a_run(std::uint64_t seed) {
  sim::World::Options options{.seed = seed};
  options.network.latency_max = 3ms;
  options.network.splits = 50;
  options.disk.latency_max = 3ms;
  sim::World world(options);
  auto loop = world.make_loop({.disorder = 50, .short_receives = 30});
  Recorder seen(*loop);
  const auto listener = loop->listen(*Address::parse("127.0.0.1:25"), {});
  const auto client = loop->open_stream(*Address::parse("127.0.0.1:25"), Address());
  if (!listener.ok() || !client.ok()) return 0;
  const Token accepting{.slot = 1};
  loop->accept(*listener, accepting);
  loop->connect(*client, *Address::parse("127.0.0.1:25"), {.slot = 2});
  while (seen.total() < 2) (void)loop->run_once(seen, loop->now() + 1s);
  const std::string text(5000, 'x');
  const Slice slice{.data = as_bytes(text).data(), .size = text.size()};
  loop->send(*client, {&slice, 1}, {.slot = 3});
  std::size_t received = 0;
  for (std::uint32_t round = 4; received < text.size(); ++round) {
    loop->recv(seen.of(accepting).front().result, true, {.slot = round});
    while (seen.of({.slot = round}).empty()) (void)loop->run_once(seen, loop->now() + 1s);
    received += seen.of({.slot = round}).front().bytes.size();
  }
  return world.trace().hash();
}

TEST(SimWorld, EqualSeedsGiveEqualTracesAndOthersDoNot) {
  EXPECT_EQ(hash_of_a_run(1), hash_of_a_run(1));
  EXPECT_NE(hash_of_a_run(1), hash_of_a_run(2));
  EXPECT_NE(hash_of_a_run(1), 0u);
}

}  // namespace
}  // namespace postern::io::testing
