// Certificates as the configuration names them: files that are good, missing, wrong, old; and what a reload keeps.
#include "daemon/config_tls.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/config.h"
#include "tests/tls/certificates.h"

namespace postern::daemon {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class ConfigTls : public testing::Test {
 protected:
  ConfigTls() {
    std::string name = (std::filesystem::temp_directory_path() / "postern-tls-XXXXXX").string();
    folder = mkdtemp(name.data());
  }
  ~ConfigTls() override { std::filesystem::remove_all(folder); }

  void write(const std::string& name, std::string_view text, unsigned mode = 0600) const {
    const std::filesystem::path path = folder / name;
    std::ofstream(path) << text;
    std::filesystem::permissions(path, static_cast<std::filesystem::perms>(mode));
  }
  void write_pair(const std::string& name, const tls::MadeCertificate& made) const {
    write(name + ".pem", made.chain_pem);
    write(name + ".key", made.key_pem);
  }
  [[nodiscard]] LoadedConfig load(const std::string& listener) const {
    System system;
    system.hostname = "mx.example.test";
    system.memory_bytes = std::uint64_t{1} << 30;
    return parse_config("[[listener]]\naddress = \"127.0.0.1:25\"\n" + listener +
                            "\n[[tls.certificate]]\nchain = \"a.pem\"\nkey = \"a.key\"\n",
                        (folder / "postern.toml").string(), system);
  }

  std::filesystem::path folder;
};

TEST_F(ConfigTls, MakesAContextForEachListenerThatSpeaksIt) {
  write_pair("a", tls::make_certificate({.names = {"mx.example.test"}}));
  const LoadedConfig loaded = load(
      "tls = \"opportunistic\"\n[[listener]]\naddress = \"127.0.0.1:465\"\nservice = \"submissions\"\n"
      "[[listener]]\naddress = \"127.0.0.1:26\"");
  ASSERT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
  EXPECT_THAT(loaded.warnings, IsEmpty());
  ASSERT_EQ(loaded.options->listeners.size(), 3u);
  EXPECT_NE(loaded.options->listeners[0].tls.context, nullptr);
  EXPECT_EQ(loaded.options->listeners[0].tls.use, smtp::TlsUse::opportunistic);
  EXPECT_NE(loaded.options->listeners[1].tls.context, nullptr);
  EXPECT_EQ(loaded.options->listeners[1].tls.use, smtp::TlsUse::none) << "there is no STARTTLS within TLS";
  EXPECT_EQ(loaded.options->listeners[2].tls.context, nullptr);
}

TEST_F(ConfigTls, SaysWhichFileIsWrongAndWhy) {
  const tls::MadeCertificate good = tls::make_certificate({.names = {"mx.example.test"}});
  const tls::MadeCertificate other = tls::make_certificate({.names = {"mx.example.test"}});
  const auto errors = [&] { return load("tls = \"required\"").errors; };
  write("a.pem", good.chain_pem);
  EXPECT_THAT(errors(), ElementsAre(testing::AllOf(HasSubstr(":4: tls.certificate.key: "),
                                                   HasSubstr("a.key: No such file"), HasSubstr("; name a PEM file"))));
  write("a.key", other.key_pem);
  EXPECT_THAT(errors(), ElementsAre(testing::AllOf(HasSubstr(":4: tls.certificate.key: "),
                                                   HasSubstr("a.key: it is not the key of the chain's first"))));
  write("a.key", "nonsense");
  EXPECT_THAT(errors(), ElementsAre(HasSubstr("a.key: no private key in PEM form")));
  write("a.key", good.key_pem);
  write("a.pem", "nonsense");
  EXPECT_THAT(errors(), ElementsAre(HasSubstr("a.pem: no certificate in PEM form")));
  std::filesystem::remove(folder / "a.pem");
  std::filesystem::create_directory(folder / "a.pem");
  EXPECT_THAT(errors(), ElementsAre(HasSubstr("a.pem: no ordinary file")));
}

TEST_F(ConfigTls, WarnsOfCertificatesOutOfTimeAndOfKeysThatAnyoneMayRead) {
  write_pair("a", tls::make_certificate({.names = {"mx.example.test"}, .valid_until_s = -60}));
  EXPECT_THAT(load("tls = \"required\"").warnings, ElementsAre(HasSubstr("a.pem: it has expired")));
  write_pair("a", tls::make_certificate({.names = {"mx.example.test"}, .valid_until_s = 3600}));
  EXPECT_THAT(load("tls = \"required\"").warnings, ElementsAre(HasSubstr("expires within three days")));
  write_pair("a", tls::make_certificate({.names = {"a"}, .valid_from_s = 3600, .valid_until_s = 864'000}));
  EXPECT_THAT(load("tls = \"required\"").warnings, ElementsAre(HasSubstr("is not valid yet")));
  const tls::MadeCertificate good = tls::make_certificate({.names = {"a"}, .valid_until_s = 864'000});
  write_pair("a", good);
  write("a.key", good.key_pem, 0644);
  EXPECT_THAT(load("tls = \"required\"").warnings, ElementsAre(HasSubstr("anyone may read it; chmod 600")));
}

TEST_F(ConfigTls, ClientsCertificatesNeedAuthoritiesThatAreSome) {
  const tls::MadeCertificate good = tls::make_certificate({.names = {"a"}, .valid_until_s = 864'000});
  write_pair("a", good);
  const std::string asked = "tls = \"required\"\nclient_certificates = \"optional\"\n";
  EXPECT_THAT(
      load(asked + "client_authorities = \"ca.pem\"").errors,
      ElementsAre(testing::AllOf(HasSubstr("listener.client_authorities: "), HasSubstr("ca.pem: No such file"))));
  write("ca.pem", "nonsense");
  EXPECT_THAT(load(asked + "client_authorities = \"ca.pem\"").errors, ElementsAre(HasSubstr("no certificate in PEM")));
  EXPECT_THAT(load(asked + "relay_certificates = [\"verified\"]").errors,
              ElementsAre(HasSubstr("name who vouches for clients")));
  write("ca.pem", good.chain_pem);
  const LoadedConfig loaded = load(asked + "client_authorities = \"ca.pem\"\nrelay_certificates = [\"verified\", \"" +
                                   std::string(64, 'a') + "\"]");
  ASSERT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
  EXPECT_TRUE(loaded.options->listeners[0].tls.relay_verified);
  EXPECT_EQ(loaded.options->listeners[0].tls.relay_certificates.size(), 1u);
}

TEST_F(ConfigTls, AFileThatWasReplacedHasAnotherMark) {
  const tls::MadeCertificate good = tls::make_certificate({.names = {"a"}, .valid_until_s = 864'000});
  write_pair("a", good);
  const LoadedConfig loaded = load("tls = \"required\"");
  ASSERT_TRUE(loaded.options);
  const TlsFileMarks before = mark_tls_files(*loaded.options);
  EXPECT_EQ(before.size(), 2u);
  EXPECT_EQ(mark_tls_files(*loaded.options), before);
  write("fresh", good.chain_pem);
  std::filesystem::rename(folder / "fresh", folder / "a.pem");
  EXPECT_NE(mark_tls_files(*loaded.options), before);
}

TEST_F(ConfigTls, NextHopsHaveAContextWhereAPolicyAsksForTls) {
  const auto tls_of = [&](const std::string& more) {
    const LoadedConfig loaded = load("\n" + more);
    EXPECT_TRUE(loaded.options) << testing::PrintToString(loaded.errors);
    return loaded.options ? loaded.options->smtp_client.tls : shard::ClientTls{};
  };
  const tls::MadeCertificate good = tls::make_certificate({.names = {"mx.example.test"}});
  write_pair("a", good);
  write("ca.pem", good.chain_pem);
  const std::string own = "tls_authorities = \"ca.pem\"\n";
  const shard::ClientTls usual = tls_of("[smtp_client]\n" + own);
  EXPECT_EQ(usual.usual, (route::TlsPolicy{.level = route::TlsLevel::opportunistic}));
  EXPECT_EQ(usual.authorities, (folder / "ca.pem").string());
  EXPECT_NE(usual.context, nullptr);
  EXPECT_EQ(tls_of("[smtp_client]\n" + own).context, usual.context) << "what is the same stays";
  EXPECT_EQ(tls_of("[smtp_client]\ntls = \"none\"\n" + own).context, nullptr);
  EXPECT_NE(tls_of("[[route]]\nmatch = \"*\"\nvia = \"mx\"\ntls = \"required\"\n[smtp_client]\ntls = \"none\"\n" + own)
                .context,
            nullptr);
  const shard::ClientTls shown = tls_of("[smtp_client]\ntls_certificate = \"a.pem\"\ntls_key = \"a.key\"\n" + own);
  EXPECT_NE(shown.context, nullptr);
  EXPECT_NE(shown.context, usual.context);
  write("ca.pem", tls::make_certificate({.names = {"another"}}).chain_pem);
  EXPECT_NE(tls_of("[smtp_client]\n" + own).context, usual.context);
}

TEST_F(ConfigTls, NextHopsFilesMustBeGood) {
  write_pair("a", tls::make_certificate({.names = {"mx.example.test"}}));
  write("nonsense", "nonsense");
  const auto errors = [&](const std::string& keys) { return load("\n[smtp_client]\n" + keys).errors; };
  EXPECT_THAT(errors("tls_authorities = \"no.pem\""),
              ElementsAre(testing::AllOf(HasSubstr(":4: smtp_client.tls_authorities: "), HasSubstr("No such file"))));
  EXPECT_THAT(errors("tls_authorities = \"nonsense\""), ElementsAre(HasSubstr("no certificate in PEM form")));
  EXPECT_THAT(errors("tls_certificate = \"nonsense\"\ntls_key = \"a.key\""),
              ElementsAre(HasSubstr(":4: smtp_client.tls_certificate: ")));
  EXPECT_THAT(errors("tls_certificate = \"a.pem\"\ntls_key = \"nonsense\""),
              ElementsAre(HasSubstr(":4: smtp_client.tls_key: ")));
}

TEST_F(ConfigTls, NextHopsFilesAreWatchedAndReloaded) {
  const tls::MadeCertificate good = tls::make_certificate({.names = {"mx.example.test"}});
  write_pair("a", good);
  write("ca.pem", good.chain_pem);
  const LoadedConfig before = load("\n[smtp_client]\ntls_authorities = \"ca.pem\"\ntls = \"none\"\n");
  const LoadedConfig after = load("\n[smtp_client]\ntls_authorities = \"ca.pem\"\ntls = \"required\"\n");
  ASSERT_TRUE(before.options && after.options);
  EXPECT_EQ(mark_tls_files(*after.options).size(), 3u);
  EXPECT_THAT(needs_restart(*before.options, *after.options), IsEmpty());
  const shard::OptionsSnapshot merged = merge_for_reload(*before.options, *after.options);
  EXPECT_EQ(merged->smtp_client.tls.usual.level, route::TlsLevel::required);
  EXPECT_EQ(merged->smtp_client.tls.context, after.options->smtp_client.tls.context);
}

TEST(Fingerprint, IsHexadecimalWithOrWithoutColons) {
  const auto plain = parse_fingerprint("00" + std::string(60, 'A') + "0f");
  ASSERT_TRUE(plain);
  EXPECT_EQ((*plain)[1], std::byte{0xAA});
  EXPECT_EQ((*plain)[31], std::byte{0x0F});
  EXPECT_EQ(parse_fingerprint("00:" + std::string(60, 'a') + ":0F"), plain);
  for (const std::string& wrong : {std::string(), std::string(63, 'a'), std::string(66, 'a'), std::string(64, 'g'),
                                   "-1" + std::string(62, 'a'), "0x" + std::string(62, 'a')}) {
    EXPECT_FALSE(parse_fingerprint(wrong)) << wrong;
  }
}

}  // namespace
}  // namespace postern::daemon
