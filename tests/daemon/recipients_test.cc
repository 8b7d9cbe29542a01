// The recipients' table of a configuration and its file, and how a change of the file is noticed.
#include "daemon/recipients.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

namespace postern::daemon {
namespace {

using ::testing::HasSubstr;

class Recipients : public ::testing::Test {
 protected:
  Recipients() {
    char name[] = "/tmp/postern-recipients-XXXXXX";
    folder_ = ::mkdtemp(name);
  }
  ~Recipients() override {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  [[nodiscard]] std::string path() const { return folder_ + "/recipients"; }
  void write(std::string_view text) const { std::ofstream(path()) << text; }
  [[nodiscard]] static std::string fault(const shard::RecipientOptions& options) {
    const auto table = load_recipients(options, "posternd.toml");
    return table.ok() ? "" : std::string(message_of(table.status()));
  }

 private:
  std::string folder_;
};

TEST_F(Recipients, OfNoConfigurationAreEveryone) {
  const auto table = load_recipients({}, "posternd.toml");
  ASSERT_TRUE(table.ok());
  EXPECT_EQ(*table, nullptr);
}

TEST_F(Recipients, ComeFromTheListAndTheFileTogether) {
  write("a@x.test\nb@x.test: list@x.test\n");
  shard::RecipientOptions options;
  options.known = {{"list@x.test: c@x.test", 7}};
  options.file = path();
  const auto table = load_recipients(options, "posternd.toml");
  ASSERT_TRUE(table.ok()) << message_of(table.status());
  EXPECT_EQ((*table)->size(), 3u);
  std::vector<std::string_view> targets;
  EXPECT_EQ((*table)->find({"b@x.test", 2}, targets), policy::RecipientTable::Found::alias);
  EXPECT_THAT(targets, ::testing::ElementsAre("c@x.test"));
}

TEST_F(Recipients, FaultsNameFileAndLine) {
  shard::RecipientOptions options;
  options.known = {{"a@x.test", 7}, {"nobody", 8}};
  EXPECT_THAT(fault(options), HasSubstr("posternd.toml:8: recipients.known: \"nobody\""));
  options.known = {{"a@x.test: b@x.test", 7}, {"b@x.test: a@x.test", 9}};
  EXPECT_THAT(fault(options), HasSubstr("posternd.toml:9: "));
  options.known.clear();
  options.file = path();
  EXPECT_THAT(fault(options), HasSubstr(path() + ":1: cannot be read: "));
  write("a@x.test\nb\n");
  EXPECT_THAT(fault(options), HasSubstr(path() + ":2: "));
  write("# nobody yet\n");
  EXPECT_THAT(fault(options), HasSubstr("holds no address"));
  std::filesystem::resize_file(path(), recipient_file_bytes_max + 1);
  EXPECT_THAT(fault(options), HasSubstr(path() + ":1: is larger than 1 GiB"));
  std::filesystem::remove(path());
  ASSERT_EQ(::mkfifo(path().c_str(), 0600), 0);
  EXPECT_THAT(fault(options), HasSubstr(path() + ":1: is no regular file")) << "and it does not wait for a writer";
}

TEST_F(Recipients, AreReadAgainWhenTheFileHasSettled) {
  write("a@x.test\n");
  RecipientFile file;
  file.watch(path());
  EXPECT_FALSE(file.changed());
  EXPECT_TRUE(file.unchanged());
  write("a@x.test\nb@x.test\n");
  EXPECT_FALSE(file.unchanged());
  EXPECT_FALSE(file.changed()) << "it may still be being written";
  write("a@x.test\nb@x.test\nc@x.test\n");
  EXPECT_FALSE(file.changed()) << "it was";
  EXPECT_TRUE(file.changed());
  EXPECT_FALSE(file.changed()) << "once";
  std::filesystem::remove(path());
  EXPECT_FALSE(file.changed());
  EXPECT_FALSE(file.changed()) << "a file that is gone is no new one";
  write("a@x.test\nb@x.test\nd@x.test\n");
  EXPECT_FALSE(file.changed());
  EXPECT_TRUE(file.changed());
  EXPECT_FALSE(RecipientFile().changed());
}

}  // namespace
}  // namespace postern::daemon
