// What the immediate socket calls leave in the file system: unix sockets' files.
#include "io/sockets.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <unistd.h>

#include <gtest/gtest.h>
#include <sys/stat.h>

namespace postern::io {
namespace {

class SocketFiles : public ::testing::Test {
 protected:
  SocketFiles() {
    char name[] = "/tmp/postern-socket-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  ~SocketFiles() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  [[nodiscard]] std::string path() const { return folder_ + "/socket"; }
  [[nodiscard]] Address address() const { return Address::unix_path(path()); }

  std::uint64_t system_calls_ = 0;

 private:
  std::string folder_;
};

TEST_F(SocketFiles, HaveTheModeAskedForWhateverTheUmask) {
  const mode_t umask_before = ::umask(0077);
  const StatusOr<Descriptor> listener = listen_on(address(), {.socket_mode = 0662}, system_calls_);
  ::umask(umask_before);
  ASSERT_TRUE(listener.ok()) << message_of(listener.status());
  struct stat about{};
  ASSERT_EQ(::stat(path().c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777u, 0662u);
  ::close(*listener);
}

TEST_F(SocketFiles, AreRemovedByTheirOwnerAlone) {
  const StatusOr<Descriptor> first = listen_on(address(), {}, system_calls_);
  ASSERT_TRUE(first.ok()) << message_of(first.status());
  SocketFile ours(address());
  // The first one stays open, so that its inode is not used again.
  std::filesystem::rename(path(), path() + ".old");
  const StatusOr<Descriptor> second = listen_on(address(), {}, system_calls_);
  ASSERT_TRUE(second.ok()) << message_of(second.status());
  SocketFile theirs(address());
  ours.remove();
  EXPECT_TRUE(std::filesystem::exists(path())) << "another process' by now";
  theirs.remove();
  EXPECT_FALSE(std::filesystem::exists(path()));
  theirs.remove();
  ::close(*first);
  ::close(*second);
}

TEST_F(SocketFiles, ThatAreNoSocketsAreNobodys) {
  std::ofstream(path()) << "precious";
  EXPECT_EQ(listen_on(address(), {}, system_calls_).status().code(), StatusCode::kAlreadyExists);
  SocketFile(address()).remove();
  EXPECT_TRUE(std::filesystem::exists(path()));
}

}  // namespace
}  // namespace postern::io
