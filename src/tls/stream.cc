#include "tls/stream.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include <postern/base/check.h>
#include <postern/base/copy.h>

#include "tls/errors.h"

namespace postern::tls {
namespace {

// A write is begun only when its whole record has room.
constexpr std::size_t record_overhead_max = SSL3_RT_HEADER_LENGTH + SSL3_RT_MAX_ENCRYPTED_OVERHEAD;
constexpr std::size_t record_room = net::TlsStream::record_bytes_max + record_overhead_max;
// A buffer that grew beyond this is given back when it is empty: keeping it for the rest of a bulk was no faster.
constexpr std::size_t buffer_kept_max = 512;

}  // namespace

// One RSA signature: 0.5 to 2 ms of CPU that the shard has for other connections meanwhile.
class Stream::Signature final : public io::Task {
 public:
  Signature(std::shared_ptr<const Certificate> certificate, std::uint16_t algorithm, const std::uint8_t* in,
            std::size_t size)
      : certificate_(std::move(certificate)), algorithm_(algorithm), input_(in, in + size) {}

  void run() override {
    bssl::ScopedEVP_MD_CTX context;
    EVP_PKEY_CTX* key = nullptr;
    std::size_t size = 0;
    good_ = EVP_DigestSignInit(context.get(), &key, SSL_get_signature_algorithm_digest(algorithm_), nullptr,
                               certificate_->key.get()) == 1 &&
            (SSL_is_signature_algorithm_rsa_pss(algorithm_) != 1 ||
             (EVP_PKEY_CTX_set_rsa_padding(key, RSA_PKCS1_PSS_PADDING) == 1 &&
              EVP_PKEY_CTX_set_rsa_pss_saltlen(key, -1 /* as long as the digest */) == 1)) &&
            EVP_DigestSign(context.get(), nullptr, &size, input_.data(), input_.size()) == 1;
    if (!good_) return;
    output_.resize(size);
    good_ = EVP_DigestSign(context.get(), output_.data(), &size, input_.data(), input_.size()) == 1;
    output_.resize(size);
  }

  bool done = false;
  [[nodiscard]] bool good() const { return good_; }
  [[nodiscard]] const std::vector<std::uint8_t>& output() const { return output_; }

 private:
  std::shared_ptr<const Certificate> certificate_;
  std::uint16_t algorithm_;
  std::vector<std::uint8_t> input_, output_;
  bool good_ = false;
};

// --- between BoringSSL and memory ------------------------------------------------------------------------------------

int Stream::bio_read(BIO* bio, char* out, int size) {
  Bytes& input = static_cast<Stream*>(BIO_get_data(bio))->input_;
  BIO_clear_retry_flags(bio);
  if (input.empty()) {
    BIO_set_retry_read(bio);
    return -1;
  }
  const std::size_t count = std::min(input.size(), static_cast<std::size_t>(size));
  copy_bytes(reinterpret_cast<std::byte*>(out), input.data(), count);
  input = input.subspan(count);
  return static_cast<int>(count);
}

int Stream::bio_write(BIO* bio, const char* data, int size) {
  Buffer& output = static_cast<Stream*>(BIO_get_data(bio))->filling_;
  BIO_clear_retry_flags(bio);
  if (output.size() >= output_bytes_max) {
    BIO_set_retry_write(bio);
    return -1;
  }
  output.append(as_bytes({data, static_cast<std::size_t>(size)}));
  return size;
}

long Stream::bio_control(BIO* /*bio*/, int command, long /*number*/, void* /*pointer*/) {
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

const BIO_METHOD* Stream::bio_method() {
  static const BIO_METHOD* const method = [] {
    BIO_METHOD* const made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "postern");
    POSTERN_CHECK(made != nullptr);
    BIO_meth_set_read(made, bio_read);
    BIO_meth_set_write(made, bio_write);
    BIO_meth_set_ctrl(made, bio_control);
    return made;
  }();
  return method;
}

// --- RSA signatures --------------------------------------------------------------------------------------------------

const SSL_PRIVATE_KEY_METHOD* Stream::key_method() {
  static constexpr SSL_PRIVATE_KEY_METHOD method = {
      .sign = sign,
      // Asked for by key exchanges without forward secrecy only, which are not offered.
      .decrypt = [](SSL*, std::uint8_t*, std::size_t*, std::size_t, const std::uint8_t*,
                    std::size_t) { return ssl_private_key_failure; },
      .complete = finish_sign};
  return &method;
}

ssl_private_key_result_t Stream::sign(SSL* ssl, std::uint8_t* /*out*/, std::size_t* /*out_size*/,
                                      std::size_t /*out_max*/, std::uint16_t algorithm, const std::uint8_t* in,
                                      std::size_t in_size) {
  Stream& stream = of(ssl);
  stream.signature_ = std::make_unique<Signature>(stream.certificate_, algorithm, in, in_size);
  return ssl_private_key_retry;
}

ssl_private_key_result_t Stream::finish_sign(SSL* ssl, std::uint8_t* out, std::size_t* out_size, std::size_t out_max) {
  const std::unique_ptr<Signature>& signature = of(ssl).signature_;
  if (!signature->done) return ssl_private_key_retry;
  const std::vector<std::uint8_t>& made = signature->output();
  if (!signature->good() || made.size() > out_max) return ssl_private_key_failure;
  std::ranges::copy(made, out);
  *out_size = made.size();
  return ssl_private_key_success;
}

io::Task& Stream::take_task() {
  POSTERN_CHECK(signature_ != nullptr && !signature_->done, "there is no task");
  return *signature_;
}

void Stream::on_task_done() {
  signature_->done = true;
}

// --- the stream ------------------------------------------------------------------------------------------------------

Stream::Stream(bssl::UniquePtr<SSL> ssl, std::shared_ptr<const void> owner)
    : owner_(std::move(owner)), ssl_(std::move(ssl)) {
  BIO* const bio = BIO_new(bio_method());
  POSTERN_CHECK(bio != nullptr);
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl_.get(), bio, bio);
  SSL_set_app_data(ssl_.get(), this);
  SSL_set_mode(ssl_.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  // Certificates, callbacks and preferences are of no use behind the handshake.
  SSL_set_shed_handshake_config(ssl_.get(), 1);
}

Stream::~Stream() = default;

Stream& Stream::of(const SSL* ssl) {
  return *static_cast<Stream*>(SSL_get_app_data(ssl));
}

bool Stream::use(std::shared_ptr<const Certificate> certificate) {
  std::vector<CRYPTO_BUFFER*> chain;
  for (const auto& one : certificate->chain) chain.push_back(one.get());
  certificate_ = std::move(certificate);
  const bool inline_key = certificate_->kind == KeyKind::ecdsa;
  return SSL_set_chain_and_key(ssl_.get(), chain.data(), chain.size(), inline_key ? certificate_->key.get() : nullptr,
                               inline_key ? nullptr : key_method()) == 1;
}

net::TlsStream::Wait Stream::fail(std::string_view what) {
  std::string text(what);
  const std::string reasons = take_errors();
  text.append(": ").append(reasons.empty() ? "refused" : reasons);
  status_ = error(StatusCode::kUnavailable, text);
  return Wait::failed;
}

net::TlsStream::Wait Stream::handshake() {
  ERR_clear_error();
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    note_facts();
    if (certificate_ != nullptr && !facts_.resumed) end_point_ = certificate_->end_point;
    certificate_.reset();
    signature_.reset();
    return Wait::none;
  }
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return Wait::input;
    case SSL_ERROR_WANT_WRITE:
      return Wait::output;
    case SSL_ERROR_WANT_PRIVATE_KEY_OPERATION:
      return Wait::task;
    default:
      return fail("TLS handshake");
  }
}

void Stream::note_facts() {
  facts_.version = SSL_get_version(ssl_.get());
  facts_.cipher = SSL_CIPHER_standard_name(SSL_get_current_cipher(ssl_.get()));
  facts_.resumed = SSL_session_reused(ssl_.get()) == 1;
  const SSL_SESSION* const session = SSL_get_session(ssl_.get());
  if (session == nullptr || SSL_SESSION_has_peer_sha256(session) != 1) return;
  const std::uint8_t* digest = nullptr;
  std::size_t size = 0;
  SSL_SESSION_get0_peer_sha256(session, &digest, &size);
  net::CertificateFingerprint fingerprint;
  POSTERN_CHECK(size == fingerprint.size());
  std::memcpy(fingerprint.data(), digest, size);
  facts_.peer_fingerprint = fingerprint;
  facts_.peer_verified = SSL_get_verify_result(ssl_.get()) == X509_V_OK;
}

std::string Stream::channel_binding(std::string_view name) const {
  // Before TLS 1.3, two channels can be made to have the same secrets unless these are bound to the whole handshake
  // [RFC 7627 §1]: then there is nothing to bind to but the certificate.
  const bool unique = SSL_version(ssl_.get()) >= TLS1_3_VERSION || SSL_get_extms_support(ssl_.get()) == 1;
  std::array<std::uint8_t, 64> bytes{};
  std::size_t size = 0;
  if (name == "tls-exporter" && unique) {
    constexpr std::string_view label = "EXPORTER-Channel-Binding";
    if (SSL_export_keying_material(ssl_.get(), bytes.data(), 32, label.data(), label.size(), nullptr, 0, 1) == 1) {
      size = 32;
    }
  } else if (name == "tls-unique" && unique) {
    if (SSL_get_tls_unique(ssl_.get(), bytes.data(), &size, bytes.size()) != 1) size = 0;  // as in TLS 1.3
  } else if (name == "tls-server-end-point") {
    return end_point_;
  }
  ERR_clear_error();
  return {reinterpret_cast<const char*>(bytes.data()), size};
}

net::TlsStream::Read Stream::read(MutableBytes plain) {
  ERR_clear_error();
  const int result =
      SSL_read(ssl_.get(), plain.data(), static_cast<int>(std::min<std::size_t>(plain.size(), 1u << 30)));
  if (result > 0) return {static_cast<std::size_t>(result), Wait::none};
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return {0, Wait::input};
    case SSL_ERROR_WANT_WRITE:
      return {0, Wait::output};
    case SSL_ERROR_ZERO_RETURN:
      return {0, Wait::ended};
    default:
      return {0, fail("TLS")};
  }
}

std::size_t Stream::write(Bytes plain) {
  if (plain.empty() || filling_.size() + record_room > output_bytes_max || !status_.ok()) return 0;
  const std::size_t size = std::min(plain.size(), record_bytes_max);
  // Growing by doubling would copy what lies there once more.
  if (size == record_bytes_max) filling_.reserve(output_bytes_max);
  ERR_clear_error();
  const int result = SSL_write(ssl_.get(), plain.data(), static_cast<int>(size));
  if (result > 0) return static_cast<std::size_t>(result);
  (void)fail("TLS");
  return 0;
}

void Stream::close() {
  ERR_clear_error();
  (void)SSL_shutdown(ssl_.get());
  ERR_clear_error();
}

Bytes Stream::take_output() {
  POSTERN_CHECK(sending_.empty(), "one output is sent at a time");
  std::swap(filling_, sending_);
  return sending_.bytes();
}

void Stream::on_output_sent() {
  sending_.clear();
  if (sending_.capacity() > buffer_kept_max) sending_.give_back();
  if (filling_.empty() && filling_.capacity() > buffer_kept_max) filling_.give_back();
}

}  // namespace postern::tls
