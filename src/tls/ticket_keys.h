// The keys under which a listener's session tickets are sealed: made here, shared by all shards, never stored, and
// rotated by the daemon's control thread. A ticket is opened with the current key or the one before it, so that it is
// good for at least one rotation and at most two.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "tls/boringssl.h"

namespace postern::tls {

class TicketKeys {
 public:
  TicketKeys();
  TicketKeys(const TicketKeys&) = delete;
  TicketKeys& operator=(const TicketKeys&) = delete;

  // From any thread.
  void rotate();

  // SSL_CTX_set_tlsext_ticket_key_cb()'s, with the keys to use.
  [[nodiscard]] int seal(std::uint8_t* name, std::uint8_t* iv, EVP_CIPHER_CTX* cipher, HMAC_CTX* hmac) const;
  [[nodiscard]] int open(const std::uint8_t* name, const std::uint8_t* iv, EVP_CIPHER_CTX* cipher,
                         HMAC_CTX* hmac) const;

 private:
  struct Key {
    std::array<std::uint8_t, SSL_TICKET_KEY_NAME_LEN> name{};
    std::array<std::uint8_t, 32> cipher{};
    std::array<std::uint8_t, 32> hmac{};
  };
  struct Pair {
    Key current;
    Key previous;
  };
  [[nodiscard]] static Key make();

  std::atomic<std::shared_ptr<const Pair>> keys_;
};

}  // namespace postern::tls
