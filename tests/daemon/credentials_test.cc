// By what we authenticate with next hops, as the configuration says it: keys, files, and the routes that name them.
#include "daemon/credentials.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/config.h"

namespace postern::daemon {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class CredentialsFile : public testing::Test {
 protected:
  CredentialsFile() {
    std::string name = (std::filesystem::temp_directory_path() / "postern-credentials-XXXXXX").string();
    folder = mkdtemp(name.data());
    write("password", "correct horse\n");
  }
  ~CredentialsFile() override { std::filesystem::remove_all(folder); }

  void write(const std::string& name, std::string_view text, unsigned mode = 0600) const {
    const std::filesystem::path path = folder / name;
    std::ofstream(path) << text;
    std::filesystem::permissions(path, static_cast<std::filesystem::perms>(mode));
  }
  [[nodiscard]] LoadedConfig load(
      const std::string& credentials,
      const std::string& route = "via = \"smtp:mail.example.net:587\"\ntls = \"verified\"\n",
      const std::string& auth = "provider") const {
    System system;
    system.hostname = "mx.example.test";
    system.memory_bytes = std::uint64_t{1} << 30;
    return parse_config("[[listener]]\naddress = \"127.0.0.1:25\"\n[[smtp_client.credentials]]\n" + credentials +
                            "[[route]]\nmatch = \"*\"\nauth = \"" + auth + "\"\n" + route,
                        (folder / "postern.toml").string(), system);
  }

  static constexpr std::string_view good =
      "name = \"provider\"\nuser = \"us@example.net\"\npassword_file = \"password\"\n";
  std::filesystem::path folder;
};

TEST_F(CredentialsFile, AreReadWithTheConfiguration) {
  const LoadedConfig loaded = load(std::string(good));
  ASSERT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
  EXPECT_THAT(loaded.warnings, IsEmpty());
  ASSERT_EQ(loaded.options->smtp_client.credentials.size(), 1u);
  const shard::CredentialsOptions& one = loaded.options->smtp_client.credentials[0];
  EXPECT_EQ(one.name, "provider");
  ASSERT_NE(one.made, nullptr);
  EXPECT_EQ(one.made->user, "us@example.net");
  EXPECT_EQ(one.made->password.view(), "correct horse");
  EXPECT_EQ(one.made->mechanisms.to_text(), "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
  EXPECT_FALSE(one.made->without_tls);
  EXPECT_EQ(loaded.options->routes[0].credentials, "provider");
}

TEST_F(CredentialsFile, APasswordIsTheWholeOfItsLine) {
  const std::vector<std::pair<std::string_view, std::string_view>> cases{
      {" a b ", " a b "}, {"x\r\n", "x"}, {"\xC3\xBC", "\xC3\xBC"}};
  for (const auto& [text, password] : cases) {
    write("password", text);
    const LoadedConfig loaded = load(std::string(good));
    ASSERT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
    EXPECT_EQ(loaded.options->smtp_client.credentials[0].made->password.view(), password);
  }
}

TEST_F(CredentialsFile, FilesThatHoldNone) {
  for (const std::string_view text : {"", "\n", "a\nb\n", "a\n\n", "tab\there"}) {
    write("password", text);
    EXPECT_THAT(load(std::string(good)).errors, ElementsAre(HasSubstr("postern.toml:3: "
                                                                      "smtp_client.credentials.password_file: ")))
        << text;
  }
  std::filesystem::remove(folder / "password");
  EXPECT_THAT(load(std::string(good)).errors, ElementsAre(HasSubstr("No such file")));
}

TEST_F(CredentialsFile, AFileThatAnyoneMayReadIsWorthAWarning) {
  write("password", "correct horse\n", 0644);
  const LoadedConfig loaded = load(std::string(good));
  EXPECT_TRUE(loaded.options);
  EXPECT_THAT(loaded.warnings, ElementsAre(HasSubstr("anyone may read it; chmod 600")));
}

TEST_F(CredentialsFile, WhatIsWrongWithAnEntry) {
  EXPECT_THAT(load("").errors, testing::Contains(HasSubstr("smtp_client.credentials.name: missing")));
  EXPECT_THAT(load("name = \"provider\"\n").errors,
              ElementsAre(HasSubstr("credentials.user: missing"), HasSubstr("credentials.password_file: missing")));
  EXPECT_THAT(load("name = \"pro;vider\"\nuser = \"u\"\npassword_file = \"password\"\n").errors,
              testing::Contains(HasSubstr("postern.toml:4: smtp_client.credentials.name: is not 1 … 64 letters")));
  EXPECT_THAT(load(std::string(good) + "mechanisms = [\"PLAIN\", \"GSSAPI\"]\n").errors,
              ElementsAre(HasSubstr("postern.toml:7: smtp_client.credentials.mechanisms: \"GSSAPI\" is unknown")));
  EXPECT_THAT(load(std::string(good) + "[[smtp_client.credentials]]\n" + std::string(good)).errors,
              ElementsAre(HasSubstr("postern.toml:8: smtp_client.credentials.name: \"provider\" is there twice")));
  EXPECT_THAT(load(std::string(good) + "pasword = \"x\"\n").errors,
              ElementsAre(HasSubstr("smtp_client.credentials.pasword: unknown key")));
}

TEST_F(CredentialsFile, WhatIsWrongWithARouteThatNamesThem) {
  EXPECT_THAT(load(std::string(good), "via = \"smtp:mail.example.net\"\ntls = \"verified\"\n", "other").errors,
              ElementsAre(HasSubstr("route.auth: \"other\" is no credentials' name")));
  for (const std::string_view via : {"mx", "discard", "lmtp:unix:/run/lmtp", "maildir:/tmp/{local}"}) {
    EXPECT_THAT(load(std::string(good), "via = \"" + std::string(via) + "\"\n").errors,
                ElementsAre(HasSubstr("route.auth: credentials are for a host that is named here, over TCP")))
        << via;
  }
  const std::string in_the_clear = "via = \"smtp:mail.example.net\"\ntls = \"none\"\n";
  EXPECT_THAT(load(std::string(good), in_the_clear).errors,
              ElementsAre(HasSubstr("route.auth: credentials are not used without TLS")));
  EXPECT_TRUE(load(std::string(good) + "without_tls = true\n", in_the_clear).options);
}

TEST_F(CredentialsFile, WhereAPasswordCouldBeAskedForByOthersIsWorthAWarning) {
  for (const std::string_view tls : {"", "tls = \"opportunistic\"\n", "tls = \"required\"\n"}) {
    const std::string route = "via = \"smtp:mail.example.net\"\n" + std::string(tls);
    const LoadedConfig loaded = load(std::string(good), route);
    EXPECT_TRUE(loaded.options);
    EXPECT_THAT(loaded.warnings, ElementsAre(HasSubstr("whoever can redirect the connection"))) << tls;
    EXPECT_THAT(load(std::string(good) + "mechanisms = [\"SCRAM-SHA-256\"]\n", route).warnings, IsEmpty()) << tls;
  }
}

TEST_F(CredentialsFile, AreNewBehindAReload) {
  const LoadedConfig before = load(std::string(good));
  write("password", "battery staple\n");
  const LoadedConfig after = load(std::string(good));
  EXPECT_THAT(needs_restart(*before.options, *after.options), IsEmpty());
  const shard::OptionsSnapshot merged = merge_for_reload(*before.options, *after.options);
  EXPECT_EQ(merged->smtp_client.credentials[0].made->password.view(), "battery staple");
}

}  // namespace
}  // namespace postern::daemon
