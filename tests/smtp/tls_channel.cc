#include "tests/smtp/tls_channel.h"

#include <algorithm>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/check.h>

#include "tests/tls/pair.h"

namespace postern::smtp {
namespace {

// One key and one context for all channels: nothing of a dialogue stays in them.
const net::TlsContext& context() {
  static const std::shared_ptr<const net::TlsContext> made = [] {
    tls::ServerContextOptions options;
    options.certificates = {tls::make_certificate({.names = {"mx.example.test"}}).parsed()};
    options.ticket_keys = std::make_shared<const tls::TicketKeys>();
    return *tls::make_server_context(std::move(options));
  }();
  return *made;
}

}  // namespace

struct TlsChannel::Ends {
  bssl::UniquePtr<SSL_CTX> client = tls::client_context();
  tls::Pair pair{context(), tls::client_stream(client.get())};
};

TlsChannel::TlsChannel(std::size_t piece) : ends_(std::make_unique<Ends>()), piece_(piece) {
  ends_->pair.run();
  POSTERN_CHECK(ends_->pair.server.secured && ends_->pair.client.secured);
}

TlsChannel::~TlsChannel() = default;

void TlsChannel::to_server(std::string_view text, const std::function<void(std::string_view)>& feed) {
  net::TlsStream& server = *ends_->pair.server.stream;
  std::vector<std::byte> plain(net::TlsStream::record_bytes_max);
  while (!text.empty()) {
    const std::size_t written = ends_->pair.client.stream->write(as_bytes(text));
    POSTERN_CHECK(written != 0);
    text.remove_prefix(written);
    const std::string cipher_text = ends_->pair.client.output();
    std::string_view rest = cipher_text;
    while (!rest.empty()) {
      const std::string_view received = rest.substr(0, std::min(piece_, rest.size()));
      rest.remove_prefix(received.size());
      server.set_input(as_bytes(received));
      while (const std::size_t size = server.read(plain).size) feed(as_text(Bytes(plain).first(size)));
      POSTERN_CHECK(server.status().ok() && server.input_left() == 0);
      server.set_input({});
    }
  }
}

std::string TlsChannel::to_client(std::string_view text) {
  tls::Pair& pair = ends_->pair;
  while (!text.empty()) {
    const std::size_t written = pair.server.stream->write(as_bytes(text));
    POSTERN_CHECK(written != 0);
    text.remove_prefix(written);
    pair.client.waiting += pair.server.output();
  }
  pair.client.turn(piece_);
  return std::exchange(pair.client.plain, {});
}

}  // namespace postern::smtp
