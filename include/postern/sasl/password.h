// What is kept of a user's password: a hash of crypt(3) or a verifier of SCRAM-SHA-256 [RFC 5802 §3, RFC 7677].
//
//   $y$j9T$…   $2b$12$…   $6$…                                  as crypt(3), htpasswd -B and mkpasswd make them
//   {SCRAM-SHA-256}4096,SALT,STOREDKEY,SERVERKEY                base64; as Dovecot's doveadm pw makes it
//
// A verifier serves every mechanism, a hash those that send the password. Checking costs what its maker chose: 1 to
// 500 ms. Texts are taken as they come: ASCII is what SASLprep [RFC 4013] makes of itself, and of what goes beyond
// ASCII the same bytes must come that the entry was made with; no normalisation is done.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <postern/base/status.h>
#include <postern/sasl/digest.h>

namespace postern::sasl {

inline constexpr std::size_t user_bytes_max = 255;
inline constexpr std::size_t password_bytes_max = 511;       // what crypt(3) takes
inline constexpr std::uint32_t scram_iterations_min = 4096;  // [RFC 7677 §4]
inline constexpr std::uint32_t scram_iterations_max = 1'000'000;

// UTF-8 of 1 … `bytes_max` bytes, without control characters.
[[nodiscard]] bool is_prepared_text(std::string_view text, std::size_t bytes_max);

struct ScramVerifier {
  std::uint32_t iterations = scram_iterations_min;
  std::string salt;  // 1 … 64 bytes
  Digest stored_key{};
  Digest server_key{};
};

[[nodiscard]] ScramVerifier make_scram_verifier(std::string_view password, std::string_view salt,
                                                std::uint32_t iterations);

class StoredPassword {
 public:
  // kInvalidArgument: "what; cure". Hashes so expensive that each check would be an attack are refused: bcrypt above
  // cost 15, sha512 above 5,000,000 rounds, yescrypt above 64 MiB.
  [[nodiscard]] static StatusOr<StoredPassword> parse(std::string_view text);

  // Slow: not in a shard's thread. From any thread.
  [[nodiscard]] bool matches(std::string_view password) const;
  // Null: a crypt(3) hash.
  [[nodiscard]] const ScramVerifier* scram() const { return scram_ ? &*scram_ : nullptr; }

 private:
  StoredPassword() = default;

  std::string hash_;
  std::optional<ScramVerifier> scram_;
};

enum class Scheme : std::uint8_t { scram_sha_256, yescrypt, bcrypt, sha512 };
[[nodiscard]] std::optional<Scheme> scheme_named(std::string_view name);  // "scram-sha-256", "yescrypt" …

// The text that parse() reads. `random`: 16 bytes that nobody knows. kInvalidArgument: the password is none
// [is_prepared_text()], or bcrypt would cut it at 72 bytes; kUnimplemented: this machine's crypt(3) lacks the scheme.
[[nodiscard]] StatusOr<std::string> store_password(Scheme scheme, std::string_view password, std::string_view random);

}  // namespace postern::sasl
