// Reading what processes use: checked on ourselves and on a child.
#include "bench/usage.h"

#include <algorithm>
#include <chrono>
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
