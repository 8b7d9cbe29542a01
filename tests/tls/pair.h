// Two ends of one TLS connection in memory: a server from a context of ours, and a client on a plain SSL_CTX that the
// test sets up. Bytes pass in pieces of whatever size the test wants.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/base/check.h>

#include "net/tls_stream.h"
#include "tests/tls/certificates.h"
#include "tls/server_context.h"
#include "tls/stream.h"

namespace postern::tls {

inline bssl::UniquePtr<SSL_CTX> client_context() {
  bssl::UniquePtr<SSL_CTX> context(SSL_CTX_new(TLS_method()));
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_CLIENT);
  return context;
}

inline std::unique_ptr<Stream> client_stream(SSL_CTX* context, const char* server_name = nullptr,
                                             SSL_SESSION* session = nullptr) {
  bssl::UniquePtr<SSL> ssl(SSL_new(context));
  SSL_set_connect_state(ssl.get());
  if (server_name != nullptr) SSL_set_tlsext_host_name(ssl.get(), server_name);
  if (session != nullptr) SSL_set_session(ssl.get(), session);
  return std::make_unique<Stream>(std::move(ssl), nullptr);
}

// One end: what it has received and not read, what it made of it.
struct End {
  std::unique_ptr<net::TlsStream> stream{};
  std::string waiting{};  // cipher text on its way to it
  std::string plain{};    // what it read
  bool secured = false, ended = false, failed = false;
  int tasks = 0;

  // Goes on until it waits for input; `piece`: how much it is given at a time.
  void turn(std::size_t piece) {
    std::vector<std::byte> buffer(net::TlsStream::record_bytes_max);
    for (bool first = true; first || !waiting.empty(); first = false) {
      if (failed || ended) return;
      const std::string input = waiting.substr(0, piece);
      waiting.erase(0, piece);
      stream->set_input(as_bytes(input));
      for (bool more = true; more;) {
        net::TlsStream::Wait wait = net::TlsStream::Wait::none;
        if (!secured) {
          wait = stream->handshake();
          secured = wait == net::TlsStream::Wait::none;
        } else {
          const net::TlsStream::Read read = stream->read(buffer);
          wait = read.wait;
          plain += as_text(Bytes(buffer).first(read.size));
        }
        switch (wait) {
          case net::TlsStream::Wait::none:
            break;
          case net::TlsStream::Wait::task:
            ++tasks;
            stream->take_task().run();
            stream->on_task_done();
            break;
          case net::TlsStream::Wait::input:
            POSTERN_CHECK(stream->input_left() == 0);
            more = false;
            break;
          case net::TlsStream::Wait::output:
            more = false;
            break;
          case net::TlsStream::Wait::ended:
            ended = true;
            more = false;
            break;
          case net::TlsStream::Wait::failed:
            failed = true;
            more = false;
            break;
        }
      }
      stream->set_input({});
    }
  }

  [[nodiscard]] std::string output() {
    std::string text;
    while (stream->output_waiting()) {
      text += as_text(stream->take_output());
      stream->on_output_sent();
    }
    return text;
  }
  void write(std::string_view text) {
    while (!text.empty()) {
      const std::size_t written = stream->write(as_bytes(text));
      if (written == 0) return;
      text.remove_prefix(written);
    }
  }
};

struct Pair {
  Pair(const net::TlsContext& server_context, std::unique_ptr<net::TlsStream> client_stream) {
    server.stream = server_context.make_stream();
    client.stream = std::move(client_stream);
  }
  // Until neither has anything to say. `piece`: the size of all reads.
  void run(std::size_t piece = static_cast<std::size_t>(-1)) {
    for (bool moved = true; moved;) {
      client.turn(piece);
      const std::string to_server = client.output();
      server.waiting += to_server;
      server.turn(piece);
      const std::string to_client = server.output();
      client.waiting += to_client;
      bytes_to_server += to_server.size();
      moved = !to_server.empty() || !to_client.empty();
    }
  }

  End server, client;
  std::size_t bytes_to_server = 0;
};

}  // namespace postern::tls
