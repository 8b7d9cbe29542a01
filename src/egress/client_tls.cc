// The TLS of a connection to a next hop: whether it is asked for, the handshake, and what its failure means for the
// delivery. A host whose TLS came to nothing under the opportunistic policy is tried once more at once, without; it is
// remembered, so that the next ones begin without.
#include <string>
#include <utility>

#include <postern/base/check.h>

#include "egress/client_connection.h"
#include "egress/egress.h"

namespace postern::egress {

bool ClientConnection::fits(const route::Route& route) const {
  return tls_generation_ == egress_.tls_generation_ && tls_policy_ == egress_.tls_.policy_of(route) &&
         route.credentials.empty() == (credentials_ == nullptr) && credentials_ == egress_.credentials_of(route);
}

// For the connection that has just come to be.
smtp::StartTls ClientConnection::start_tls(Instant now) {
  const bool plain = std::exchange(without_tls_, false);
  const route::NextHop& hop = delivery_->route->next_hops[hop_ - 1];
  if (!hop.unix_path.empty()) return smtp::StartTls::never;  // bytes that do not leave this machine
  switch (tls_policy_.level) {
    case route::TlsLevel::none:
      return smtp::StartTls::never;
    case route::TlsLevel::opportunistic:
      // A password does not travel without, so that trying it would only say less of what is wrong.
      if (credentials_ != nullptr && !credentials_->without_tls) return smtp::StartTls::always;
      return plain || egress_.tls_.context == nullptr || egress_.tls_memory_.broken(hop_text_, now)
                 ? smtp::StartTls::never
                 : smtp::StartTls::when_offered;
    case route::TlsLevel::required:
    case route::TlsLevel::verified:
      break;
  }
  return smtp::StartTls::always;
}

std::string ClientConnection::tls_target() const {
  return hop_text_ + ";" + tls_policy_.to_text();
}

void ClientConnection::secure() {
  POSTERN_CHECK(!securing_ && !send_in_flight_ && delivery_ != nullptr);
  securing_ = true;
  if (egress_.tls_.context == nullptr) {
    session_.on_tls_failed("TLS is required, and this host cannot speak it", egress_.loop_.now());
    pump();
    return;
  }
  const route::NextHop& hop = delivery_->route->next_hops[hop_ - 1];
  net::TlsTarget target{.server_name = "",
                        .names = tls_policy_.names,
                        .verify = tls_policy_.level == route::TlsLevel::verified,
                        .session = egress_.tls_memory_.session(tls_target())};
  if (target.names.empty()) target.names.push_back(hop.host);
  // An address is no name [RFC 6066 §3]; of names that were given the first is one that the host knows itself by.
  if (!hop.host.starts_with('[')) {
    target.server_name = hop.host;
  } else if (!target.names.front().starts_with('[')) {
    target.server_name = target.names.front();
  }
  connection_->start_tls(egress_.tls_.context->make_stream(std::move(target)), egress_.options_.tls_timeout);
}

void ClientConnection::on_secured(const net::TlsFacts& facts) {
  tls_facts_ = facts;
  egress_.user_.on_peer_secured(delivery_->route->site_key, hop_text_, facts);
  session_.on_secured(egress_.loop_.now());
  pump();
}

// Once per connection that ended so. Where TLS need not be, the same address is next, in the clear, and that counts as
// one attempt with this one: it can fail in this way no second time.
void ClientConnection::note_tls_failed() {
  const bool plain =
      tls_policy_.level == route::TlsLevel::opportunistic && (credentials_ == nullptr || credentials_->without_tls);
  egress_.user_.on_peer_tls_failed(delivery_->route->site_key, hop_text_, last_failure_.text, plain);
  last_failure_.text.insert(0, hop_text_ + ": ");
  egress_.tls_memory_.forget_session(tls_target());
  if (!plain) return;
  egress_.tls_memory_.note_broken(hop_text_, egress_.loop_.now());
  without_tls_ = true;
  --hop_;
  --attempts_;
}

void ClientConnection::keep_tls_session() {
  // What was found out when others were trusted counts no more.
  if (connection_ == nullptr || tls_generation_ != egress_.tls_generation_) return;
  if (auto session = connection_->take_tls_session()) {
    egress_.tls_memory_.keep_session(tls_target(), std::move(session));
  }
}

}  // namespace postern::egress
