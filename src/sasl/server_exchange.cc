#include <algorithm>
#include <array>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/text.h>
#include <postern/sasl/base64.h>
#include <postern/sasl/server_exchange.h>

#include "scram_text.h"

namespace postern::sasl {
namespace {

// What stands before `separator`, which is removed with it; nullopt: there is none.
std::optional<std::string_view> take_until(std::string_view& text, char separator) {
  const std::size_t at = text.find(separator);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view piece = text.substr(0, at);
  text.remove_prefix(at + 1);
  return piece;
}

// "=2C" is a comma and "=3D" an equals sign; no other one may stand there [RFC 5802 §5.1].
std::optional<std::string> from_saslname(std::string_view text) {
  std::string name;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '=') {
      name += text[i];
    } else if (text.substr(i, 3) == "=2C" || text.substr(i, 3) == "=3D") {
      name += text[i + 2] == 'C' ? ',' : '=';
      i += 2;
    } else {
      return std::nullopt;
    }
  }
  if (!is_prepared_text(name, user_bytes_max)) return std::nullopt;
  return name;
}

bool is_binding_name(std::string_view text) {
  return !text.empty() && text.size() <= 64 && std::all_of(text.begin(), text.end(), [](char c) {
    return is_ascii_alpha(c) || is_ascii_digit(c) || c == '.' || c == '-';
  });
}

}  // namespace

std::optional<Mechanism> mechanism_named(std::string_view name) {
  for (const Mechanism mechanism : all_mechanisms) {
    if (equal_ignoring_case(name_of(mechanism), name)) return mechanism;
  }
  return std::nullopt;
}

ServerExchange::ServerExchange(Mechanism mechanism, bool plus_offered, std::optional<std::string_view> initial_response)
    : mechanism_(mechanism), plus_offered_(plus_offered) {
  if (initial_response) {
    on_response(*initial_response);
  } else {
    ask(mechanism == Mechanism::login ? "Username:" : "", Due::first);
  }
}

void ServerExchange::ask(std::string_view challenge, Due due) {
  challenge_ = challenge;
  due_ = due;
  step_ = Step::challenge;
}

void ServerExchange::on_response(std::string_view message) {
  POSTERN_CHECK(step_ == Step::challenge, "a response that was not asked for");
  step_ = Step::malformed;
  switch (due_) {
    case Due::first:
      if (mechanism_ == Mechanism::plain) return take_plain(message);
      if (mechanism_ == Mechanism::login) return take_login_user(message);
      return take_scram_first(message);
    case Due::login_password:
      return take_password(message);
    case Due::scram_final:
      return take_scram_final(message);
    case Due::scram_acknowledgement:
      if (message.empty()) step_ = Step::proven;
      return;
  }
}

// --- PLAIN and LOGIN -------------------------------------------------------------------------------------------------

void ServerExchange::take_password(std::string_view password) {
  if (!is_prepared_text(password, password_bytes_max)) {
    step_ = Step::failed;  // nobody has such a one
    return;
  }
  password_ = Secret(password);
  step_ = refused_ ? Step::failed : Step::password;
}

// [authzid] NUL authcid NUL passwd
void ServerExchange::take_plain(std::string_view message) {
  const auto authorization = take_until(message, '\0');
  const auto user = authorization ? take_until(message, '\0') : std::nullopt;
  if (!user || !is_prepared_text(*user, user_bytes_max) || message.find('\0') != std::string_view::npos) return;
  user_ = *user;
  refused_ = !authorization->empty() && *authorization != user_;  // everyone acts for themselves alone
  take_password(message);
}

void ServerExchange::take_login_user(std::string_view message) {
  if (!is_prepared_text(message, user_bytes_max)) return;
  user_ = message;
  ask("Password:", Due::login_password);
}

// --- SCRAM -----------------------------------------------------------------------------------------------------------

// gs2-cbind-flag "," [ authzid ] ","
bool ServerExchange::take_gs2_header(std::string_view& message) {
  const std::string_view whole = message;
  const auto flag = take_until(message, ',');
  const auto authorization = flag ? take_until(message, ',') : std::nullopt;
  if (!authorization) return false;
  const bool plus = mechanism_ == Mechanism::scram_sha_256_plus;
  if (flag->starts_with("p=")) {
    binding_name_ = flag->substr(2);
    if (!plus || !is_binding_name(binding_name_)) return false;
  } else if (*flag == "y") {
    if (plus) return false;
    refused_ = plus_offered_;
  } else if (*flag != "n" || plus) {
    return false;
  }
  if (!authorization->empty()) {
    const auto name = authorization->starts_with("a=") ? from_saslname(authorization->substr(2)) : std::nullopt;
    if (!name) return false;
    user_ = *name;  // to be compared with the one that follows
  }
  gs2_header_ = whole.substr(0, whole.size() - message.size());
  return true;
}

void ServerExchange::take_scram_first(std::string_view message) {
  if (!take_gs2_header(message)) return;
  client_first_bare_ = message;
  const std::string acts_for = std::exchange(user_, {});
  const auto name = take_attribute(message, 'n');  // "m=", an extension that must be understood, is malformed here
  const auto user = name ? from_saslname(*name) : std::nullopt;
  const auto nonce = user ? take_attribute(message, 'r') : std::nullopt;
  if (!nonce || !is_nonce(*nonce)) return;
  user_ = *user;
  refused_ = refused_ || (!acts_for.empty() && acts_for != user_);
  client_nonce_ = *nonce;
  step_ = Step::credentials;
}

void ServerExchange::on_credentials(const ScramVerifier& verifier, std::string_view nonce,
                                    std::string_view channel_binding) {
  POSTERN_CHECK(step_ == Step::credentials, "nobody asked for credentials");
  POSTERN_CHECK(is_nonce(nonce), "a nonce is printable");
  verifier_ = verifier;
  channel_binding_ = channel_binding;
  refused_ = refused_ || (!binding_name_.empty() && channel_binding.empty());
  nonce_ = client_nonce_ + std::string(nonce);
  server_first_ = "r=" + nonce_ + ",s=" + to_base64(verifier.salt) + ",i=" + std::to_string(verifier.iterations);
  ask(server_first_, Due::scram_final);
}

void ServerExchange::take_scram_final(std::string_view message) {
  const std::string_view whole = message;
  const auto binding_text = take_attribute(message, 'c');
  const auto binding = binding_text ? from_base64(*binding_text) : std::nullopt;
  const auto nonce = binding ? take_attribute(message, 'r') : std::nullopt;
  if (!nonce) return;
  // Extensions may stand before the proof, which is the last.
  const std::size_t at = whole.rfind(",p=");
  if (at == std::string_view::npos || at + 1 < whole.size() - message.size()) return;
  const auto proof = from_base64(whole.substr(at + 3));
  if (!proof || proof->size() != Digest().size()) return;

  const std::string without_proof(whole.substr(0, at));
  const std::string signed_text = client_first_bare_ + "," + server_first_ + "," + without_proof;
  Digest client_key = hmac_sha256(as_text(verifier_.stored_key), signed_text);
  for (std::size_t i = 0; i < client_key.size(); ++i) client_key[i] = static_cast<char>(client_key[i] ^ (*proof)[i]);
  const bool knows = equal_secrets(as_text(sha256(as_text(client_key))), as_text(verifier_.stored_key));
  const bool bound = *binding == gs2_header_ + channel_binding_;
  if (!knows || !bound || *nonce != nonce_ || refused_) {
    step_ = Step::failed;
    return;
  }
  ask("v=" + to_base64(as_text(hmac_sha256(as_text(verifier_.server_key), signed_text))), Due::scram_acknowledgement);
}

}  // namespace postern::sasl
