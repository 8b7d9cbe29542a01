// Who may authenticate, as the configuration says it: keys, what they need beside them, and the file of users.
#include "daemon/users.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/config.h"
#include "tests/tls/certificates.h"

namespace postern::daemon {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr std::string_view entry = "alice:$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW\n";

class Users : public testing::Test {
 protected:
  Users() {
    std::string name = (std::filesystem::temp_directory_path() / "postern-users-XXXXXX").string();
    folder = mkdtemp(name.data());
    const tls::MadeCertificate made = tls::make_certificate({.names = {"mx.example.test"}});
    write("a.pem", made.chain_pem);
    write("a.key", made.key_pem);
    write("users", entry);
  }
  ~Users() override { std::filesystem::remove_all(folder); }

  void write(const std::string& name, std::string_view text, unsigned mode = 0600) const {
    const std::filesystem::path path = folder / name;
    std::ofstream(path) << text;
    std::filesystem::permissions(path, static_cast<std::filesystem::perms>(mode));
  }
  [[nodiscard]] LoadedConfig load(const std::string& listener,
                                  const std::string& auth = "[auth]\nusers = \"users\"\n") const {
    System system;
    system.hostname = "mx.example.test";
    system.memory_bytes = std::uint64_t{1} << 30;
    return parse_config("[[listener]]\naddress = \"127.0.0.1:25\"\n" + listener + "\n" + auth +
                            "[[tls.certificate]]\nchain = \"a.pem\"\nkey = \"a.key\"\n",
                        (folder / "postern.toml").string(), system);
  }

  std::filesystem::path folder;
};

TEST_F(Users, AreReadWithTheConfiguration) {
  const LoadedConfig loaded = load("tls = \"required\"\nauth = \"required\"");
  ASSERT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
  EXPECT_THAT(loaded.warnings, IsEmpty());
  EXPECT_EQ(loaded.options->listeners[0].auth, shard::ListenerAuth::required);
  ASSERT_NE(loaded.options->auth.users, nullptr);
  EXPECT_EQ(loaded.options->auth.users->size(), 1u);
  EXPECT_TRUE(loaded.options->auth.mechanisms.empty());
  EXPECT_EQ(loaded.options->auth.failures, 3u);
}

TEST_F(Users, MayBeChosenFromInManyWays) {
  const LoadedConfig loaded =
      load("auth = \"optional\"\nauth_without_tls = true",
           "[auth]\nusers = \"users\"\nmechanisms = [\"plain\", \"SCRAM-SHA-256\"]\nfailures = 5\n"
           "failure_delay = \"2s\"\nfailures_per_peer = 0\n");
  ASSERT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
  const shard::AuthOptions& auth = loaded.options->auth;
  EXPECT_TRUE(auth.mechanisms.has(sasl::Mechanism::plain));
  EXPECT_TRUE(auth.mechanisms.has(sasl::Mechanism::scram_sha_256));
  EXPECT_FALSE(auth.mechanisms.has(sasl::Mechanism::login));
  EXPECT_EQ(auth.failures, 5u);
  EXPECT_EQ(auth.failure_delay, std::chrono::seconds(2));
  EXPECT_EQ(auth.failures_per_peer, 0u);
  EXPECT_TRUE(loaded.options->listeners[0].auth_without_tls);
}

TEST_F(Users, NeedWhatMakesSense) {
  EXPECT_THAT(load("auth = \"required\"").errors,
              ElementsAre(HasSubstr(":3: listener.auth: without TLS it is not offered; write tls")));
  EXPECT_THAT(
      load("tls = \"required\"\nauth = \"optional\"", "").errors,
      ElementsAre(HasSubstr(":4: listener.auth: nobody could authenticate; write [auth] and users = \"FILE\"")));
  EXPECT_THAT(load("service = \"lmtp\"\nauth = \"optional\"").errors,
              ElementsAre(HasSubstr(":4: listener.auth: LMTP is for peers")));
  EXPECT_THAT(load("auth_without_tls = true").errors,
              ElementsAre(HasSubstr(":3: listener.auth_without_tls: has no effect; write auth")));
  EXPECT_THAT(load("auth_without_tls = \"yes\"").errors, ElementsAre(HasSubstr("wrong type; write true or false")));
  EXPECT_THAT(load("auth = \"maybe\"").errors, ElementsAre(HasSubstr("\"maybe\" is unknown")));
  EXPECT_THAT(
      load("", "[auth]\nusers = \"users\"\nmechanisms = [\"CRAM-MD5\"]\n").errors,
      ElementsAre(HasSubstr("auth.mechanisms: \"CRAM-MD5\" is unknown or not implemented; write some of PLAIN")));
  EXPECT_THAT(load("", "[auth]\nfailures = 0\n").errors, ElementsAre(HasSubstr("auth.failures: 0 is out of range")));
  EXPECT_TRUE(load("service = \"submissions\"\nauth = \"required\"").options);
}

TEST_F(Users, OfABadFileAreAFaultThatNamesItsLine) {
  write("users", std::string(entry) + "bob\n");
  EXPECT_THAT(load("").errors, ElementsAre(HasSubstr("/users:2: no colon; write USER:HASH")));
  std::filesystem::remove(folder / "users");
  EXPECT_THAT(load("").errors, ElementsAre(HasSubstr("auth.users: " + (folder / "users").string() + ": No such file")));
  std::filesystem::create_directory(folder / "users");
  EXPECT_THAT(load("").errors, ElementsAre(HasSubstr("no ordinary file; make it with postern-passwd")));
}

TEST_F(Users, ThatAnyoneMayReadAreWarnedOf) {
  write("users", entry, 0644);
  const LoadedConfig loaded = load("");
  EXPECT_TRUE(loaded.options);
  EXPECT_THAT(loaded.warnings, ElementsAre(HasSubstr("anyone may read it; chmod 640")));
}

}  // namespace
}  // namespace postern::daemon
