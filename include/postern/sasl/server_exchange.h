// The server side of one SASL exchange, without I/O [RFC 4422, RFC 4616, RFC 5802, RFC 7677, RFC 9266].
//
// Messages come and go decoded: base64, "=" and "*" are the profile's (smtp/server_auth.cc), which gives it what the
// client says and does what step() asks for. It knows no users: who drives it looks up a verifier, and judges. An
// exchange is used once. What it holds of passwords is overwritten when it goes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <postern/sasl/digest.h>
#include <postern/sasl/mechanism.h>
#include <postern/sasl/password.h>

namespace postern::sasl {

class ServerExchange {
 public:
  // What is due now.
  enum class Step : std::uint8_t {
    challenge,    // send challenge(), then on_response()
    credentials,  // on_credentials(), for user() and binding_name()
    password,     // the end: whether password() is user()'s is to be found out
    proven,       // the end: the client has shown that it knows user()'s password
    failed,       // the end: it has not, or wants to act for another, or was lied to about what we offer
    malformed,    // the end: that is no message of the mechanism
  };

  // `plus_offered`: a client that may bind, and believes that we cannot, was lied to [RFC 5802 §6].
  // `initial_response`: what came with the command, if anything did.
  ServerExchange(Mechanism mechanism, bool plus_offered, std::optional<std::string_view> initial_response);

  [[nodiscard]] Step step() const { return step_; }
  [[nodiscard]] Mechanism mechanism() const { return mechanism_; }

  // Only at Step::challenge. Valid until the next non-const call; may be empty.
  [[nodiscard]] std::string_view challenge() const { return challenge_; }
  void on_response(std::string_view message);

  // Only at Step::credentials. `verifier`: of user(), or of nobody, alike in all that shows. `nonce`: printable ASCII
  // without commas, unpredictable, never used before. `channel_binding`: what binding_name() names in the TLS channel;
  // empty: it has no such.
  void on_credentials(const ScramVerifier& verifier, std::string_view nonce, std::string_view channel_binding);

  // Who the client says it is: from Step::credentials or the end on, "" when it did not come so far. 1 …
  // user_bytes_max bytes of UTF-8 without control characters.
  [[nodiscard]] std::string_view user() const { return user_; }
  [[nodiscard]] std::string_view password() const { return password_.view(); }  // only at Step::password
  // "tls-exporter", or whatever the client named; empty: it does not bind.
  [[nodiscard]] std::string_view binding_name() const { return binding_name_; }

 private:
  enum class Due : std::uint8_t { first, login_password, scram_final, scram_acknowledgement };

  void ask(std::string_view challenge, Due due);
  void take_plain(std::string_view message);
  void take_login_user(std::string_view message);
  void take_scram_first(std::string_view message);
  void take_scram_final(std::string_view message);
  [[nodiscard]] bool take_gs2_header(std::string_view& message);
  void take_password(std::string_view password);

  Mechanism mechanism_;
  bool plus_offered_;
  bool refused_ = false;  // whatever it proves, it will have failed
  Step step_ = Step::challenge;
  Due due_ = Due::first;
  std::string challenge_;
  std::string user_;
  Secret password_;
  // SCRAM.
  std::string binding_name_;
  std::string gs2_header_;
  std::string client_first_bare_;
  std::string client_nonce_;
  std::string nonce_;  // the client's and ours
  std::string server_first_;
  std::string channel_binding_;
  ScramVerifier verifier_;
};

}  // namespace postern::sasl
