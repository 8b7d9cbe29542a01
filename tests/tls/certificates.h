// Certificates made on the spot, for tests and benchmarks: no file in the tree expires, and no key lies about.
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include <postern/base/check.h>

#include "tls/boringssl.h"
#include "tls/certificate.h"

namespace postern::tls {

struct MadeCertificate {
  std::string chain_pem, key_pem;
  bssl::UniquePtr<X509> certificate;
  bssl::UniquePtr<EVP_PKEY> key;

  [[nodiscard]] std::shared_ptr<const Certificate> parsed() const {
    auto made = Certificate::parse(chain_pem, key_pem);
    POSTERN_CHECK(made.ok());
    return *made;
  }
};

struct CertificateWish {
  std::vector<std::string> names{};
  KeyKind kind = KeyKind::ecdsa;
  int curve = NID_X9_62_prime256v1;
  int rsa_bits = 2048;
  long valid_from_s = -3600, valid_until_s = 864'000;  // from now
  const MadeCertificate* issuer = nullptr;             // none: signed by itself
  bool authority = false;
};

inline std::string pem_of(const bssl::UniquePtr<BIO>& bio) {
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;
  BIO_mem_contents(bio.get(), &data, &size);
  return {reinterpret_cast<const char*>(data), size};
}

inline bssl::UniquePtr<EVP_PKEY> make_key(const CertificateWish& wish) {
  bssl::UniquePtr<EVP_PKEY> key(EVP_PKEY_new());
  if (wish.kind == KeyKind::ecdsa) {
    bssl::UniquePtr<EC_KEY> made(EC_KEY_new_by_curve_name(wish.curve));
    POSTERN_CHECK(EC_KEY_generate_key(made.get()) == 1 && EVP_PKEY_set1_EC_KEY(key.get(), made.get()) == 1);
  } else {
    const bssl::UniquePtr<RSA> made(RSA_new());
    const bssl::UniquePtr<BIGNUM> exponent(BN_new());
    POSTERN_CHECK(BN_set_word(exponent.get(), RSA_F4) == 1 &&
                  RSA_generate_key_ex(made.get(), wish.rsa_bits, exponent.get(), nullptr) == 1 &&
                  EVP_PKEY_set1_RSA(key.get(), made.get()) == 1);
  }
  return key;
}

inline void add_extension(X509* certificate, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, certificate, certificate, nullptr, nullptr, 0);
  const bssl::UniquePtr<X509_EXTENSION> extension(X509V3_EXT_nconf_nid(nullptr, &context, nid, value.c_str()));
  POSTERN_CHECK(extension != nullptr && X509_add_ext(certificate, extension.get(), -1) == 1);
}

inline MadeCertificate make_certificate(const CertificateWish& wish) {
  MadeCertificate made;
  made.key = make_key(wish);
  made.certificate.reset(X509_new());
  X509* const certificate = made.certificate.get();
  X509_set_version(certificate, X509_VERSION_3);
  std::uint64_t serial = 0;
  RAND_bytes(reinterpret_cast<std::uint8_t*>(&serial), sizeof serial);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate), serial >> 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), wish.valid_from_s);
  X509_gmtime_adj(X509_getm_notAfter(certificate), wish.valid_until_s);
  X509_set_pubkey(certificate, made.key.get());
  const std::string common = wish.names.empty() ? "nobody" : wish.names.front();
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const std::uint8_t*>(common.data()), static_cast<int>(common.size()), -1,
                             0);
  X509_set_issuer_name(certificate,
                       X509_get_subject_name(wish.issuer == nullptr ? certificate : wish.issuer->certificate.get()));
  std::string alternatives;
  for (const std::string& name : wish.names) alternatives += (alternatives.empty() ? "DNS:" : ",DNS:") + name;
  if (!alternatives.empty()) add_extension(certificate, NID_subject_alt_name, alternatives);
  if (wish.authority) {
    add_extension(certificate, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(certificate, NID_key_usage, "critical,keyCertSign");
  }
  EVP_PKEY* const signer = wish.issuer == nullptr ? made.key.get() : wish.issuer->key.get();
  POSTERN_CHECK(X509_sign(certificate, signer, EVP_sha256()) > 0);

  const bssl::UniquePtr<BIO> chain(BIO_new(BIO_s_mem())), key(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(chain.get(), certificate);
  PEM_write_bio_PrivateKey(key.get(), made.key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  made.chain_pem = pem_of(chain);
  made.key_pem = pem_of(key);
  return made;
}

}  // namespace postern::tls
