#include "tls/ticket_keys.h"

#include <algorithm>
#include <span>

#include <openssl/hmac.h>

#include <postern/base/check.h>

namespace postern::tls {

TicketKeys::Key TicketKeys::make() {
  Key key;
  for (const std::span<std::uint8_t> part :
       {std::span<std::uint8_t>(key.name), std::span<std::uint8_t>(key.cipher), std::span<std::uint8_t>(key.hmac)}) {
    POSTERN_CHECK(RAND_bytes(part.data(), part.size()) == 1);
  }
  return key;
}

// The first key before the first is one that no ticket was sealed with.
TicketKeys::TicketKeys() : keys_(std::make_shared<const Pair>(Pair{make(), make()})) {}

void TicketKeys::rotate() {
  keys_.store(std::make_shared<const Pair>(Pair{make(), keys_.load()->current}));
}

int TicketKeys::seal(std::uint8_t* name, std::uint8_t* iv, EVP_CIPHER_CTX* cipher, HMAC_CTX* hmac) const {
  const std::shared_ptr<const Pair> keys = keys_.load();
  const Key& key = keys->current;
  std::ranges::copy(key.name, name);
  if (RAND_bytes(iv, EVP_CIPHER_iv_length(EVP_aes_256_cbc())) != 1 ||
      EVP_EncryptInit_ex(cipher, EVP_aes_256_cbc(), nullptr, key.cipher.data(), iv) != 1 ||
      HMAC_Init_ex(hmac, key.hmac.data(), key.hmac.size(), EVP_sha256(), nullptr) != 1) {
    return -1;
  }
  return 1;
}

int TicketKeys::open(const std::uint8_t* name, const std::uint8_t* iv, EVP_CIPHER_CTX* cipher, HMAC_CTX* hmac) const {
  const std::shared_ptr<const Pair> keys = keys_.load();
  const auto is = [&](const Key& key) { return std::ranges::equal(key.name, std::span(name, key.name.size())); };
  const bool current = is(keys->current);
  if (!current && !is(keys->previous)) return 0;
  const Key& key = current ? keys->current : keys->previous;
  if (EVP_DecryptInit_ex(cipher, EVP_aes_256_cbc(), nullptr, key.cipher.data(), iv) != 1 ||
      HMAC_Init_ex(hmac, key.hmac.data(), key.hmac.size(), EVP_sha256(), nullptr) != 1) {
    return -1;
  }
  return current ? 1 : 2;  // 2: the client gets a fresh one
}

}  // namespace postern::tls
