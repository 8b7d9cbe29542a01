#include <postern/base/check.h>
#include <postern/base/text.h>
#include <postern/sasl/base64.h>
#include <postern/sasl/client_exchange.h>

#include "scram_text.h"

namespace postern::sasl {

ClientExchange::ClientExchange(Mechanism mechanism, const Credentials& credentials, const Channel& channel)
    : mechanism_(mechanism), credentials_(&credentials) {
  if (mechanism == Mechanism::login) {
    step_ = Step::challenge;
    due_ = Due::login_user;
    return;
  }
  if (mechanism == Mechanism::plain) {
    std::string message;
    message.reserve(credentials.user.size() + credentials.password.view().size() + 2);  // no copy is left behind
    message += '\0';
    message += credentials.user;
    message += '\0';
    message += credentials.password.view();
    respond(message, Due::nothing);
    wipe(message);
    return;
  }
  POSTERN_CHECK(is_nonce(channel.nonce), "a nonce is printable");
  const bool plus = mechanism == Mechanism::scram_sha_256_plus;
  POSTERN_CHECK(!plus || !channel.binding.empty(), "nothing to bind to");
  std::string header = "n,,";
  if (plus) {
    header = "p=" + std::string(channel.binding_name) + ",,";
  } else if (!channel.binding.empty() && credentials.mechanisms.has(Mechanism::scram_sha_256_plus)) {
    header = "y,,";
  }
  binding_ = header;
  if (plus) binding_ += channel.binding;
  nonce_ = channel.nonce;
  signed_text_ = "n=" + to_saslname(credentials.user) + ",r=" + nonce_;
  respond(header + signed_text_, Due::scram_first);
}

void ClientExchange::respond(std::string_view message, Due due) {
  response_ = Secret(message);
  due_ = due;
  step_ = Step::respond;
}

void ClientExchange::fail(std::string_view why) {
  response_ = Secret();
  failure_ = why;
  step_ = Step::failed;
}

void ClientExchange::on_challenge(std::string_view message) {
  POSTERN_CHECK(step_ == Step::respond || step_ == Step::challenge, "a challenge that nobody waits for");
  switch (due_) {
    case Due::nothing:
      return fail("it asks for more than the mechanism has");
    case Due::login_user:
      return respond(credentials_->user, Due::login_password);
    case Due::login_password:
      return respond(credentials_->password.view(), Due::nothing);
    case Due::scram_first:
      return take_scram_first(message);
    case Due::scram_final:
      return take_scram_final(message);
  }
}

void ClientExchange::on_success() {
  POSTERN_CHECK(step_ == Step::respond || step_ == Step::challenge, "a success that nobody waits for");
  const bool scram = mechanism_ == Mechanism::scram_sha_256 || mechanism_ == Mechanism::scram_sha_256_plus;
  if (scram && !proved_) return fail("it says yes without proving that it knows the password");
  if (due_ != Due::nothing) return fail("it says yes before it was told the password");
  response_ = Secret();
  step_ = Step::complete;
}

// --- SCRAM -----------------------------------------------------------------------------------------------------------

// r=NONCE,s=SALT,i=ITERATIONS[,extensions]
void ClientExchange::take_scram_first(std::string_view message) {
  constexpr std::string_view malformed = "its first message is none of SCRAM";
  const std::string_view whole = message;
  const auto nonce = take_attribute(message, 'r');  // "m=", an extension that must be understood, is malformed here
  const auto salt_text = nonce ? take_attribute(message, 's') : std::nullopt;
  const auto salt = salt_text ? from_base64(*salt_text) : std::nullopt;
  const auto iterations_text = salt ? take_attribute(message, 'i') : std::nullopt;
  const auto iterations = iterations_text ? parse_uint<std::uint64_t>(*iterations_text) : std::nullopt;
  if (!iterations || !is_nonce(*nonce) || salt->empty() || salt->size() > salt_bytes_max) return fail(malformed);
  if (!nonce->starts_with(nonce_) || nonce->size() == nonce_.size()) return fail("its nonce does not continue ours");
  if (*iterations < scram_iterations_min) return fail("it asks for fewer than 4,096 iterations");
  if (*iterations > iterations_max) return fail("it asks for more than 1,000,000 iterations");
  nonce_ = *nonce;
  salt_ = *salt;
  iterations_ = static_cast<std::uint32_t>(*iterations);
  signed_text_.append(",").append(whole);
  response_ = Secret();
  step_ = Step::salted_password;
}

void ClientExchange::on_salted_password(const Digest& salted) {
  POSTERN_CHECK(step_ == Step::salted_password, "nobody asked for a salted password");
  std::string message = "c=" + to_base64(binding_) + ",r=" + nonce_;
  signed_text_.append(",").append(message);
  Digest client_key = hmac_sha256(as_text(salted), "Client Key");
  Digest server_key = hmac_sha256(as_text(salted), "Server Key");
  const Digest signature = hmac_sha256(as_text(sha256(as_text(client_key))), signed_text_);
  server_signature_ = hmac_sha256(as_text(server_key), signed_text_);
  Digest proof{};
  for (std::size_t i = 0; i < proof.size(); ++i) proof[i] = static_cast<char>(client_key[i] ^ signature[i]);
  wipe(client_key);
  wipe(server_key);
  message.append(",p=").append(to_base64(as_text(proof)));
  respond(message, Due::scram_final);
}

// v=SIGNATURE[,extensions], or e=ERROR
void ClientExchange::take_scram_final(std::string_view message) {
  if (message.starts_with("e=")) return fail("it answers the proof with an error");
  const auto text = take_attribute(message, 'v');
  const auto signature = text ? from_base64(*text) : std::nullopt;
  if (!signature) return fail("its last message is none of SCRAM");
  if (!equal_secrets(*signature, as_text(server_signature_))) return fail("it does not know the password");
  proved_ = true;
  respond("", Due::nothing);
}

}  // namespace postern::sasl
