// What a Connection needs of TLS: one connection's state as a machine without I/O, and what makes such machines.
//
// The room `tls` has them on BoringSSL. Nothing here names a library, so that all but the daemon links without one and
// the simulator can put a transparent machine in its place.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>

#include "io/loop.h"

namespace postern::net {

using CertificateFingerprint = std::array<std::byte, 32>;  // SHA-256 of the certificate's DER

// What a client may bring along to its next handshake with the same server, in place of most of it. Immutable.
class TlsSession {
 public:
  virtual ~TlsSession() = default;
};

// What a handshake has come to. The texts live as long as the process.
struct TlsFacts {
  std::string_view version;  // "TLSv1.3"
  std::string_view cipher;   // "TLS_AES_128_GCM_SHA256"
  bool resumed = false;
  // The peer showed a certificate, and one of the authorities that we were given vouches for it; a server's is for a
  // name that was asked for, too.
  bool peer_verified = false;
  std::optional<CertificateFingerprint> peer_fingerprint;  // of the certificate that the peer showed
};

// Cipher text in, plain bytes out, and back. Driven by Connection, in its loop's thread.
//
// Bounds: output_bytes_max of cipher text that waits, the same that is being sent, both exceeded by at most one flight
// of the handshake; one record of input; no more once the output is sent and the input is read.
class TlsStream {
 public:
  // What a call stopped at.
  enum class Wait : std::uint8_t {
    none,    // nothing: it did what it was asked
    input,   // all of input() is used up
    output,  // more of take_output() must be sent
    task,    // run take_task() in another thread, then on_task_done()
    ended,   // read() only: the peer has said that it will send no more
    failed,  // status() says why; nothing but sending what take_output() gives (an alert) makes sense any more
  };
  // A plain record holds at most this: read() with so much room takes a whole one.
  static constexpr std::size_t record_bytes_max = 16u << 10;
  static constexpr std::size_t output_bytes_max = 64u << 10;

  virtual ~TlsStream() = default;

  // Replaces the cipher text that is not read yet: received, in order; stays untouched until it is used up or replaced.
  virtual void set_input(Bytes cipher_text) = 0;
  // Of that, what was not used: its last bytes.
  [[nodiscard]] virtual std::size_t input_left() const = 0;

  // Goes on with the handshake; none: it is complete and facts() stand.
  [[nodiscard]] virtual Wait handshake() = 0;
  [[nodiscard]] virtual const TlsFacts& facts() const = 0;
  // Behind a complete handshake: bytes that both ends of this channel have and no other one has, for what is said in it
  // to be bound to it [RFC 5056]. `name`: "tls-exporter", "tls-server-end-point", "tls-unique" [RFC 9266, RFC 5929].
  // Empty: unknown, or not safe here.
  [[nodiscard]] virtual std::string channel_binding(std::string_view /*name*/) const { return {}; }

  struct Read {
    std::size_t size = 0;  // > 0 with Wait::none only
    Wait wait = Wait::none;
  };
  // Up to one record. Behind a complete handshake.
  [[nodiscard]] virtual Read read(MutableBytes plain) = 0;
  // How many of the bytes are cipher text now; 0: no room before some output was sent, or failed.
  [[nodiscard]] virtual std::size_t write(Bytes plain) = 0;
  // Says that nothing more will be written (close_notify), as the last bytes of the output.
  virtual void close() = 0;

  // Cipher text that waits to be taken.
  [[nodiscard]] virtual bool output_waiting() const = 0;
  // All of it: stays untouched until on_output_sent(), before which it is not called again.
  [[nodiscard]] virtual Bytes take_output() = 0;
  virtual void on_output_sent() = 0;

  // Behind Wait::task, once. The task lives until on_task_done(), and so must this.
  [[nodiscard]] virtual io::Task& take_task() = 0;
  virtual void on_task_done() = 0;

  [[nodiscard]] virtual const Status& status() const = 0;

  // Of a client: the latest that the server gave since the last call; null: none. Servers give them behind the
  // handshake, with the first bytes that are read.
  [[nodiscard]] virtual std::shared_ptr<const TlsSession> take_session() { return nullptr; }
};

// Makes the machines of one listener. Immutable, and shared by all shards.
class TlsContext {
 public:
  virtual ~TlsContext() = default;
  [[nodiscard]] virtual std::unique_ptr<TlsStream> make_stream() const = 0;
};

// One server, as a client wants it.
struct TlsTarget {
  std::string server_name;         // to be told it [RFC 6066 §3]; empty: it has none
  std::vector<std::string> names;  // its certificate is for one of these: host names, or address literals in brackets
  bool verify = false;             // without such a certificate there is no handshake
  std::shared_ptr<const TlsSession> session{};  // to resume, made with an equal target; null: none
};

// Makes the machines that speak with next hops. Immutable, and shared by all shards.
class TlsClientContext {
 public:
  virtual ~TlsClientContext() = default;
  [[nodiscard]] virtual std::unique_ptr<TlsStream> make_stream(TlsTarget target) const = 0;
};

}  // namespace postern::net
