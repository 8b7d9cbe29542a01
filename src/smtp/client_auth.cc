// AUTH as a client [RFC 4954 §4]: mechanisms, lines in base64, and what a peer's answers mean. AUTH= is not sent with
// MAIL: nothing is known here of who submitted a message that would be more than the envelope says, and "<>" would tell
// the peer to trust us less than the credentials that it gave us [RFC 4954 §5].
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/check.h>
#include <postern/sasl/base64.h>
#include <postern/smtp/client_session.h>

namespace postern::smtp {
namespace {

// Of a command with its CRLF [RFC 5321 §4.5.3.1.4]; a longer response is kept until it is asked for [RFC 4954 §4].
constexpr std::size_t command_bytes_max = 512;

constexpr mail::EnhancedStatus unusable{4, 7, 4};  // security features not supported [RFC 3463 §3.8]
constexpr mail::EnhancedStatus refused{4, 7, 8};   // authentication credentials invalid [RFC 4954 §6]
constexpr mail::EnhancedStatus not_proven{4, 7, 0};
constexpr mail::EnhancedStatus put_off{4, 7, 0};
constexpr mail::EnhancedStatus no_protocol{4, 5, 0};

}  // namespace

void ClientSession::prepare_authentication() {
  if (!secured_ && !credentials_->without_tls) {
    return end_authentication(AuthTrouble::unusable, unusable, "credentials are not used without TLS", "QUIT\r\n");
  }
  if (!extensions_.auth) {
    return end_authentication(AuthTrouble::unusable, unusable, "the next hop does not offer AUTH", "QUIT\r\n");
  }
  state_ = State::channel;
}

void ClientSession::on_channel(const sasl::ClientExchange::Channel& channel, Instant now) {
  POSTERN_CHECK(state_ == State::channel, "nobody asked for the channel");
  sasl::MechanismSet usable = extensions_.mechanisms & credentials_->mechanisms;
  if (channel.binding.empty()) usable.remove(sasl::Mechanism::scram_sha_256_plus);
  const std::optional<sasl::Mechanism> mechanism = usable.strongest();
  if (!mechanism) {
    return end_authentication(
        AuthTrouble::unusable, unusable,
        "the next hop offers no AUTH mechanism that may be used: " +
            (extensions_.mechanisms.empty() ? "none that is known here" : extensions_.mechanisms.to_text() + " only"),
        "QUIT\r\n");
  }
  exchange_.emplace(*mechanism, *credentials_, channel);
  std::string command("AUTH ");
  command += sasl::name_of(*mechanism);
  state_ = State::auth;
  response_held_ = false;
  if (exchange_->step() == sasl::ClientExchange::Step::respond) {
    const std::size_t encoded = (exchange_->response().size() + 2) / 3 * 4;
    response_held_ = command.size() + 1 + encoded + 2 > command_bytes_max;
  }
  if (exchange_->step() == sasl::ClientExchange::Step::challenge || response_held_) {
    write(command + "\r\n");
  } else {
    write_auth_line(command + " ", exchange_->response());
  }
  arm(now);
}

void ClientSession::on_salted_password(const sasl::Digest& salted, Instant now) {
  POSTERN_CHECK(state_ == State::salting, "nobody asked for a salted password");
  exchange_->on_salted_password(salted);
  state_ = State::auth;
  go_on_with_exchange();
  arm(now);
}

void ClientSession::on_salted_password_failed(Instant now) {
  POSTERN_CHECK(state_ == State::salting, "nobody asked for a salted password");
  end_authentication(AuthTrouble::put_off, put_off, "the proof of the password could not be computed", "*\r\n");
  arm(now);
}

void ClientSession::on_auth_reply() {
  const mail::Reply& reply = parser_.reply();
  if (!output_.empty()) {
    end_authentication(AuthTrouble::broken, no_protocol, "the peer answered before it was asked");
  } else if (reply.code == 334) {
    on_auth_challenge();
  } else if (reply.code == 235) {
    exchange_->on_success();
    if (exchange_->step() != sasl::ClientExchange::Step::complete) {
      return end_authentication(AuthTrouble::broken, not_proven,
                                "the next hop is not whom it should be: " + std::string(exchange_->failure()),
                                "QUIT\r\n");
    }
    authenticated_by_ = exchange_->mechanism();
    exchange_.reset();
    greeted_ = true;
    state_ = State::idle;
  } else if (reply.positive()) {
    end_authentication(AuthTrouble::broken, no_protocol, "the peer answered AUTH with " + std::to_string(reply.code));
  } else {
    const AuthTrouble trouble = reply.permanent() ? AuthTrouble::refused : AuthTrouble::put_off;
    std::string text = "the next hop answered AUTH ";
    text.append(sasl::name_of(exchange_->mechanism())).append(" with ").append(shown(reply));
    end_authentication(trouble, reply.permanent() ? refused : put_off, text, reply.code == 421 ? "" : "QUIT\r\n");
  }
}

void ClientSession::on_auth_challenge() {
  if (std::exchange(response_held_, false)) {  // whatever it says: it asks for what the command had no room for
    go_on_with_exchange();
    return;
  }
  // Prompts, which nothing depends on, come in every form.
  const bool prompt = exchange_->mechanism() == sasl::Mechanism::login;
  const std::optional<std::string> challenge = sasl::from_base64(parser_.reply().text);
  if (!challenge && !prompt) {
    return end_authentication(AuthTrouble::broken, no_protocol, "the peer's challenge in AUTH is no base64", "*\r\n");
  }
  exchange_->on_challenge(challenge.value_or(""));
  go_on_with_exchange();
}

void ClientSession::go_on_with_exchange() {
  switch (exchange_->step()) {
    case sasl::ClientExchange::Step::respond:
      return write_auth_line("", exchange_->response());
    case sasl::ClientExchange::Step::salted_password:
      state_ = State::salting;
      return;
    case sasl::ClientExchange::Step::failed:
      return end_authentication(AuthTrouble::broken, not_proven,
                                "the next hop is not whom it should be: " + std::string(exchange_->failure()), "*\r\n");
    case sasl::ClientExchange::Step::challenge:
    case sasl::ClientExchange::Step::complete:
      POSTERN_CHECK(false, "an exchange that says nothing to a challenge");
  }
}

void ClientSession::write_auth_line(std::string_view before, std::string_view response) {
  output_.reserve(output_.size() + before.size() + (response.size() + 2) / 3 * 4 + 2);  // no copy is left behind
  output_ += before;
  sasl::append_base64(output_, response);
  output_ += "\r\n";
  output_secret_ = true;
}

// Some peers say again what they did not understand.
std::string ClientSession::shown(const mail::Reply& reply) const {
  const auto says = [&reply](std::string_view secret) { return reply.text.find(secret) != std::string::npos; };
  std::string encoded_password, encoded_response;
  sasl::append_base64(encoded_password, credentials_->password.view());
  if (exchange_->step() == sasl::ClientExchange::Step::respond && !exchange_->response().empty()) {
    sasl::append_base64(encoded_response, exchange_->response());
  }
  const bool tells = says(credentials_->password.view()) || says(encoded_password) ||
                     (!encoded_response.empty() && says(encoded_response));
  sasl::wipe(encoded_password);
  sasl::wipe(encoded_response);
  if (!tells) return reply.to_log_text();
  return std::to_string(reply.code) + " and a text that holds the password";
}

// `last_words`: what the peer is told before the connection is closed.
void ClientSession::end_authentication(AuthTrouble trouble, mail::EnhancedStatus status, std::string_view text,
                                       std::string_view last_words) {
  auth_trouble_ = trouble;
  end(ConnectionVerdict::closing, {.code = 0, .status = status, .text = std::string(text)});
  write(last_words);
}

}  // namespace postern::smtp
