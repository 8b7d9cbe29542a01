// The file of users on disk: replaced as a whole, with its permissions, by one at a time.
#include "passwd/secure_file.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace postern::passwd {
namespace {

class SecureFileTest : public ::testing::Test {
 protected:
  SecureFileTest() {
    char name[] = "/tmp/postern-passwd-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  ~SecureFileTest() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  [[nodiscard]] std::string path() const { return folder_ + "/users"; }
  [[nodiscard]] std::string content() const {
    std::ifstream stream(path());
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  [[nodiscard]] unsigned mode() const {
    struct stat facts{};
    EXPECT_EQ(::stat(path().c_str(), &facts), 0);
    return facts.st_mode & 07777u;
  }
  [[nodiscard]] std::size_t files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(folder_), {}));
  }

  std::string folder_;
};

TEST_F(SecureFileTest, IsMadeForItsOwnerAndGroupAlone) {
  EXPECT_TRUE(absl::IsNotFound(SecureFile::open(path(), false).status()));
  const mode_t before = ::umask(0);
  const auto file = SecureFile::open(path(), true);
  ::umask(before);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->text(), "");
  ASSERT_TRUE(file->replace("a:b\n").ok());
  EXPECT_EQ(content(), "a:b\n");
  EXPECT_EQ(mode(), 0640u);
  EXPECT_EQ(files(), 1u);
}

TEST_F(SecureFileTest, KeepsItsPermissionsAndWhatALinkIs) {
  std::ofstream(path()) << "old";
  ASSERT_EQ(::chmod(path().c_str(), 0600), 0);
  const std::string link = folder_ + "/link";
  std::filesystem::create_symlink("users", link);
  const auto file = SecureFile::open(link, false);
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(file->text(), "old");
  ASSERT_TRUE(file->replace("new").ok());
  EXPECT_EQ(content(), "new");
  EXPECT_EQ(mode(), 0600u);
  EXPECT_TRUE(std::filesystem::is_symlink(link));
}

TEST_F(SecureFileTest, IsAFile) {
  EXPECT_TRUE(absl::IsInvalidArgument(SecureFile::open(folder_, false).status()));
  EXPECT_FALSE(SecureFile::open(folder_ + "/none/users", true).ok());
}

TEST_F(SecureFileTest, IsChangedByOneAtATime) {
  constexpr int writers = 4;
  constexpr int rounds = 25;
  std::vector<std::thread> threads;
  for (int i = 0; i < writers; ++i) {
    threads.emplace_back([this] {
      for (int round = 0; round < rounds; ++round) {
        const auto file = SecureFile::open(path(), true);
        ASSERT_TRUE(file.ok());
        ASSERT_TRUE(file->replace(file->text() + "x").ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(content().size(), std::size_t{writers} * rounds);
  EXPECT_EQ(files(), 1u);
}

}  // namespace
}  // namespace postern::passwd
