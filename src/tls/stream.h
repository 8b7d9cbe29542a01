// One connection's TLS on BoringSSL, between two spans of memory: net::TlsStream with an SSL inside.
//
// Memory beside the SSL (which gives back what only the handshake needed, and its record buffers whenever they are
// empty): two output buffers of at most net::TlsStream::output_bytes_max and a flight, given back when they are empty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "net/tls_stream.h"
#include "tls/boringssl.h"
#include "tls/buffer.h"
#include "tls/certificate.h"

namespace postern::tls {

class Stream : public net::TlsStream {
 public:
  // `ssl` is fresh and set to accept or to connect. Whoever made it keeps alive what its context's callbacks use by
  // `owner`.
  Stream(bssl::UniquePtr<SSL> ssl, std::shared_ptr<const void> owner);
  ~Stream() override;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // The stream that made `ssl` its own.
  [[nodiscard]] static Stream& of(const SSL* ssl);
  // From the certificate selection: shows this one. RSA signatures become tasks. False: out of memory.
  [[nodiscard]] bool use(std::shared_ptr<const Certificate> certificate);

  void set_input(Bytes cipher_text) override { input_ = cipher_text; }
  [[nodiscard]] std::size_t input_left() const override { return input_.size(); }
  [[nodiscard]] Wait handshake() override;
  [[nodiscard]] const net::TlsFacts& facts() const override { return facts_; }
  [[nodiscard]] std::string channel_binding(std::string_view name) const override;
  [[nodiscard]] Read read(MutableBytes plain) override;
  [[nodiscard]] std::size_t write(Bytes plain) override;
  void close() override;
  [[nodiscard]] bool output_waiting() const override { return !filling_.empty(); }
  [[nodiscard]] Bytes take_output() override;
  void on_output_sent() override;
  [[nodiscard]] io::Task& take_task() override;
  void on_task_done() override;
  [[nodiscard]] const Status& status() const override { return status_; }

  [[nodiscard]] const SSL* ssl() const { return ssl_.get(); }

 protected:
  [[nodiscard]] SSL* ssl() { return ssl_.get(); }

  net::TlsFacts facts_;
  Status status_;

 private:
  class Signature;

  static int bio_read(BIO* bio, char* out, int size);
  static int bio_write(BIO* bio, const char* data, int size);
  static long bio_control(BIO* bio, int command, long number, void* pointer);
  static const BIO_METHOD* bio_method();
  static const SSL_PRIVATE_KEY_METHOD* key_method();
  static ssl_private_key_result_t sign(SSL* ssl, std::uint8_t* out, std::size_t* out_size, std::size_t out_max,
                                       std::uint16_t algorithm, const std::uint8_t* in, std::size_t in_size);
  static ssl_private_key_result_t finish_sign(SSL* ssl, std::uint8_t* out, std::size_t* out_size, std::size_t out_max);

  void note_facts();
  Wait fail(std::string_view what);

  std::shared_ptr<const void> owner_;
  bssl::UniquePtr<SSL> ssl_;
  Bytes input_;
  Buffer filling_;                                  // cipher text that waits
  Buffer sending_;                                  // and that is being sent
  std::shared_ptr<const Certificate> certificate_;  // until the handshake is complete
  std::unique_ptr<Signature> signature_;            // the same
  std::string end_point_;  // of the certificate shown in this handshake; empty: in another one, long ago
};

}  // namespace postern::tls
