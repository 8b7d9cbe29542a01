// The TLS that is spoken with next hops: whom we trust to name them, and what we show to those who ask who we are.
// Immutable, shared by all shards, and replaced as a whole by a reload; connections keep the one that they began with.
//
// TLS 1.2 and 1.3 with forward secrecy and authenticated encryption only; no compression, no renegotiation, no early
// data. A server's certificate is always looked at, and decides where the target says so [net::TlsTarget]; it is for a
// name by its subjectAltName alone, wildcards standing for one whole label [RFC 9525 §6.3].
#pragma once

#include <memory>
#include <string>

#include <postern/base/status.h>

#include "net/tls_stream.h"
#include "tls/certificate.h"

namespace postern::tls {

struct ClientContextOptions {
  std::string authorities_pem{};                     // who may vouch for servers; empty: nobody
  std::shared_ptr<const Certificate> certificate{};  // shown to servers that ask for one; null: none
};

// kInvalidArgument: authorities_pem is not empty and holds no certificate, or one that cannot be read.
[[nodiscard]] StatusOr<std::shared_ptr<const net::TlsClientContext>> make_client_context(ClientContextOptions options);

}  // namespace postern::tls
