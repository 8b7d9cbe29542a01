#include "tls/server_context.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <optional>
#include <utility>

#include <absl/container/flat_hash_map.h>

#include <postern/base/check.h>

#include "tls/errors.h"
#include "tls/stream.h"

namespace postern::tls {
namespace {

// TLS 1.2's; those of 1.3 are all good. Within brackets the client's preference counts: who has no AES in hardware asks
// for ChaCha20.
constexpr const char* ciphers =
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305|ECDHE-ECDSA-AES256-GCM-SHA384|"
    "ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305|ECDHE-RSA-AES256-GCM-SHA384]";
constexpr std::array<std::uint16_t, 3> ecdsa_suites = {0xC02B, 0xC02C, 0xCCA9};
// A client's chain; ours is bounded by Certificate::chain_bytes_max.
constexpr std::size_t client_chain_bytes_max = 32u << 10;
constexpr std::size_t client_chain_depth_max = 8;
constexpr std::size_t client_authorities_max = 100;
// How long a session may be resumed. The ticket's key lives as long as two rotations at most, whichever is shorter.
constexpr std::uint32_t session_seconds = 2 * 60 * 60;
constexpr std::uint16_t extension_supported_groups = 10, extension_signature_algorithms = 13,
                        extension_supported_versions = 43;

// --- what a client can verify ----------------------------------------------------------------------------------------

std::optional<CBS> extension(const SSL_CLIENT_HELLO& hello, std::uint16_t type) {
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;
  if (SSL_early_callback_ctx_extension_get(&hello, type, &data, &size) != 1) return std::nullopt;
  CBS body;
  CBS_init(&body, data, size);
  return body;
}

// Whether the list holds a number that `wanted` wants.
template <class Wanted>
bool list_has(CBS list, Wanted wanted) {
  std::uint16_t number = 0;
  while (CBS_get_u16(&list, &number) == 1) {
    if (wanted(number)) return true;
  }
  return false;
}

template <class Wanted>
bool extension_has(const SSL_CLIENT_HELLO& hello, std::uint16_t type, Wanted wanted) {
  std::optional<CBS> body = extension(hello, type);
  CBS list;
  return body && CBS_get_u16_length_prefixed(&*body, &list) == 1 && list_has(list, wanted);
}

bool speaks_tls_1_3(const SSL_CLIENT_HELLO& hello) {
  std::optional<CBS> body = extension(hello, extension_supported_versions);
  CBS list;
  return body && CBS_get_u8_length_prefixed(&*body, &list) == 1 &&
         list_has(list, [](std::uint16_t version) { return version == TLS1_3_VERSION; });
}

std::uint16_t scheme_of(std::uint16_t curve) {
  switch (curve) {
    case SSL_CURVE_SECP384R1:
      return SSL_SIGN_ECDSA_SECP384R1_SHA384;
    case SSL_CURVE_SECP521R1:
      return SSL_SIGN_ECDSA_SECP521R1_SHA512;
    default:
      return SSL_SIGN_ECDSA_SECP256R1_SHA256;
  }
}

bool can_verify(const SSL_CLIENT_HELLO& hello, const Certificate& certificate) {
  if (certificate.kind == KeyKind::rsa) return true;  // everybody could, so far
  const std::uint16_t scheme = scheme_of(certificate.curve);
  if (speaks_tls_1_3(hello)) {
    return extension_has(hello, extension_signature_algorithms, [=](std::uint16_t each) { return each == scheme; });
  }
  // Before 1.3 the cipher suite names the kind of key, and the curve stands among the groups [RFC 8422 §5.1].
  CBS suites;
  CBS_init(&suites, hello.cipher_suites, hello.cipher_suites_len);
  const auto is_ecdsa = [](std::uint16_t each) {
    return each == SSL_SIGN_ECDSA_SECP256R1_SHA256 || each == SSL_SIGN_ECDSA_SECP384R1_SHA384 ||
           each == SSL_SIGN_ECDSA_SECP521R1_SHA512;
  };
  return list_has(suites,
                  [](std::uint16_t suite) { return std::ranges::find(ecdsa_suites, suite) != ecdsa_suites.end(); }) &&
         extension_has(hello, extension_signature_algorithms, is_ecdsa) &&
         (!extension(hello, extension_supported_groups) ||
          extension_has(hello, extension_supported_groups,
                        [&](std::uint16_t group) { return group == certificate.curve; }));
}

std::string lower_case(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// --- the context -----------------------------------------------------------------------------------------------------

class ServerContext final : public net::TlsContext, public std::enable_shared_from_this<ServerContext> {
 public:
  explicit ServerContext(ServerContextOptions options)
      : certificates_(std::move(options.certificates)),
        mode_(options.client_certificates),
        ticket_keys_(std::move(options.ticket_keys)) {}

  [[nodiscard]] Status set_up(const std::string& client_authorities_pem);
  [[nodiscard]] std::unique_ptr<net::TlsStream> make_stream() const override;

 private:
  static const ServerContext& of(const SSL* ssl) {
    return *static_cast<const ServerContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  }
  static ssl_select_cert_result_t select(const SSL_CLIENT_HELLO* hello);
  static int verify(X509_STORE_CTX* store, void* context);
  static int ticket_key(SSL* ssl, std::uint8_t* name, std::uint8_t* iv, EVP_CIPHER_CTX* cipher, HMAC_CTX* hmac,
                        int sealing);
  void index_names();
  [[nodiscard]] Status ask_clients(const std::string& authorities_pem);

  using Candidates = std::vector<const std::shared_ptr<const Certificate>*>;
  [[nodiscard]] const Candidates& candidates(const char* server_name) const;

  const std::vector<std::shared_ptr<const Certificate>> certificates_;
  const ClientCertificates mode_;
  const std::shared_ptr<const TicketKeys> ticket_keys_;
  bool has_authorities_ = false;
  // "example.test" and, for "*.example.test", ".example.test".
  absl::flat_hash_map<std::string, Candidates> by_name_;
  Candidates default_;
  bssl::UniquePtr<SSL_CTX> context_;
};

std::string as_key(const std::string& name) {
  return name.starts_with("*.") ? name.substr(1) : name;
}

// ECDSA first: it is the better one for those who can verify both.
void ServerContext::index_names() {
  for (const KeyKind kind : {KeyKind::ecdsa, KeyKind::rsa}) {
    for (const auto& certificate : certificates_) {
      if (certificate->kind != kind) continue;
      for (const std::string& name : certificate->names) by_name_[as_key(name)].push_back(&certificate);
    }
  }
  const Certificate& first = *certificates_.front();
  if (!first.names.empty()) default_ = by_name_[as_key(first.names.front())];
  if (default_.empty()) default_ = {&certificates_.front()};
}

const ServerContext::Candidates& ServerContext::candidates(const char* server_name) const {
  if (server_name == nullptr) return default_;
  const std::string name = lower_case(server_name);
  if (const auto found = by_name_.find(name); found != by_name_.end()) return found->second;
  // A wildcard stands for one label.
  if (const std::size_t dot = name.find('.'); dot != std::string::npos) {
    if (const auto found = by_name_.find(name.substr(dot)); found != by_name_.end()) return found->second;
  }
  return default_;
}

ssl_select_cert_result_t ServerContext::select(const SSL_CLIENT_HELLO* hello) {
  const ServerContext& self = of(hello->ssl);
  const Candidates& candidates = self.candidates(SSL_get_servername(hello->ssl, TLSEXT_NAMETYPE_host_name));
  const auto good = std::ranges::find_if(candidates, [&](const auto* one) { return can_verify(*hello, **one); });
  const auto& chosen = good != candidates.end() ? **good : *candidates.front();
  return Stream::of(hello->ssl).use(chosen) ? ssl_select_cert_success : ssl_select_cert_error;
}

int ServerContext::ticket_key(SSL* ssl, std::uint8_t* name, std::uint8_t* iv, EVP_CIPHER_CTX* cipher, HMAC_CTX* hmac,
                              int sealing) {
  const TicketKeys& keys = *of(ssl).ticket_keys_;
  return sealing == 1 ? keys.seal(name, iv, cipher, hmac) : keys.open(name, iv, cipher, hmac);
}

// What it finds stays in the connection's verify result, for Stream::facts().
int ServerContext::verify(X509_STORE_CTX* store, void* context) {
  const ServerContext& self = *static_cast<const ServerContext*>(context);
  if (!self.has_authorities_) {
    X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_UNTRUSTED);
    return 1;
  }
  if (X509_verify_cert(store) == 1) return 1;
  ERR_clear_error();
  return self.mode_ == ClientCertificates::required ? 0 : 1;
}

Status ServerContext::ask_clients(const std::string& authorities_pem) {
  SSL_CTX* const context = context_.get();
  SSL_CTX_set_verify(context,
                     SSL_VERIFY_PEER | (mode_ == ClientCertificates::required ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT : 0),
                     nullptr);
  SSL_CTX_set_verify_depth(context, static_cast<int>(client_chain_depth_max));
  SSL_CTX_set_cert_verify_callback(context, verify, this);
  SSL_CTX_set_max_cert_list(context, client_chain_bytes_max);
  // Of a client's certificate its fingerprint is kept, and nothing else.
  SSL_CTX_set_retain_only_sha256_of_client_certs(context, 1);
  if (authorities_pem.empty()) return OkStatus();
  const bssl::UniquePtr<BIO> bio(BIO_new_mem_buf(authorities_pem.data(), static_cast<int>(authorities_pem.size())));
  std::size_t count = 0;
  while (const bssl::UniquePtr<X509> authority{PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)}) {
    if (++count > client_authorities_max) {
      return error(StatusCode::kInvalidArgument,
                   "more than " + std::to_string(client_authorities_max) + " authorities");
    }
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), authority.get());
    SSL_CTX_add_client_CA(context, authority.get());
  }
  ERR_clear_error();
  if (count == 0) return error(StatusCode::kInvalidArgument, "no certificate in PEM form");
  has_authorities_ = true;
  return OkStatus();
}

Status ServerContext::set_up(const std::string& client_authorities_pem) {
  context_.reset(SSL_CTX_new(TLS_method()));
  POSTERN_CHECK(context_ != nullptr && !certificates_.empty() && ticket_keys_ != nullptr);
  SSL_CTX* const context = context_.get();
  POSTERN_CHECK(SSL_CTX_set_app_data(context, this) == 1);
  POSTERN_CHECK(SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1);
  POSTERN_CHECK(SSL_CTX_set_strict_cipher_list(context, ciphers) == 1);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_timeout(context, session_seconds);
  SSL_CTX_set_session_psk_dhe_timeout(context, session_seconds);
  SSL_CTX_set_tlsext_ticket_key_cb(context, ticket_key);
  SSL_CTX_set_select_certificate_cb(context, select);
  index_names();

  // A resumed session brings along what was found out about the client: it is good only where the same was asked.
  std::string asked = std::to_string(static_cast<int>(mode_)) + client_authorities_pem;
  std::array<std::uint8_t, SHA256_DIGEST_LENGTH> id{};
  SHA256(reinterpret_cast<const std::uint8_t*>(asked.data()), asked.size(), id.data());
  SSL_CTX_set_session_id_context(context, id.data(), id.size());
  return mode_ == ClientCertificates::none ? OkStatus() : ask_clients(client_authorities_pem);
}

std::unique_ptr<net::TlsStream> ServerContext::make_stream() const {
  bssl::UniquePtr<SSL> ssl(SSL_new(context_.get()));
  POSTERN_CHECK(ssl != nullptr);
  SSL_set_accept_state(ssl.get());
  return std::make_unique<Stream>(std::move(ssl), shared_from_this());
}

}  // namespace

StatusOr<std::shared_ptr<const net::TlsContext>> make_server_context(ServerContextOptions options) {
  const std::string authorities = std::move(options.client_authorities_pem);
  auto made = std::make_shared<ServerContext>(std::move(options));
  if (Status status = made->set_up(authorities); !status.ok()) return status;
  return std::shared_ptr<const net::TlsContext>(std::move(made));
}

}  // namespace postern::tls
