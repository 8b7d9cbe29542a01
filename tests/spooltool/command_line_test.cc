#include <fcntl.h>
#include <filesystem>
#include <unistd.h>

#include <sys/file.h>

#include "tests/spooltool/fixture.h"

namespace postern::spooltool::test {
namespace {

using CommandLine = SpoolTool;

TEST_F(CommandLine, WhatIsWrongIsSaidWithExit10) {
  const std::vector<std::vector<std::string>> all = {
      {},
      {"chek"},
      {"check", "--what"},
      {"check", "a", "b"},
      {"dump", "--log", "xyz", data_dir},
      {"dump", "--log", "0123", data_dir},
      {"dump", "--log", "5", "--segment", "x", data_dir},
      {"show"},
      {"show", "no-queue-id", "--data-dir", data_dir},
      {"export"},
      {"export", "only-a-folder"},
      {"export", "no-queue-id", folder + "/out", "--data-dir", data_dir},
      {"export", "--all", "0040004000001", folder + "/out", "--data-dir", data_dir},
  };
  for (const std::vector<std::string>& arguments : all) {
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, 10) << testing::PrintToString(arguments);
    EXPECT_FALSE(ran.err.empty()) << testing::PrintToString(arguments);
  }
  EXPECT_FALSE(std::filesystem::exists(folder + "/out"));
}

TEST_F(CommandLine, HelpAndVersionAreGood) {
  EXPECT_EQ(run({"--version"}).code, 0);
  EXPECT_NE(run({"--version"}).out.find("postern-spool " POSTERN_VERSION), std::string::npos);
  const Ran help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* word : {"check", "dump", "show", "export", "Exit status"}) {
    EXPECT_NE(help.out.find(word), std::string::npos) << word;
  }
  EXPECT_EQ(run({"export", "--help"}).code, 0);
}

TEST_F(CommandLine, WhereThereIsNoSpoolIsExit11AndNamesTheCure) {
  const std::vector<std::vector<std::string>> all = {
      {"check", folder + "/nowhere"},
      {"dump", folder + "/nowhere"},
      {"show", "0040004000001", "--data-dir", folder + "/nowhere"},
      {"export", "--all", folder + "/out", "--data-dir", folder + "/nowhere"},
  };
  for (const std::vector<std::string>& arguments : all) {
    const Ran ran = run(arguments);
    EXPECT_EQ(ran.code, 11) << testing::PrintToString(arguments);
    EXPECT_NE(ran.err.find(folder + "/nowhere"), std::string::npos) << ran.err;
  }
  const Ran ran = run({"check", folder});
  EXPECT_EQ(ran.code, 11);
  EXPECT_NE(ran.err.find("name the data_dir"), std::string::npos) << ran.err;
  EXPECT_EQ(run({"dump", "--log", "7", data_dir}).code, 11);
  EXPECT_FALSE(std::filesystem::exists(folder + "/out"));
}

TEST_F(CommandLine, AnEmptySpoolIsSound) {
  EXPECT_EQ(run({"check", data_dir}).code, 0);
  EXPECT_EQ(run({"dump", data_dir}).code, 0);
  EXPECT_EQ(run({"show", "0040004000001", "--data-dir", data_dir}).code, 2);
}

TEST_F(CommandLine, ALockedSpoolIsInUseAndReadAllTheSame) {
  rig.start();
  (void)append("one");
  rig.write_all();
  save();
  write_text(data_dir + "/lock", "");
  EXPECT_EQ(run({"check", data_dir, "--json"}).json()["in_use"], false);
  const int lock = ::open((data_dir + "/lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(::flock(lock, LOCK_EX | LOCK_NB), 0);
  const Ran ran = run({"check", data_dir, "--json"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.json()["in_use"], true);
  EXPECT_EQ(ran.json()["logs"][0]["messages"], 1);
  EXPECT_NE(run({"check", data_dir}).out.find("in use by a posternd"), std::string::npos);
  EXPECT_EQ(::flock(lock, LOCK_UN), 0);
  EXPECT_EQ(::flock(lock, LOCK_EX | LOCK_NB), 0) << "the tool keeps no lock";
  ::close(lock);
}

}  // namespace
}  // namespace postern::spooltool::test
