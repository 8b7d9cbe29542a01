#include "io/descriptors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace postern::io {
namespace {

TEST(ReserveDescriptors, RaisesTheSoftLimitUpToTheHardOneAndNeverLowersIt) {
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit lowered{.rlim_cur = 512, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &lowered), 0);

  auto reached = reserve_descriptors(1000);
  ASSERT_TRUE(reached.ok()) << reached.status().message();
  EXPECT_EQ(*reached, 1000u);
  reached = reserve_descriptors(100);
  ASSERT_TRUE(reached.ok());
  EXPECT_EQ(*reached, 1000u);
  rlimit now{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &now), 0);
  EXPECT_EQ(now.rlim_cur, 1000u);
  EXPECT_EQ(now.rlim_max, before.rlim_max);
  EXPECT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
}

}  // namespace
}  // namespace postern::io
