// A dialogue's bytes through TLS 1.3 as BoringSSL speaks it, both ends in memory: what a client writes comes out in the
// pieces that records and the borders between received bytes make of it.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace postern::smtp {

class TlsChannel {
 public:
  // The server's end receives at most `piece` bytes of cipher text at a time.
  explicit TlsChannel(std::size_t piece);
  ~TlsChannel();
  TlsChannel(const TlsChannel&) = delete;
  TlsChannel& operator=(const TlsChannel&) = delete;

  // One write of the client's. `feed` is called with each piece of plain text that the server's end reads.
  void to_server(std::string_view text, const std::function<void(std::string_view)>& feed);
  // What the client reads of the server's.
  [[nodiscard]] std::string to_client(std::string_view text);

 private:
  struct Ends;
  std::unique_ptr<Ends> ends_;
  std::size_t piece_;
};

}  // namespace postern::smtp
