// Reading what processes use: checked on ourselves and on a child.
#include "bench/usage.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <unistd.h>

#include <gtest/gtest.h>

#include "bench/child.h"

namespace postern::bench {
namespace {

TEST(Usage, OurOwnCpuGrowsWithWork) {
  const Usage before = usage_of({::getpid()});
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
  volatile unsigned work = 0;
  while (std::chrono::steady_clock::now() < until) work = work + 1;
  const Usage after = usage_of({::getpid()});
  // Others may have the CPU for much of the time: some of it is enough.
  EXPECT_GT(after.cpu_us - before.cpu_us, 1000);
  EXPECT_GT(peak_memory_of({::getpid()}), 1u << 20);
}

TEST(Usage, AProcessThatIsNotThereHasNoTree) {
  EXPECT_TRUE(process_tree(0x7FFF'FFF0).empty());
  const Usage nothing = usage_of({0x7FFF'FFF0});
  EXPECT_EQ(nothing.cpu_us, 0);
  EXPECT_FALSE(nothing.disk_bytes_written.has_value());
}

TEST(Child, ItsProcessesAreFoundAndEndWithIt) {
  // Two levels: a shell and what it starts.
  StatusOr<std::unique_ptr<Child>> child = Child::start("sleep 600 & sleep 600 & wait");
  ASSERT_TRUE(child.ok());
  const pid_t root = (*child)->process();
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  std::vector<pid_t> tree;
  while (tree.size() < 3 && std::chrono::steady_clock::now() < until) tree = process_tree(root);
  EXPECT_EQ(tree.size(), 3u);
  EXPECT_TRUE((*child)->running());
  if (const ControlGroup* group = (*child)->control_group()) {
    EXPECT_GE(group->processes().size(), 3u);
    EXPECT_TRUE(group->cpu().has_value());
  }
  (*child)->stop();
  EXPECT_FALSE((*child)->running());
  for (const pid_t process : tree) EXPECT_TRUE(process_tree(process).empty()) << process;
}

TEST(Child, EachHasACgroupOfItsOwn) {
  const std::unique_ptr<ControlGroup> first = ControlGroup::make();
  if (first == nullptr) GTEST_SKIP() << "no cgroup can be made here";
  StatusOr<std::unique_ptr<Child>> child = Child::start("sleep 600");
  ASSERT_TRUE(child.ok());
  ASSERT_NE((*child)->control_group(), nullptr);
  EXPECT_FALSE((*child)->control_group()->processes().empty());
  EXPECT_TRUE(first->processes().empty());
}

TEST(Child, MemoryThatItHoldsIsSeen) {
  StatusOr<std::unique_ptr<Child>> child = Child::start("held=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 600");
  ASSERT_TRUE(child.ok());
  const ControlGroup* group = (*child)->control_group();
  if (group == nullptr || !group->anonymous_memory_bytes()) GTEST_SKIP() << "no memory cgroup can be made here";
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (group->anonymous_memory_bytes().value_or(0) < 20'000'000 && std::chrono::steady_clock::now() < until) continue;
  EXPECT_GE(group->anonymous_memory_bytes().value_or(0), 20'000'000u);
}

TEST(EventCounter, ProcessesThatCameAndWentAreCounted) {
  // A shell that waits for our word, and then for a hundred processes, one after the other.
  int word[2] = {-1, -1};
  ASSERT_EQ(::pipe(word), 0);
  const std::string end = std::to_string(word[0]);
  StatusOr<std::unique_ptr<Child>> child = Child::start(
      "read go <&" + end + "; i=0; while [ $i -lt 100 ]; do i=$((i+1)); sleep 0.001; done; exec sleep 600");
  ASSERT_TRUE(child.ok());
  const StatusOr<std::unique_ptr<EventCounter>> counter =
      EventCounter::attach(EventCounter::Event::context_switches, {(*child)->process()});
  if (!counter.ok()) GTEST_SKIP() << message_of(counter.status());
  ASSERT_EQ(::write(word[1], "\n", 1), 1);
  // A sleep of a process that has ended gave the CPU away once at least, and so did the shell that waited for it.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while ((*counter)->count() < 200 && std::chrono::steady_clock::now() < until) continue;
  EXPECT_GE((*counter)->count(), 200u);
  EXPECT_LT(usage_of(process_tree((*child)->process())).context_switches, (*counter)->count());
  ::close(word[0]);
  ::close(word[1]);
}

TEST(Disk, TheDeviceOfAFolderIsOneOfTheKernels) {
  const StatusOr<std::string> device = device_of("/");
  if (!device.ok()) {
    EXPECT_EQ(device.status().code(), StatusCode::kNotFound);  // an overlay has none
    return;
  }
  EXPECT_TRUE(disk_of(*device).ok());
  EXPECT_FALSE(disk_of("no-such-device").ok());
  EXPECT_FALSE(device_of("/no/such/folder").ok());
}

}  // namespace
}  // namespace postern::bench
