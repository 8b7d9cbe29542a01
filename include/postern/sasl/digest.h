// What SASL needs of cryptography: SHA-256, HMAC, PBKDF2 [RFC 2104, RFC 8018 §5.2], comparing and forgetting secrets.
//
// Computed by BoringSSL, of which nothing with chance, clocks or state is used here.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace postern::sasl {

using Digest = std::array<char, 32>;

[[nodiscard]] constexpr std::string_view as_text(const Digest& digest) {
  return {digest.data(), digest.size()};
}

[[nodiscard]] Digest sha256(std::string_view text);
[[nodiscard]] Digest hmac_sha256(std::string_view key, std::string_view text);
// 0.3 µs an iteration.
[[nodiscard]] Digest pbkdf2_hmac_sha256(std::string_view password, std::string_view salt, std::uint32_t iterations);

// Takes the same time wherever two texts of one size differ. That they differ in size shows.
[[nodiscard]] bool equal_secrets(std::string_view a, std::string_view b);

// Overwrites all that the text holds, also what it held behind its end, and empties it.
void wipe(std::string& text);
void wipe(Digest& digest);

// A text that is overwritten when it goes.
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string_view text) : text_(text) {}
  Secret(const Secret&) = delete;
  Secret& operator=(const Secret&) = delete;
  Secret(Secret&& other) noexcept : text_(std::move(other.text_)) { wipe(other.text_); }
  Secret& operator=(Secret&& other) noexcept {
    if (this == &other) return *this;
    wipe(text_);
    text_ = std::move(other.text_);
    wipe(other.text_);  // a short text was copied
    return *this;
  }
  ~Secret() { wipe(text_); }

  [[nodiscard]] std::string_view view() const { return text_; }

 private:
  std::string text_;
};

}  // namespace postern::sasl
