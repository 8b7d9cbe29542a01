// What the TLS of one listener is made from: certificates, what is asked of clients, tickets. Immutable, shared by all
// shards, and replaced as a whole by a reload; connections keep the one that they began with.
//
// TLS 1.2 and 1.3 with forward secrecy and authenticated encryption only; no compression, no renegotiation, no early
// data, no session cache (tickets alone).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/status.h>

#include "net/tls_stream.h"
#include "tls/certificate.h"
#include "tls/ticket_keys.h"

namespace postern::tls {

enum class ClientCertificates : std::uint8_t {
  none,      // not asked for
  optional,  // asked for; what is wrong with one shows in the facts alone
  required,  // no handshake without one, nor with one that the authorities (if any are given) do not vouch for
};

struct ServerContextOptions {
  // At least one. The first is shown to clients that name nobody we know, beside it those with its first name.
  std::vector<std::shared_ptr<const Certificate>> certificates{};
  ClientCertificates client_certificates = ClientCertificates::none;
  std::string client_authorities_pem{};  // who may vouch for clients; empty: nobody
  std::shared_ptr<const TicketKeys> ticket_keys{};
};

// kInvalidArgument: client_authorities_pem holds no certificate.
[[nodiscard]] StatusOr<std::shared_ptr<const net::TlsContext>> make_server_context(ServerContextOptions options);

}  // namespace postern::tls
