#include "tls/client_context.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include <postern/base/check.h>

#include "tls/errors.h"
#include "tls/stream.h"

namespace postern::tls {
namespace {

// TLS 1.2's, in the order in which we like them; those of 1.3 are all good.
constexpr const char* ciphers =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";
constexpr std::size_t server_chain_bytes_max = 32u << 10;
// A session with a longer one is not kept: with the chain this bounds what a server can make us remember.
constexpr std::size_t ticket_bytes_max = 4u << 10;
constexpr int server_chain_depth_max = 10;
// Public stores have about 150.
constexpr std::size_t authorities_max = 10'000;
// How long a session is offered again; servers say less, mostly.
constexpr std::uint32_t session_seconds = 2 * 60 * 60;

class Session final : public net::TlsSession {
 public:
  explicit Session(SSL_SESSION* session) : session_(session) {}
  // BoringSSL counts references atomically, and does not write to a session that is complete.
  [[nodiscard]] SSL_SESSION* get() const { return session_.get(); }

 private:
  bssl::UniquePtr<SSL_SESSION> session_;
};

bool is_for(X509* leaf, const std::string& name) {
  constexpr unsigned flags = X509_CHECK_FLAG_NEVER_CHECK_SUBJECT;
  if (name.starts_with('[')) {
    std::string_view inside = std::string_view(name).substr(1, name.size() - 2);
    if (inside.starts_with("IPv6:")) inside.remove_prefix(5);
    return X509_check_ip_asc(leaf, std::string(inside).c_str(), flags) == 1;
  }
  return X509_check_host(leaf, name.data(), name.size(), flags, nullptr) == 1;
}

class ClientStream final : public Stream {
 public:
  ClientStream(bssl::UniquePtr<SSL> ssl, std::shared_ptr<const void> owner, net::TlsTarget target)
      : Stream(std::move(ssl), std::move(owner)), target_(std::move(target)) {}

  // Only for those of a client context.
  [[nodiscard]] static ClientStream& of(const SSL* ssl) { return static_cast<ClientStream&>(Stream::of(ssl)); }

  [[nodiscard]] Wait handshake() override {
    const Wait wait = Stream::handshake();
    if (wait == Wait::none) {
      facts_.peer_verified = SSL_get_verify_result(ssl()) == X509_V_OK;
      target_ = {};
    }
    if (wait == Wait::failed && !trouble_.empty()) {
      status_ = error(StatusCode::kUnavailable, "TLS handshake: the certificate " + trouble_);
    }
    return wait;
  }

  [[nodiscard]] bool verify(X509_STORE_CTX* store) {
    int problem = X509_V_OK;
    if (X509_verify_cert(store) != 1) {
      problem = X509_STORE_CTX_get_error(store);
      if (problem == X509_V_OK) problem = X509_V_ERR_UNSPECIFIED;
      trouble_ = std::string("is not to be trusted: ") + X509_verify_cert_error_string(problem);
    } else if (X509* const leaf = X509_STORE_CTX_get0_cert(store);
               std::ranges::none_of(target_.names, [&](const std::string& name) { return is_for(leaf, name); })) {
      problem = X509_V_ERR_HOSTNAME_MISMATCH;
      trouble_ = "is not for ";
      trouble_ += target_.names.empty() ? "any name" : target_.names.front();
      if (target_.names.size() > 1) trouble_ += " nor another name that was given";
    }
    X509_STORE_CTX_set_error(store, problem);
    ERR_clear_error();
    if (problem == X509_V_OK || target_.verify) return problem == X509_V_OK;
    trouble_.clear();
    return true;
  }

  void keep(SSL_SESSION* session) { session_ = std::make_shared<const Session>(session); }
  [[nodiscard]] std::shared_ptr<const net::TlsSession> take_session() override {
    return std::exchange(session_, nullptr);
  }

 private:
  net::TlsTarget target_;  // until the handshake is complete
  std::string trouble_;    // with the server's certificate, where that decides
  std::shared_ptr<const Session> session_;
};

class ClientContext final : public net::TlsClientContext, public std::enable_shared_from_this<ClientContext> {
 public:
  explicit ClientContext(std::shared_ptr<const Certificate> certificate) : certificate_(std::move(certificate)) {}

  [[nodiscard]] Status set_up(const std::string& authorities_pem);
  [[nodiscard]] std::unique_ptr<net::TlsStream> make_stream(net::TlsTarget target) const override;

 private:
  [[nodiscard]] Status trust(const std::string& authorities_pem);

  const std::shared_ptr<const Certificate> certificate_;
  bssl::UniquePtr<SSL_CTX> context_;
};

int verify_server(X509_STORE_CTX* store, void* /*context*/) {
  const auto* const ssl =
      static_cast<const SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
  return ClientStream::of(ssl).verify(store) ? 1 : 0;
}

int keep_session(SSL* ssl, SSL_SESSION* session) {
  const std::uint8_t* ticket = nullptr;
  std::size_t size = 0;
  SSL_SESSION_get0_ticket(session, &ticket, &size);
  if (size > ticket_bytes_max) return 0;
  ClientStream::of(ssl).keep(session);
  return 1;  // the reference is ours
}

Status ClientContext::trust(const std::string& authorities_pem) {
  const bssl::UniquePtr<BIO> bio(BIO_new_mem_buf(authorities_pem.data(), static_cast<int>(authorities_pem.size())));
  std::size_t count = 0;
  ERR_clear_error();
  while (const bssl::UniquePtr<X509> authority{PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)}) {
    if (++count > authorities_max) {
      return error(StatusCode::kInvalidArgument, "more than " + std::to_string(authorities_max) + " authorities");
    }
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context_.get()), authority.get());
  }
  // The end of the text shows as "no start line"; anything else is a certificate that cannot be read.
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (count == 0) return error(StatusCode::kInvalidArgument, "no certificate in PEM form");
  if (!at_end) {
    return error(StatusCode::kInvalidArgument, "certificate " + std::to_string(count + 1) + " cannot be read");
  }
  return OkStatus();
}

Status ClientContext::set_up(const std::string& authorities_pem) {
  context_.reset(SSL_CTX_new(TLS_method()));
  POSTERN_CHECK(context_ != nullptr);
  SSL_CTX* const context = context_.get();
  POSTERN_CHECK(SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1);
  POSTERN_CHECK(SSL_CTX_set_strict_cipher_list(context, ciphers) == 1);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, keep_session);
  SSL_CTX_set_timeout(context, session_seconds);
  SSL_CTX_set_session_psk_dhe_timeout(context, session_seconds);
  SSL_CTX_set_max_cert_list(context, server_chain_bytes_max);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_verify_depth(context, server_chain_depth_max);
  SSL_CTX_set_cert_verify_callback(context, verify_server, nullptr);
  return authorities_pem.empty() ? OkStatus() : trust(authorities_pem);
}

std::unique_ptr<net::TlsStream> ClientContext::make_stream(net::TlsTarget target) const {
  bssl::UniquePtr<SSL> ssl(SSL_new(context_.get()));
  POSTERN_CHECK(ssl != nullptr);
  SSL* const raw = ssl.get();
  SSL_set_connect_state(raw);
  // A name that cannot be sent is one that no server has.
  if (!target.server_name.empty()) (void)SSL_set_tlsext_host_name(raw, target.server_name.c_str());
  if (target.session != nullptr) SSL_set_session(raw, static_cast<const Session&>(*target.session).get());
  auto stream = std::make_unique<ClientStream>(std::move(ssl), shared_from_this(), std::move(target));
  if (certificate_ != nullptr) POSTERN_CHECK(stream->use(certificate_));
  ERR_clear_error();
  return stream;
}

}  // namespace

StatusOr<std::shared_ptr<const net::TlsClientContext>> make_client_context(ClientContextOptions options) {
  auto made = std::make_shared<ClientContext>(std::move(options.certificate));
  if (Status status = made->set_up(options.authorities_pem); !status.ok()) return status;
  return std::shared_ptr<const net::TlsClientContext>(std::move(made));
}

}  // namespace postern::tls
