#include "tls/certificate.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <utility>

#include "tls/errors.h"

namespace postern::tls {
namespace {

Status wrong(std::string_view which, std::string_view what) {
  std::string text(which);
  text.append(": ").append(what);
  if (const std::string reasons = take_errors(); !reasons.empty()) text.append(" (").append(reasons).append(")");
  return error(StatusCode::kInvalidArgument, text);
}

// Nobody is asked for a pass phrase: the daemon has no terminal.
int no_pass_phrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*user*/) {
  return -1;
}

bssl::UniquePtr<BIO> reader(std::string_view text) {
  return bssl::UniquePtr<BIO>(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

std::string lower_case(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

std::int64_t seconds_of(const ASN1_TIME* time) {
  const bssl::UniquePtr<ASN1_TIME> epoch(ASN1_TIME_set(nullptr, 0));
  int days = 0, seconds = 0;
  if (ASN1_TIME_diff(&days, &seconds, epoch.get(), time) != 1) return 0;
  return std::int64_t{days} * 86'400 + seconds;
}

// The names that it may be shown for; those of a certificate without any are its common name, as of old.
std::vector<std::string> names_of(X509* leaf) {
  std::vector<std::string> names;
  const auto add = [&](const ASN1_STRING* text) {
    const std::string_view name(reinterpret_cast<const char*>(ASN1_STRING_get0_data(text)),
                                static_cast<std::size_t>(ASN1_STRING_length(text)));
    if (!name.empty() && name.find('\0') == std::string_view::npos && names.size() < Certificate::names_max)
      names.push_back(lower_case(name));
  };
  bssl::UniquePtr<GENERAL_NAMES> alternatives(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(leaf, NID_subject_alt_name, nullptr, nullptr)));
  for (std::size_t i = 0; alternatives != nullptr && i < sk_GENERAL_NAME_num(alternatives.get()); ++i) {
    const GENERAL_NAME* const name = sk_GENERAL_NAME_value(alternatives.get(), i);
    if (name->type == GEN_DNS) add(name->d.dNSName);
  }
  if (names.empty()) {
    X509_NAME* const subject = X509_get_subject_name(leaf);
    const int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (at >= 0) add(X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
  }
  return names;
}

std::string end_point_of(const X509* leaf) {
  int digest_nid = NID_undef;
  if (OBJ_find_sigid_algs(X509_get_signature_nid(leaf), &digest_nid, nullptr) != 1) return {};
  if (digest_nid == NID_md5 || digest_nid == NID_sha1) digest_nid = NID_sha256;
  const EVP_MD* const digest = EVP_get_digestbynid(digest_nid);
  std::array<std::uint8_t, EVP_MAX_MD_SIZE> made{};
  unsigned size = 0;
  if (digest == nullptr || X509_digest(leaf, digest, made.data(), &size) != 1) return {};
  return {reinterpret_cast<const char*>(made.data()), size};
}

Status read_key_kind(Certificate& made) {
  switch (EVP_PKEY_id(made.key.get())) {
    case EVP_PKEY_RSA:
      made.kind = KeyKind::rsa;
      if (const int bits = EVP_PKEY_bits(made.key.get()); bits < 2048 || bits > 8192) {
        return wrong("key", "an RSA key of " + std::to_string(bits) + " bits: 2048 to 8192 are needed");
      }
      return OkStatus();
    case EVP_PKEY_EC: {
      made.kind = KeyKind::ecdsa;
      const int curve = EC_GROUP_get_curve_name(EC_KEY_get0_group(EVP_PKEY_get0_EC_KEY(made.key.get())));
      if (curve == NID_X9_62_prime256v1) made.curve = SSL_CURVE_SECP256R1;
      if (curve == NID_secp384r1) made.curve = SSL_CURVE_SECP384R1;
      if (curve == NID_secp521r1) made.curve = SSL_CURVE_SECP521R1;
      return made.curve != 0 ? OkStatus() : wrong("key", "an ECDSA key on a curve that is none of P-256, P-384, P-521");
    }
    default:
      return wrong("key", "neither an RSA nor an ECDSA key");
  }
}

}  // namespace

StatusOr<std::shared_ptr<const Certificate>> Certificate::parse(std::string_view chain_pem, std::string_view key_pem) {
  auto made = std::make_shared<Certificate>();
  ERR_clear_error();
  const bssl::UniquePtr<BIO> chain = reader(chain_pem);
  bssl::UniquePtr<X509> leaf;
  std::size_t bytes = 0;
  while (bssl::UniquePtr<X509> next{PEM_read_bio_X509(chain.get(), nullptr, no_pass_phrase, nullptr)}) {
    std::uint8_t* der = nullptr;
    const int size = i2d_X509(next.get(), &der);
    if (size <= 0) return wrong("chain", "a certificate cannot be read");
    const bssl::UniquePtr<std::uint8_t> owned(der);
    bytes += static_cast<std::size_t>(size);
    if (made->chain.size() == chain_max || bytes > chain_bytes_max) {
      return wrong("chain", "more than " + std::to_string(chain_max) + " certificates or " +
                                std::to_string(chain_bytes_max >> 10) + " KiB: is this a list of authorities?");
    }
    made->chain.emplace_back(CRYPTO_BUFFER_new(der, static_cast<std::size_t>(size), nullptr));
    if (leaf == nullptr) leaf = std::move(next);
  }
  if (leaf == nullptr) return wrong("chain", "no certificate in PEM form");
  // The end of the text shows as "no start line"; anything else is a certificate that cannot be read.
  if (const std::uint32_t last = ERR_peek_last_error(); ERR_GET_REASON(last) != PEM_R_NO_START_LINE) {
    return wrong("chain", "a certificate behind the first cannot be read");
  }
  ERR_clear_error();

  made->key.reset(PEM_read_bio_PrivateKey(reader(key_pem).get(), nullptr, no_pass_phrase, nullptr));
  if (made->key == nullptr) return wrong("key", "no private key in PEM form, or one behind a pass phrase");
  if (Status status = read_key_kind(*made); !status.ok()) return status;
  if (X509_check_private_key(leaf.get(), made->key.get()) != 1) {
    return wrong("key", "it is not the key of the chain's first certificate");
  }
  made->end_point = end_point_of(leaf.get());
  made->names = names_of(leaf.get());
  made->valid_from_s = seconds_of(X509_get0_notBefore(leaf.get()));
  made->valid_until_s = seconds_of(X509_get0_notAfter(leaf.get()));
  ERR_clear_error();
  return std::shared_ptr<const Certificate>(std::move(made));
}

}  // namespace postern::tls
