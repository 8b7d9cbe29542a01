// AUTH on a connection to a next hop: by which credentials, what the session needs for it, and what its failure means
// for the delivery. Without it a route that names credentials delivers nothing.
#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/sasl/base64.h>

#include "egress/client_connection.h"
#include "egress/egress.h"

namespace postern::egress {

// False: the route names some that a reload has taken away.
bool ClientConnection::find_credentials() {
  credentials_ = egress_.credentials_of(*delivery_->route);
  return credentials_ != nullptr || delivery_->route->credentials.empty();
}

// True: the session has gone on.
bool ClientConnection::go_on_with_auth(Instant now) {
  using Want = smtp::ClientSession::Want;
  if (session_.want() == Want::channel) {
    std::array<char, 18> random;
    egress_.loop_.random(std::as_writable_bytes(std::span(random)));
    const std::string nonce = sasl::to_base64({random.data(), random.size()});
    // The one that its version of TLS was given [RFC 9266 §3, RFC 5802 §6.1]; which others a server knows, it cannot
    // say in SMTP.
    const std::string_view name = tls_facts_.version == "TLSv1.3" ? "tls-exporter" : "tls-unique";
    const std::string binding = tls_facts_.version.empty() ? std::string() : connection_->channel_binding(name);
    session_.on_channel({.nonce = nonce, .binding_name = name, .binding = binding}, now);
    return true;
  }
  if (session_.want() != Want::salted_password || salting_) return false;
  const sasl::ClientExchange& exchange = session_.exchange();
  const sasl::Digest* const known =
      egress_.salted_passwords_.ask(credentials_, exchange.salt(), exchange.iterations(), *this);
  salting_ = known == nullptr;
  if (known != nullptr) session_.on_salted_password(*known, now);
  return known != nullptr;
}

void ClientConnection::on_salted_password(const sasl::Digest* salted) {
  salting_ = false;
  if (session_.want() != smtp::ClientSession::Want::salted_password) return;  // the peer did not wait
  const Instant now = egress_.loop_.now();
  if (salted != nullptr) {
    session_.on_salted_password(*salted, now);
  } else {
    session_.on_salted_password_failed(now);
  }
  pump();
}

void ClientConnection::note_authenticated() {
  const std::optional<sasl::Mechanism> mechanism = session_.authenticated_by();
  POSTERN_CHECK(mechanism.has_value(), "mail of a route with credentials on a connection without");
  if (std::exchange(authenticated_, true)) return;
  egress_.user_.on_peer_authenticated({.site = delivery_->route->site_key,
                                       .peer = hop_text_,
                                       .user = credentials_->user,
                                       .mechanism = sasl::name_of(*mechanism)});
}

// Once per connection that ended so, before anything was said of the mail.
void ClientConnection::note_auth_failed() {
  using Trouble = smtp::ClientSession::AuthTrouble;
  egress_.user_.on_peer_authenticated({.site = delivery_->route->site_key,
                                       .peer = hop_text_,
                                       .user = credentials_->user,
                                       .mechanism = "",
                                       .trouble = session_.auth_trouble(),
                                       .why = last_failure_.text});
  last_failure_.text.insert(0, hop_text_ + ": ");
  // Its other addresses would say the same of the password, and count it against us: some lock who fails too often.
  if (session_.auth_trouble() == Trouble::refused) hop_ = delivery_->route->next_hops.size();
}

}  // namespace postern::egress
