// AUTH on a connection: verifiers and verdicts for the session's exchange, and what becomes of those who fail.
#include <algorithm>
#include <array>
#include <span>
#include <string>
#include <utility>

#include <postern/sasl/base64.h>

#include "ingress/ingress.h"
#include "ingress/server_connection.h"

namespace postern::ingress {
namespace {

const mail::Reply failed{535, {5, 7, 8}, "Authentication failed"};
const mail::Reply failed_too_often{421, {4, 7, 0}, "Too many failed authentications, closing connection"};
const mail::Reply address_failed_too_often{454, {4, 7, 0}, "Too many failures from your address, try again later"};
const mail::Reply too_busy{454, {4, 7, 0}, "Temporary authentication failure"};

}  // namespace

void ServerConnection::give_credentials(Instant now) {
  const sasl::ServerExchange& exchange = session_.authentication();
  std::array<char, 18> random;
  ingress_.loop_.random(std::as_writable_bytes(std::span(random)));
  // A reload may have taken the users away: then nobody knows the password.
  const sasl::ScramVerifier verifier = ingress_.users_ ? ingress_.users_->scram_verifier(exchange.user())
                                                       : sasl::ScramVerifier{.salt = std::string(16, '\0')};
  const std::string binding =
      exchange.binding_name().empty() ? std::string() : connection_->channel_binding(exchange.binding_name());
  session_.on_credentials(verifier, sasl::to_base64({random.data(), random.size()}), binding, now);
}

// True: the session has its verdict.
bool ServerConnection::judge_authentication(Instant now) {
  using Step = sasl::ServerExchange::Step;
  if (checking_password_ || auth_reply_at_ != never) return false;
  const sasl::ServerExchange& exchange = session_.authentication();
  if (peer_.is_ip() && ingress_.auth_failures_.is_over(peer_.ip(), listener_->auth.per_peer, now)) {
    put_off_authentication(address_failed_too_often, now);
    return true;
  }
  if (!ingress_.users_ || exchange.step() == Step::failed) return fail_authentication(now);
  if (exchange.step() == Step::proven) {
    accept_authentication(now);
    return true;
  }
  checking_password_ = ingress_.authenticator_.check(ingress_.users_, exchange.user(), exchange.password(),
                                                     ingress_.clients_.id_of(*this));
  if (!checking_password_) put_off_authentication(too_busy, now);
  return !checking_password_;
}

void ServerConnection::on_password_checked(PasswordCheck result, Instant now) {
  checking_password_ = false;
  if (closing_) return;
  switch (result) {
    case PasswordCheck::right:
      accept_authentication(now);
      break;
    case PasswordCheck::wrong:
      (void)fail_authentication(now);
      break;
    case PasswordCheck::not_done:
      put_off_authentication(too_busy, now);
      break;
  }
  after_progress();
}

void ServerConnection::accept_authentication(Instant now) {
  const sasl::ServerExchange& exchange = session_.authentication();
  ingress_.observer_.on_authenticated(peer_, exchange.user(), sasl::name_of(exchange.mechanism()));
  session_.on_auth_verdict(smtp::Verdict::accept(), now);
  authenticated_here_ = true;
}

// Nothing was found out.
void ServerConnection::put_off_authentication(const mail::Reply& reply, Instant now) {
  const sasl::ServerExchange& exchange = session_.authentication();
  ingress_.observer_.on_auth_failed(peer_, exchange.user(), sasl::name_of(exchange.mechanism()), reply);
  session_.on_auth_verdict(smtp::Verdict::refuse(reply), now);
}

// Each failure of a session is answered later than the one before. True: at once.
bool ServerConnection::fail_authentication(Instant now) {
  const AuthLimits& limits = listener_->auth;
  const sasl::ServerExchange& exchange = session_.authentication();
  if (peer_.is_ip()) ingress_.auth_failures_.add(peer_.ip(), limits.per_peer, now);
  const std::uint32_t before = auth_failures_++;
  auth_reply_ = auth_failures_ >= limits.failures_max ? smtp::Verdict::refuse(failed_too_often, true)
                                                      : smtp::Verdict::refuse(failed);
  ingress_.observer_.on_auth_failed(peer_, exchange.user(), sasl::name_of(exchange.mechanism()), auth_reply_.refusal);
  const Duration delay = limits.failure_delay * (1u << std::min(before, AuthLimits::doublings_max));
  auth_reply_at_ = now + delay;
  if (delay == Duration::zero()) return reply_to_failure(now);
  ingress_.timers_.arm(timer_, auth_reply_at_);
  return false;
}

// True: it was time.
bool ServerConnection::reply_to_failure(Instant now) {
  if (now < auth_reply_at_) return false;
  auth_reply_at_ = never;
  session_.on_auth_verdict(auth_reply_, now);
  return true;
}

// Null: the user may.
const mail::Reply* ServerConnection::refuse_sender() const {
  static const mail::Reply not_theirs{550, {5, 7, 1}, "Not a sender address of the authenticated user"};
  if (!authenticated_here_ || session_.user().empty()) return nullptr;
  const mail::PathView path = session_.envelope()->reverse_path();
  return ingress_.users_ && ingress_.users_->may_send_from(session_.user(), path) ? nullptr : &not_theirs;
}

}  // namespace postern::ingress
