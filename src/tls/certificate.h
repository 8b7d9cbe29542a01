// A certificate with its chain and its private key, from PEM texts. Knows no files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/status.h>

#include "tls/boringssl.h"

namespace postern::tls {

enum class KeyKind : std::uint8_t { rsa, ecdsa };

struct Certificate {
  std::vector<bssl::UniquePtr<CRYPTO_BUFFER>> chain;  // the leaf first; at most chain_max, DER
  bssl::UniquePtr<EVP_PKEY> key;
  KeyKind kind = KeyKind::ecdsa;
  std::uint16_t curve = 0;         // of an ECDSA key: TLS's number of it (SSL_CURVE_*)
  std::vector<std::string> names;  // DNS names of the leaf, lower case; may begin with "*."
  // The leaf's digest by the hash of its signature, or SHA-256 where that is weaker [RFC 5929 §4.1]; empty: its
  // signature has no such hash.
  std::string end_point;
  std::int64_t valid_from_s = 0;  // seconds since the Unix epoch
  std::int64_t valid_until_s = 0;

  static constexpr std::size_t chain_max = 10;
  static constexpr std::size_t names_max = 1000;
  // Of all certificates together: a handshake sends them, and its output is bounded by that.
  static constexpr std::size_t chain_bytes_max = 32u << 10;

  // kInvalidArgument says which text is wrong, and why: "chain: …", "key: …". RSA keys have 2048 to 8192 bits, ECDSA
  // keys are on P-256, P-384 or P-521. A key behind a pass phrase is refused.
  [[nodiscard]] static StatusOr<std::shared_ptr<const Certificate>> parse(std::string_view chain_pem,
                                                                          std::string_view key_pem);
};

}  // namespace postern::tls
