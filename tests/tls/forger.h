// A client that goes on by hand where BoringSSL's handshake ended: records of any type and content, rightly encrypted
// with AES-128-GCM, which no well-behaved library would write. For what a hostile peer may say within TLS.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <openssl/aead.h>
#include <openssl/hkdf.h>

#include <postern/base/check.h>

#include "tests/tls/pair.h"

namespace postern::tls {

inline constexpr std::uint8_t change_cipher_record = 20, alert_record = 21, handshake_record = 22, data_record = 23;

class Forger {
 public:
  // Makes an own client for `context` and shakes hands with it.
  Forger(const net::TlsContext& context, std::uint16_t version) : version_(version) {
    SSL_CTX_set_min_proto_version(client_.get(), version);
    SSL_CTX_set_max_proto_version(client_.get(), version);
    SSL_CTX_set_strict_cipher_list(client_.get(), "ECDHE-ECDSA-AES128-GCM-SHA256");
    SSL_CTX_set_app_data(client_.get(), this);
    SSL_CTX_set_keylog_callback(client_.get(), [](const SSL* ssl, const char* line) {
      static_cast<Forger*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)))->note_secret(line);
    });
    pair_ = std::make_unique<Pair>(context, client_stream(client_.get()));
    pair_->run();
    POSTERN_CHECK(pair_->server.secured && pair_->server.stream->facts().cipher.ends_with("_AES_128_GCM_SHA256"));
    pair_->server.write("220");  // 1.3's tickets leave before the first byte
    (void)pair_->server.output();
    if (version == TLS1_3_VERSION) {
      expand("key", key_);
      expand("iv", iv_);
    } else {
      const SSL* const ssl = static_cast<const Stream&>(*pair_->client.stream).ssl();
      std::array<std::uint8_t, 40> block{};  // two keys of 16, two salts of 4, the client's first [RFC 5246 §6.3]
      POSTERN_CHECK(SSL_get_key_block_len(ssl) == block.size() &&
                    SSL_generate_key_block(ssl, block.data(), block.size()) == 1);
      std::copy_n(block.begin(), 16, key_.begin());
      std::copy_n(block.begin() + 32, 4, iv_.begin());
      sequence_ = 1;  // Finished was the first
    }
  }

  [[nodiscard]] End& server() { return pair_->server; }

  [[nodiscard]] std::string record(std::uint8_t type, std::string_view content) {
    const bool newer = version_ == TLS1_3_VERSION;
    std::string plain(content);
    if (newer) plain += static_cast<char>(type);
    const std::size_t sealed_size = plain.size() + 16;
    std::array<std::uint8_t, 12> nonce = iv_;
    std::array<std::uint8_t, 8> sequence{};
    for (std::size_t i = 0; i < 8; ++i) sequence[i] = static_cast<std::uint8_t>(sequence_ >> (56 - 8 * i));
    ++sequence_;
    for (std::size_t i = 0; i < 8; ++i) nonce[4 + i] = newer ? nonce[4 + i] ^ sequence[i] : sequence[i];
    const std::size_t length = sealed_size + (newer ? 0 : sequence.size());
    const std::vector<std::uint8_t> header = {newer ? data_record : type, 3, 3, static_cast<std::uint8_t>(length >> 8),
                                              static_cast<std::uint8_t>(length)};
    std::vector<std::uint8_t> additional(header);
    if (!newer) {
      additional.assign(sequence.begin(), sequence.end());
      additional.insert(additional.end(), {type, 3, 3, static_cast<std::uint8_t>(plain.size() >> 8),
                                           static_cast<std::uint8_t>(plain.size())});
    }
    bssl::ScopedEVP_AEAD_CTX aead;
    POSTERN_CHECK(EVP_AEAD_CTX_init(aead.get(), EVP_aead_aes_128_gcm(), key_.data(), key_.size(), 16, nullptr) == 1);
    std::vector<std::uint8_t> sealed(sealed_size);
    std::size_t size = 0;
    POSTERN_CHECK(EVP_AEAD_CTX_seal(aead.get(), sealed.data(), &size, sealed.size(), nonce.data(), nonce.size(),
                                    reinterpret_cast<const std::uint8_t*>(plain.data()), plain.size(),
                                    additional.data(), additional.size()) == 1);
    std::string made(header.begin(), header.end());
    if (!newer) made.append(sequence.begin(), sequence.end());
    return made.append(sealed.begin(), sealed.end());
  }

 private:
  void note_secret(std::string_view line) {
    constexpr std::string_view label = "CLIENT_TRAFFIC_SECRET_0 ";
    if (!line.starts_with(label)) return;
    const std::string_view hex = line.substr(line.rfind(' ') + 1);
    for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
      secret_.push_back(static_cast<std::uint8_t>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
    }
  }
  // HKDF-Expand-Label without a context [RFC 8446 §7.1].
  void expand(std::string_view label, std::span<std::uint8_t> out) {
    const std::string name = "tls13 " + std::string(label);
    std::string info = {static_cast<char>(out.size() >> 8), static_cast<char>(out.size()),
                        static_cast<char>(name.size())};
    info.append(name).push_back('\0');
    POSTERN_CHECK(HKDF_expand(out.data(), out.size(), EVP_sha256(), secret_.data(), secret_.size(),
                              reinterpret_cast<const std::uint8_t*>(info.data()), info.size()) == 1);
  }

  const std::uint16_t version_;
  bssl::UniquePtr<SSL_CTX> client_ = client_context();
  std::unique_ptr<Pair> pair_;
  std::vector<std::uint8_t> secret_;
  std::array<std::uint8_t, 16> key_{};
  std::array<std::uint8_t, 12> iv_{};
  std::uint64_t sequence_ = 0;
};

}  // namespace postern::tls
