// AUTH at the server [RFC 4954]: the command, the lines of its exchange, and what they come to. What stands in the
// lines is for sasl::ServerExchange to read; whether a password is right, for the driver to find out.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/text.h>
#include <postern/sasl/base64.h>
#include <postern/sasl/digest.h>
#include <postern/sasl/mechanism.h>
#include <postern/sasl/server_exchange.h>
#include <postern/smtp/server_options.h>
#include <postern/smtp/server_session.h>

#include "server_reply.h"

namespace postern::smtp {
namespace {

constexpr std::string_view bad_base64 = "501 5.5.2 That is no base64\r\n";
constexpr std::string_view bad_message = "501 5.5.2 Not a message of this mechanism\r\n";

// [RFC 4422 §3.1]
bool is_mechanism_name(std::string_view text) {
  return !text.empty() && text.size() <= 20 && std::all_of(text.begin(), text.end(), [](char c) {
    return is_ascii_alpha(c) || is_ascii_digit(c) || c == '-' || c == '_';
  });
}

}  // namespace

// What works in this session: a channel to bind to is there under TLS alone, and without it a password is heard by
// all.
sasl::MechanismSet ServerSession::offered_mechanisms() const {
  sasl::MechanismSet offered = options_->auth_mechanisms;
  if (lmtp() || (!tls_ && !options_->auth_without_tls)) return {};
  if (!tls_) offered.remove(sasl::Mechanism::scram_sha_256_plus);
  return offered;
}

// Whether the line that `piece` goes on with may be as long as AUTH's lines are.
bool ServerSession::is_auth_line(std::string_view piece) const {
  if (exchange_ != nullptr) return true;
  std::string begin = line_.substr(0, 5);
  begin += piece.substr(0, 5 - begin.size());
  return !offered_mechanisms().empty() && starts_with_ignoring_case(begin, "AUTH ");
}

void ServerSession::on_auth(std::string_view arguments) {
  if (lmtp() || options_->auth_mechanisms.empty()) {
    reply_error("502 5.5.1 Command not implemented\r\n");
    return;
  }
  if (!greeted_ || !esmtp_) {
    reply_error("503 5.5.1 EHLO first\r\n");
    return;
  }
  if (!user_.empty()) {
    reply_error("503 5.5.1 Authenticated already\r\n");
    return;
  }
  if (transaction_) {
    reply_error("503 5.5.1 A transaction is open already\r\n");
    return;
  }
  const std::size_t space = std::min(arguments.find(' '), arguments.size());
  const std::string_view name = arguments.substr(0, space);
  if (!is_mechanism_name(name)) {
    reply_error("501 5.5.4 AUTH takes the name of a mechanism\r\n");
    return;
  }
  const sasl::MechanismSet offered = offered_mechanisms();
  const std::optional<sasl::Mechanism> mechanism = sasl::mechanism_named(name);
  if (offered.empty()) {
    reply_error("538 5.7.11 Encryption required, issue a STARTTLS command first\r\n");
    return;
  }
  if (!mechanism || !offered.has(*mechanism)) {
    reply_error("504 5.5.4 Mechanism not offered\r\n");
    return;
  }
  std::optional<std::string> initial;
  if (space < arguments.size()) {
    const std::string_view text = arguments.substr(space + 1);
    initial = text == "=" ? std::string() : sasl::from_base64(text);  // "=" is an empty one [RFC 4954 §4]
    if (!initial || text.empty()) {
      reply_error(bad_base64);
      return;
    }
  }
  const bool plus_offered = offered.has(sasl::Mechanism::scram_sha_256_plus);
  exchange_ = std::make_unique<sasl::ServerExchange>(*mechanism, plus_offered, initial);
  if (initial) sasl::wipe(*initial);
  advance_auth();
}

// A line of the exchange.
void ServerSession::on_auth_line(std::string_view line) {
  group_ended_ = true;
  if (line == "*") {
    end_auth("501 5.7.0 Authentication cancelled\r\n");
  } else if (std::optional<std::string> message = sasl::from_base64(line)) {
    exchange_->on_response(*message);
    sasl::wipe(*message);
    advance_auth();
  } else {
    end_auth(bad_base64);
  }
  if (pending_ == Wait::bytes) finish_command();
}

// Goes on where the exchange has come to.
void ServerSession::advance_auth() {
  using Step = sasl::ServerExchange::Step;
  switch (exchange_->step()) {
    case Step::challenge: {
      std::string& sink = reply_sink();
      sink += "334 ";
      sasl::append_base64(sink, exchange_->challenge());
      sink += "\r\n";
      return;
    }
    case Step::credentials:
      pending_ = Wait::auth_credentials;
      return;
    case Step::password:
    case Step::proven:
    case Step::failed:
      pending_ = Wait::auth_verdict;
      return;
    case Step::malformed:
      end_auth(bad_message);
      return;
  }
}

// By the client's own fault.
void ServerSession::end_auth(std::string_view error) {
  exchange_.reset();
  group_ended_ = true;
  reply_error(error);
}

void ServerSession::on_credentials(const sasl::ScramVerifier& verifier, std::string_view nonce,
                                   std::string_view channel_binding, Instant now) {
  take_verdict(Wait::auth_credentials, now);
  exchange_->on_credentials(verifier, nonce, channel_binding);
  advance_auth();
  finish_command();
}

void ServerSession::on_auth_verdict(const Verdict& verdict, Instant now) {
  take_verdict(Wait::auth_verdict, now);
  const std::unique_ptr<sasl::ServerExchange> exchange = std::move(exchange_);
  if (verdict.accepted()) {
    POSTERN_CHECK(exchange->step() != sasl::ServerExchange::Step::failed, "what has failed is not accepted");
    user_ = exchange->user();
    reply("235 2.7.0 Authentication successful\r\n");
  } else {
    reply_refusal(verdict);
  }
  finish_command();
}

}  // namespace postern::smtp
