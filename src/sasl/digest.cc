#include <openssl/base.h>

#include <postern/base/check.h>
#include <postern/sasl/digest.h>

#ifndef OPENSSL_IS_BORINGSSL
#error \
    "this is not BoringSSL: install Debian's android-libboringssl-dev, or name one by: meson setup -Dboringssl=PREFIX"
#endif

#include <openssl/digest.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/mem.h>
#include <openssl/sha.h>

namespace postern::sasl {
namespace {

const std::uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const std::uint8_t*>(text.data());
}

std::uint8_t* bytes_of(Digest& digest) {
  return reinterpret_cast<std::uint8_t*>(digest.data());
}

}  // namespace

Digest sha256(std::string_view text) {
  Digest digest;
  SHA256(bytes_of(text), text.size(), bytes_of(digest));
  return digest;
}

Digest hmac_sha256(std::string_view key, std::string_view text) {
  Digest digest;
  unsigned size = 0;
  POSTERN_CHECK(HMAC(EVP_sha256(), key.data(), key.size(), bytes_of(text), text.size(), bytes_of(digest), &size) !=
                nullptr);
  return digest;
}

Digest pbkdf2_hmac_sha256(std::string_view password, std::string_view salt, std::uint32_t iterations) {
  Digest digest;
  POSTERN_CHECK(PKCS5_PBKDF2_HMAC(password.data(), password.size(), bytes_of(salt), salt.size(), iterations,
                                  EVP_sha256(), digest.size(), bytes_of(digest)) == 1);
  return digest;
}

bool equal_secrets(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

void wipe(std::string& text) {
  text.resize(text.capacity());  // within it: nothing moves
  OPENSSL_cleanse(text.data(), text.size());
  text.clear();
}

void wipe(Digest& digest) {
  OPENSSL_cleanse(digest.data(), digest.size());
}

}  // namespace postern::sasl
