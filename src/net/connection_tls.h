// The part of a Connection that only those have which speak TLS. Internal to net.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <postern/base/bytes.h>

#include "net/connection.h"
#include "net/tls_stream.h"

namespace postern::net {

// Beside the stream's own memory: what is here, and at most one record's rest while the user takes no more.
struct Connection::Tls {
  explicit Tls(std::unique_ptr<TlsStream> made) : stream(std::move(made)) {}

  std::unique_ptr<TlsStream> stream;
  std::vector<std::byte> rest;  // plain bytes that the user left, from rest_offset on
  std::size_t rest_offset = 0;
  Bytes in_flight;       // cipher text in the kernel's hands: what of it has not left yet
  bool secured = false;  // the handshake is complete
  bool closed = false;   // close_notify was written
  bool ended = false;    // the peer's was read
};

}  // namespace postern::net
