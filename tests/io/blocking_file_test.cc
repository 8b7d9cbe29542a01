#include "io/blocking_file.h"

#include <filesystem>
#include <string>

#include <gtest/gtest.h>

namespace postern::io {
namespace {

TEST(SyncDirectory, NeedsAFolder) {
  const std::string folder = std::filesystem::temp_directory_path().string();
  EXPECT_TRUE(sync_directory(folder).ok());
  const Status missing = sync_directory(folder + "/there-is-no-such-folder");
  EXPECT_EQ(missing.code(), StatusCode::kNotFound);
  EXPECT_NE(message_of(missing).find("there-is-no-such-folder"), std::string_view::npos);
}

}  // namespace
}  // namespace postern::io
