// The client side of one SASL exchange, without I/O [RFC 4616, RFC 5802, RFC 7677, RFC 9266].
//
// Messages come and go decoded: base64, "=" and "*" are the profile's (smtp/client_auth.cc). It computes nothing that
// takes long: who drives it has PBKDF2 computed in another thread, or knows the result from before. An exchange is used
// once. What it holds of passwords is overwritten when it goes.
//
// A server that does not know the password, or cannot prove that it does, gets nothing that would help it to guess but
// what SCRAM gives anybody: it may choose the salt, but no less than scram_iterations_min iterations.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <postern/sasl/digest.h>
#include <postern/sasl/mechanism.h>
#include <postern/sasl/password.h>

namespace postern::sasl {

// Who we are to a server, and how we may say so.
struct Credentials {
  std::string user;  // is_prepared_text(…, user_bytes_max)
  Secret password;   // is_prepared_text(…, password_bytes_max)
  MechanismSet mechanisms{};
  bool without_tls = false;  // may be used where anyone on the way can listen

  friend bool operator==(const Credentials& a, const Credentials& b) {
    return a.user == b.user && a.mechanisms == b.mechanisms && a.without_tls == b.without_tls &&
           equal_secrets(a.password.view(), b.password.view());
  }
};

class ClientExchange {
 public:
  // What is due now.
  enum class Step : std::uint8_t {
    challenge,        // the server speaks first: on_challenge()
    respond,          // send response(), then on_challenge() or on_success()
    salted_password,  // on_salted_password(), of salt() and iterations()
    complete,         // the end: the server took us and, by SCRAM, has proved that it knows the password
    failed,           // the end: failure() says why; a server that is still asking is told "*"
  };
  // What a server may make us compute: some 0.3 s, in another thread and once for each salt.
  static constexpr std::uint32_t iterations_max = scram_iterations_max;
  static constexpr std::size_t salt_bytes_max = 256;

  struct Channel {
    std::string_view nonce{};         // printable ASCII without commas, unpredictable, never used before; for SCRAM
    std::string_view binding_name{};  // "tls-exporter", "tls-unique"; empty: there is nothing to bind to
    std::string_view binding{};       // what that names in the TLS channel
  };
  // `credentials` outlive it. scram_sha_256_plus needs a binding. scram_sha_256 tells the server that we would bind
  // when there is one and the credentials allow that, so that a server whose offer was tampered with knows it.
  ClientExchange(Mechanism mechanism, const Credentials& credentials, const Channel& channel);

  [[nodiscard]] Step step() const { return step_; }
  [[nodiscard]] Mechanism mechanism() const { return mechanism_; }

  // Only at Step::respond. Valid until the next non-const call; may be empty.
  [[nodiscard]] std::string_view response() const { return response_.view(); }
  void on_challenge(std::string_view message);
  // The server says that we have authenticated.
  void on_success();

  // Only at Step::salted_password: what pbkdf2_hmac_sha256() makes of the password with these.
  [[nodiscard]] const std::string& salt() const { return salt_; }
  [[nodiscard]] std::uint32_t iterations() const { return iterations_; }
  void on_salted_password(const Digest& salted);

  [[nodiscard]] std::string_view failure() const { return failure_; }  // literal

 private:
  enum class Due : std::uint8_t {
    nothing,     // another challenge is one too many
    login_user,  // a prompt, whatever it says
    login_password,
    scram_first,
    scram_final,
  };

  void respond(std::string_view message, Due due);
  void fail(std::string_view why);
  void take_scram_first(std::string_view message);
  void take_scram_final(std::string_view message);

  Mechanism mechanism_;
  const Credentials* credentials_;
  Step step_ = Step::respond;
  Due due_ = Due::nothing;
  Secret response_;
  std::string_view failure_;
  // SCRAM.
  bool proved_ = false;  // the server's signature was right
  std::string nonce_;    // ours, then with the server's
  std::string binding_;  // the GS2 header and what is bound
  std::string signed_text_;
  std::string salt_;
  std::uint32_t iterations_ = 0;
  Digest server_signature_{};
};

}  // namespace postern::sasl
