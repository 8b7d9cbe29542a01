// Certificates and keys as operators hand them in.
#include "tls/certificate.h"

#include <ctime>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tls/certificates.h"

namespace postern::tls {
namespace {

using testing::ElementsAre;
using testing::StartsWith;

std::string trouble(std::string_view chain, std::string_view key) {
  return std::string(message_of(Certificate::parse(chain, key).status()));
}

TEST(Certificate, KnowsItsNamesKindAndTime) {
  const MadeCertificate made = make_certificate({.names = {"MX.example.test", "*.example.test"}});
  const auto parsed = Certificate::parse(made.chain_pem, made.key_pem);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_THAT((*parsed)->names, ElementsAre("mx.example.test", "*.example.test"));
  EXPECT_EQ((*parsed)->kind, KeyKind::ecdsa);
  EXPECT_EQ((*parsed)->curve, SSL_CURVE_SECP256R1);
  EXPECT_NEAR(static_cast<double>((*parsed)->valid_until_s), static_cast<double>(std::time(nullptr)) + 864'000, 60);
  EXPECT_NEAR(static_cast<double>((*parsed)->valid_from_s), static_cast<double>(std::time(nullptr)) - 3'600, 60);
}

TEST(Certificate, TakesAChainWithTextAround) {
  const MadeCertificate authority = make_certificate({.names = {"authority"}, .authority = true});
  const MadeCertificate made = make_certificate({.names = {"a.test"}, .kind = KeyKind::rsa, .issuer = &authority});
  const std::string chain = "Subject: a.test\n" + made.chain_pem + "\nIssuer:\n" + authority.chain_pem + "\n# end\n";
  const auto parsed = Certificate::parse(chain, made.key_pem);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)->chain.size(), 2u);
  EXPECT_EQ((*parsed)->kind, KeyKind::rsa);
}

TEST(Certificate, SaysWhatIsWrong) {
  const MadeCertificate made = make_certificate({.names = {"a.test"}});
  const MadeCertificate another = make_certificate({.names = {"b.test"}});
  EXPECT_THAT(trouble("", made.key_pem), StartsWith("chain: no certificate in PEM form"));
  EXPECT_THAT(trouble(made.key_pem, made.key_pem), StartsWith("chain: no certificate in PEM form"));
  EXPECT_THAT(trouble(made.chain_pem, ""), StartsWith("key: no private key in PEM form"));
  EXPECT_THAT(trouble(made.chain_pem, another.key_pem), StartsWith("key: it is not the key of the chain's first"));
  std::string broken = made.chain_pem + another.chain_pem;
  broken.replace(made.chain_pem.size() + 60, 8, "????????");
  EXPECT_THAT(trouble(broken, made.key_pem), StartsWith("chain: a certificate behind the first cannot be read"));
  std::string endless;
  for (int i = 0; i < 11; ++i) endless += made.chain_pem;
  EXPECT_THAT(trouble(endless, made.key_pem), StartsWith("chain: more than 10 certificates"));
  const MadeCertificate weak = make_certificate({.names = {"a.test"}, .kind = KeyKind::rsa, .rsa_bits = 1024});
  EXPECT_THAT(trouble(weak.chain_pem, weak.key_pem), StartsWith("key: an RSA key of 1024 bits"));
  const MadeCertificate odd = make_certificate({.names = {"a.test"}, .curve = NID_secp224r1});
  EXPECT_THAT(trouble(odd.chain_pem, odd.key_pem), StartsWith("key: an ECDSA key on a curve"));
}

TEST(Certificate, AsksNobodyForAPassPhrase) {
  const MadeCertificate made = make_certificate({.names = {"a.test"}});
  const bssl::UniquePtr<BIO> bio(BIO_new(BIO_s_mem()));
  const std::string phrase = "secret";
  ASSERT_EQ(PEM_write_bio_PrivateKey(bio.get(), made.key.get(), EVP_aes_128_cbc(),
                                     reinterpret_cast<std::uint8_t*>(const_cast<char*>(phrase.data())),
                                     static_cast<int>(phrase.size()), nullptr, nullptr),
            1);
  EXPECT_THAT(trouble(made.chain_pem, pem_of(bio)),
              StartsWith("key: no private key in PEM form, or one behind a pass"));
}

}  // namespace
}  // namespace postern::tls
