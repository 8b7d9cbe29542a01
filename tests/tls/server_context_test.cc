// The server's TLS in memory: handshakes at every split, what is chosen for whom, tickets, clients' certificates, and
// what hostile bytes come to.
#include "tls/server_context.h"

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tls/certificates.h"
#include "tests/tls/pair.h"

namespace postern::tls {
namespace {

using testing::HasSubstr;

std::shared_ptr<const net::TlsContext> context_of(ServerContextOptions options) {
  if (options.ticket_keys == nullptr) options.ticket_keys = std::make_shared<const TicketKeys>();
  auto made = make_server_context(std::move(options));
  EXPECT_TRUE(made.ok()) << made.status();
  return *made;
}

const MadeCertificate& ecdsa() {
  static const MadeCertificate made = make_certificate({.names = {"mx.example.test", "*.wild.example.test"}});
  return made;
}
const MadeCertificate& rsa() {
  static const MadeCertificate made = make_certificate({.names = {"mx.example.test"}, .kind = KeyKind::rsa});
  return made;
}
const MadeCertificate& other() {
  static const MadeCertificate made = make_certificate({.names = {"other.example.test"}});
  return made;
}

// Which certificate the server showed.
bool showed(const End& client, const MadeCertificate& wanted) {
  const SSL* const ssl = static_cast<const Stream&>(*client.stream).ssl();
  const STACK_OF(CRYPTO_BUFFER)* const chain = SSL_get0_peer_certificates(ssl);
  if (chain == nullptr || sk_CRYPTO_BUFFER_num(chain) == 0) return false;
  const CRYPTO_BUFFER* const leaf = sk_CRYPTO_BUFFER_value(chain, 0);
  const auto parsed = wanted.parsed();
  const CRYPTO_BUFFER* const own = parsed->chain.front().get();
  return CRYPTO_BUFFER_len(leaf) == CRYPTO_BUFFER_len(own) &&
         std::memcmp(CRYPTO_BUFFER_data(leaf), CRYPTO_BUFFER_data(own), CRYPTO_BUFFER_len(own)) == 0;
}

class Version : public testing::TestWithParam<std::uint16_t> {
 protected:
  bssl::UniquePtr<SSL_CTX> client = make_client();
  static bssl::UniquePtr<SSL_CTX> make_client() {
    bssl::UniquePtr<SSL_CTX> made = client_context();
    SSL_CTX_set_min_proto_version(made.get(), GetParam());
    SSL_CTX_set_max_proto_version(made.get(), GetParam());
    return made;
  }
};

TEST_P(Version, HandshakesAndCarriesBytesWithEitherKind) {
  for (const MadeCertificate* certificate : {&ecdsa(), &rsa()}) {
    const auto context = context_of({.certificates = {certificate->parsed()}});
    Pair pair(*context, client_stream(client.get()));
    pair.run();
    ASSERT_TRUE(pair.server.secured && pair.client.secured) << pair.server.stream->status();
    EXPECT_EQ(pair.server.tasks, certificate == &rsa() ? 1 : 0) << "RSA signatures are made elsewhere, ECDSA's here";
    EXPECT_EQ(pair.server.stream->facts().version, GetParam() == TLS1_3_VERSION ? "TLSv1.3" : "TLSv1.2");
    EXPECT_THAT(std::string(pair.server.stream->facts().cipher), HasSubstr("_GCM_"));
    EXPECT_FALSE(pair.server.stream->facts().resumed);
    pair.client.write("EHLO client.example\r\n");
    pair.server.write("250 mx.example.test\r\n");
    pair.run();
    EXPECT_EQ(pair.server.plain, "EHLO client.example\r\n");
    EXPECT_EQ(pair.client.plain, "250 mx.example.test\r\n");
    pair.client.stream->close();
    pair.run();
    EXPECT_TRUE(pair.server.ended);
    EXPECT_FALSE(pair.client.ended) << "one direction's end is not the other's";
  }
}

// [RFC 9266 §4.2]: the exporter's value with an empty context, which in TLS 1.2 is not the same as none.
TEST_P(Version, BothSidesBindToTheSameExportedValueAndNoOtherConnectionDoes) {
  const auto context = context_of({.certificates = {ecdsa().parsed()}});
  std::vector<std::string> seen;
  for (int connection = 0; connection < 2; ++connection) {
    Pair pair(*context, client_stream(client.get()));
    pair.run();
    ASSERT_TRUE(pair.server.secured && pair.client.secured);
    const std::string bound = pair.server.stream->channel_binding("tls-exporter");
    EXPECT_EQ(bound.size(), 32u);
    EXPECT_EQ(bound, pair.client.stream->channel_binding("tls-exporter"));
    std::string exported(32, '\0');
    const SSL* const ssl = static_cast<const Stream&>(*pair.client.stream).ssl();
    ASSERT_EQ(SSL_export_keying_material(const_cast<SSL*>(ssl), reinterpret_cast<std::uint8_t*>(exported.data()), 32,
                                         "EXPORTER-Channel-Binding", 24, nullptr, 0, 1),
              1);
    EXPECT_EQ(bound, exported);
    EXPECT_EQ(pair.server.stream->channel_binding("no-such-binding"), "");
    seen.push_back(bound);
  }
  EXPECT_NE(seen[0], seen[1]);
}

TEST_P(Version, HandshakesAtEverySplit) {
  const auto context = context_of({.certificates = {ecdsa().parsed()}});
  for (const std::size_t piece : {1u, 2u, 3u, 5u, 7u, 64u, 100u}) {
    Pair pair(*context, client_stream(client.get()));
    pair.run(piece);
    ASSERT_TRUE(pair.server.secured && pair.client.secured) << piece;
    pair.client.write(std::string(40'000, 'x'));
    pair.run(piece);
    EXPECT_EQ(pair.server.plain.size(), 40'000u) << piece;
  }
  // One border at each byte of the client's first flight, which is the only one a server reads without having answered.
  std::size_t hello = 2;
  for (std::size_t at = 1; at < hello; at += at < 32 ? 1 : 7) {
    Pair pair(*context, client_stream(client.get()));
    pair.client.turn(SIZE_MAX);
    const std::string flight = pair.client.output();
    hello = flight.size();
    pair.server.waiting = flight.substr(0, at);
    pair.server.turn(SIZE_MAX);
    ASSERT_FALSE(pair.server.failed) << at;
    pair.server.waiting = flight.substr(at);
    pair.run();
    ASSERT_TRUE(pair.server.secured) << at;
  }
  EXPECT_GT(hello, 100u);
}

TEST_P(Version, TruncatedHandshakesWaitAndBrokenOnesFail) {
  const auto context = context_of({.certificates = {ecdsa().parsed()}});
  Pair probe(*context, client_stream(client.get()));
  probe.client.turn(SIZE_MAX);
  const std::string flight = probe.client.output();
  for (std::size_t at = 0; at < flight.size(); ++at) {
    End server{.stream = context->make_stream()};
    std::string broken = flight;
    broken[at] = static_cast<char>(broken[at] ^ 0x55);
    server.waiting = broken;
    server.turn(SIZE_MAX);
    ASSERT_FALSE(server.secured) << at;
    // Whatever the byte was, the server waits for more or has refused it with a reason and an alert.
    if (server.failed) {
      EXPECT_FALSE(server.stream->status().ok()) << at;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Version, testing::Values(TLS1_2_VERSION, TLS1_3_VERSION),
                         [](const auto& test) { return test.param == TLS1_3_VERSION ? "Tls13" : "Tls12"; });

// --- what is chosen for whom -----------------------------------------------------------------------------------------

TEST(ServerContext, ShowsTheCertificateOfTheNameAndTheFirstToStrangers) {
  const auto context = context_of({.certificates = {ecdsa().parsed(), other().parsed()}});
  const auto client = client_context();
  const std::vector<std::pair<const char*, const MadeCertificate*>> cases = {{"mx.example.test", &ecdsa()},
                                                                             {"MX.Example.Test", &ecdsa()},
                                                                             {"other.example.test", &other()},
                                                                             {"a.wild.example.test", &ecdsa()},
                                                                             {"a.b.wild.example.test", &ecdsa()},
                                                                             {"unknown.example.test", &ecdsa()},
                                                                             {nullptr, &ecdsa()}};
  for (const auto& [name, wanted] : cases) {
    Pair pair(*context, client_stream(client.get(), name));
    pair.run();
    ASSERT_TRUE(pair.server.secured);
    EXPECT_TRUE(showed(pair.client, *wanted)) << (name == nullptr ? "no name" : name);
  }
}

TEST(ServerContext, ShowsTheKindThatTheClientCanVerify) {
  for (const bool rsa_first : {false, true}) {
    std::vector<std::shared_ptr<const Certificate>> both = {ecdsa().parsed(), rsa().parsed()};
    if (rsa_first) std::swap(both[0], both[1]);
    const auto context = context_of({.certificates = both});
    const std::uint16_t rsa_only[] = {SSL_SIGN_RSA_PSS_RSAE_SHA256, SSL_SIGN_RSA_PKCS1_SHA256};
    const std::uint16_t p384_only[] = {SSL_SIGN_ECDSA_SECP384R1_SHA384, SSL_SIGN_RSA_PSS_RSAE_SHA256};
    for (const std::uint16_t version : {std::uint16_t{TLS1_2_VERSION}, std::uint16_t{TLS1_3_VERSION}}) {
      for (const char* name : {"mx.example.test", "unknown.example.test"}) {
        auto client = client_context();
        SSL_CTX_set_max_proto_version(client.get(), version);
        {
          Pair pair(*context, client_stream(client.get(), name));
          pair.run();
          EXPECT_TRUE(showed(pair.client, ecdsa())) << "whoever can verify both gets ECDSA";
        }
        SSL_CTX_set_verify_algorithm_prefs(client.get(), rsa_only, std::size(rsa_only));
        {
          Pair pair(*context, client_stream(client.get(), name));
          pair.run();
          EXPECT_TRUE(showed(pair.client, rsa())) << "no ECDSA among the algorithms";
        }
        if (version == TLS1_3_VERSION) {
          SSL_CTX_set_verify_algorithm_prefs(client.get(), p384_only, std::size(p384_only));
          Pair pair(*context, client_stream(client.get(), name));
          pair.run();
          EXPECT_TRUE(showed(pair.client, rsa())) << "ECDSA, but not on this curve";
        }
      }
    }
    auto client = client_context();
    SSL_CTX_set_max_proto_version(client.get(), TLS1_2_VERSION);
    SSL_CTX_set_strict_cipher_list(client.get(), "ECDHE-RSA-AES128-GCM-SHA256");
    Pair pair(*context, client_stream(client.get()));
    pair.run();
    EXPECT_TRUE(showed(pair.client, rsa())) << "TLS 1.2 without an ECDSA suite";
  }
}

TEST(ServerContext, RefusesWhatIsOldOrWeak) {
  const auto context = context_of({.certificates = {rsa().parsed()}});
  const auto refused = [&](SSL_CTX* client) {
    Pair pair(*context, client_stream(client));
    pair.run();
    EXPECT_TRUE(pair.server.failed || pair.client.failed);
    return !pair.server.secured;
  };
  auto old = client_context();
  SSL_CTX_set_min_proto_version(old.get(), TLS1_VERSION);
  SSL_CTX_set_max_proto_version(old.get(), TLS1_1_VERSION);
  EXPECT_TRUE(refused(old.get())) << "TLS 1.1";
  for (const char* cipher : {"AES128-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "DES-CBC3-SHA"}) {
    auto weak = client_context();
    SSL_CTX_set_max_proto_version(weak.get(), TLS1_2_VERSION);
    ASSERT_EQ(SSL_CTX_set_strict_cipher_list(weak.get(), cipher), 1) << cipher;
    EXPECT_TRUE(refused(weak.get())) << cipher;
  }
}

// --- tickets ---------------------------------------------------------------------------------------------------------

class Tickets : public testing::TestWithParam<std::uint16_t> {
 protected:
  Tickets() {
    SSL_CTX_set_max_proto_version(client.get(), GetParam());
    SSL_CTX_set_app_data(client.get(), this);
    SSL_CTX_sess_set_new_cb(client.get(), [](SSL* ssl, SSL_SESSION* fresh) {
      static_cast<Tickets*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)))->session.reset(fresh);
      return 1;
    });
  }
  // Whether the server resumed; `session` is the newest ticket afterwards.
  bool connect(const net::TlsContext& context) {
    bssl::UniquePtr<SSL_SESSION> offered = std::move(session);
    Pair pair(context, client_stream(client.get(), nullptr, offered.get()));
    pair.run();
    pair.server.write("x");
    pair.run();
    EXPECT_TRUE(pair.server.secured) << pair.server.stream->status();
    EXPECT_EQ(pair.client.plain, "x");
    if (session == nullptr) session = std::move(offered);  // TLS 1.2 has no fresh one for a session resumed
    return pair.server.stream->facts().resumed;
  }

  bssl::UniquePtr<SSL_SESSION> session;
  bssl::UniquePtr<SSL_CTX> client = client_context();
};

TEST_P(Tickets, AreGoodForEveryContextWithTheSameKeys) {
  const auto keys = std::make_shared<TicketKeys>();
  const auto first = context_of({.certificates = {ecdsa().parsed()}, .ticket_keys = keys});
  const auto second = context_of({.certificates = {other().parsed()}, .ticket_keys = keys});
  EXPECT_FALSE(connect(*first));
  EXPECT_TRUE(connect(*first));
  EXPECT_TRUE(connect(*second)) << "a reload changes certificates, not the keys";
}

TEST_P(Tickets, AreNotGoodForOtherListenersNorWhereMoreIsAsked) {
  const auto keys = std::make_shared<TicketKeys>();
  const auto first = context_of({.certificates = {ecdsa().parsed()}, .ticket_keys = keys});
  const auto other_listener = context_of({.certificates = {ecdsa().parsed()}});
  const auto asking = context_of(
      {.certificates = {ecdsa().parsed()}, .client_certificates = ClientCertificates::optional, .ticket_keys = keys});
  EXPECT_FALSE(connect(*first));
  EXPECT_FALSE(connect(*other_listener));
  session.reset();
  EXPECT_FALSE(connect(*first));
  EXPECT_FALSE(connect(*asking));
}

TEST_P(Tickets, LiveForOneRotationAndNotForTwo) {
  const auto keys = std::make_shared<TicketKeys>();
  const auto context = context_of({.certificates = {ecdsa().parsed()}, .ticket_keys = keys});
  EXPECT_FALSE(connect(*context));
  keys->rotate();
  EXPECT_TRUE(connect(*context));
  keys->rotate();
  EXPECT_TRUE(connect(*context)) << "the ticket was renewed on the way";
  keys->rotate();
  keys->rotate();
  EXPECT_FALSE(connect(*context));
}

INSTANTIATE_TEST_SUITE_P(All, Tickets, testing::Values(TLS1_2_VERSION, TLS1_3_VERSION),
                         [](const auto& test) { return test.param == TLS1_3_VERSION ? "Tls13" : "Tls12"; });

// --- clients' certificates -------------------------------------------------------------------------------------------

struct Clients : testing::TestWithParam<std::uint16_t> {
  static const MadeCertificate& authority() {
    static const MadeCertificate made = make_certificate({.names = {"authority"}, .authority = true});
    return made;
  }
  // A handshake of a client with that certificate.
  std::unique_ptr<Pair> connect(const net::TlsContext& context, const MadeCertificate* certificate) {
    client = client_context();
    SSL_CTX_set_max_proto_version(client.get(), GetParam());
    if (certificate != nullptr) {
      SSL_CTX_use_certificate(client.get(), certificate->certificate.get());
      SSL_CTX_use_PrivateKey(client.get(), certificate->key.get());
    }
    auto pair = std::make_unique<Pair>(context, client_stream(client.get()));
    pair->run();
    return pair;
  }
  bssl::UniquePtr<SSL_CTX> client;
};

TEST_P(Clients, AreVerifiedWhenTheyShowACertificate) {
  const MadeCertificate good = make_certificate({.names = {"client"}, .issuer = &authority()});
  const MadeCertificate stranger = make_certificate({.names = {"stranger"}});
  const MadeCertificate expired = make_certificate({.names = {"late"}, .valid_until_s = -60, .issuer = &authority()});
  const auto digest_of = [](const MadeCertificate& certificate) {
    net::CertificateFingerprint digest;
    unsigned size = 0;
    X509_digest(certificate.certificate.get(), EVP_sha256(), reinterpret_cast<std::uint8_t*>(digest.data()), &size);
    return digest;
  };
  const auto make = [&](ClientCertificates mode, bool with_authority) {
    return context_of({.certificates = {ecdsa().parsed()},
                       .client_certificates = mode,
                       .client_authorities_pem = with_authority ? authority().chain_pem : ""});
  };
  const auto optional = make(ClientCertificates::optional, true);
  const auto required = make(ClientCertificates::required, true);
  const auto any = make(ClientCertificates::required, false);

  auto pair = connect(*optional, &good);
  EXPECT_TRUE(pair->server.stream->facts().peer_verified);
  EXPECT_EQ(pair->server.stream->facts().peer_fingerprint, digest_of(good));
  for (const MadeCertificate* wrong : {&stranger, &expired}) {
    pair = connect(*optional, wrong);
    EXPECT_TRUE(pair->server.secured);
    EXPECT_FALSE(pair->server.stream->facts().peer_verified);
    EXPECT_EQ(pair->server.stream->facts().peer_fingerprint, digest_of(*wrong));
  }
  pair = connect(*optional, nullptr);
  EXPECT_TRUE(pair->server.secured);
  EXPECT_FALSE(pair->server.stream->facts().peer_fingerprint);

  EXPECT_TRUE(connect(*required, &good)->server.stream->facts().peer_verified);
  for (const MadeCertificate* wrong : std::vector<const MadeCertificate*>{&stranger, &expired, nullptr}) {
    pair = connect(*required, wrong);
    EXPECT_FALSE(pair->server.secured);
    EXPECT_TRUE(pair->server.failed);
  }
  pair = connect(*any, &stranger);
  EXPECT_TRUE(pair->server.secured);
  EXPECT_FALSE(pair->server.stream->facts().peer_verified) << "nobody was named to vouch for it";
  EXPECT_FALSE(connect(*any, nullptr)->server.secured);
}

INSTANTIATE_TEST_SUITE_P(All, Clients, testing::Values(TLS1_2_VERSION, TLS1_3_VERSION),
                         [](const auto& test) { return test.param == TLS1_3_VERSION ? "Tls13" : "Tls12"; });

TEST(ServerContext, RefusesAuthoritiesThatAreNone) {
  const auto made = make_server_context({.certificates = {ecdsa().parsed()},
                                         .client_certificates = ClientCertificates::required,
                                         .client_authorities_pem = "nonsense",
                                         .ticket_keys = std::make_shared<const TicketKeys>()});
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
}

// --- hostile bytes ---------------------------------------------------------------------------------------------------

TEST(ServerContext, EndsAtGarbageWithAReason) {
  const auto context = context_of({.certificates = {ecdsa().parsed()}});
  const std::vector<std::string> inputs = {
      "EHLO client.example\r\n", std::string(100, '\0'), std::string(100, '\xFF'),
      // A record of 65,535 bytes; a handshake message of 16 MiB.
      std::string("\x16\x03\x01\xFF\xFF", 5) + std::string(70'000, 'x'),
      std::string("\x16\x03\x01\x40\x00\x01\xFF\xFF\xFF", 9) + std::string(16'384, 'x')};
  for (const std::string& input : inputs) {
    End server{.stream = context->make_stream()};
    server.waiting = input;
    server.turn(1000);
    EXPECT_TRUE(server.failed) << input.substr(0, 10);
    EXPECT_THAT(std::string(message_of(server.stream->status())), HasSubstr("TLS handshake: "));
  }
}

// Key updates are the nothing that a peer may ask answers to for ever.
TEST(ServerContext, AnswersToKeyUpdatesDoNotPileUp) {
  const auto context = context_of({.certificates = {ecdsa().parsed()}});
  const auto client = client_context();
  SSL_CTX_set_max_proto_version(client.get(), TLS1_3_VERSION);
  Pair pair(*context, client_stream(client.get()));
  pair.run();
  ASSERT_TRUE(pair.server.secured);
  SSL* const ssl = const_cast<SSL*>(static_cast<const Stream&>(*pair.client.stream).ssl());
  for (int i = 0; i < 10'000; ++i) {
    ASSERT_EQ(SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED), 1);
    pair.client.write("x");
    pair.server.waiting += pair.client.output();
  }
  pair.server.turn(SIZE_MAX);
  EXPECT_EQ(pair.server.plain.size(), 10'000u) << pair.server.stream->status();
  pair.server.write("y");
  EXPECT_LT(pair.server.output().size(), 1000u) << "one answer for all of them";

  // And without a byte in between they end the connection.
  for (int i = 0; i < 40; ++i) {
    ASSERT_EQ(SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
    std::byte none{};
    (void)SSL_write(ssl, &none, 0);
    pair.server.waiting += pair.client.output();
  }
  pair.server.turn(SIZE_MAX);
  EXPECT_TRUE(pair.server.failed);
  EXPECT_THAT(std::string(message_of(pair.server.stream->status())), HasSubstr("too many key updates"));
}

TEST(ServerContext, RefusesRenegotiation) {
  const auto context = context_of({.certificates = {ecdsa().parsed()}});
  const auto client = client_context();
  SSL_CTX_set_max_proto_version(client.get(), TLS1_2_VERSION);
  Pair pair(*context, client_stream(client.get()));
  pair.run();
  ASSERT_TRUE(pair.server.secured);
  // BoringSSL's client begins none by itself: a client hello as application would be, in the clear, is one too.
  pair.server.waiting = std::string("\x16\x03\x03\x00\x04\x01\x00\x00\x00", 9);
  pair.server.turn(SIZE_MAX);
  EXPECT_TRUE(pair.server.failed);
}

TEST(ServerContext, OutputIsBoundedAndGoesOnWhenItWasSent) {
  const auto context = context_of({.certificates = {ecdsa().parsed()}});
  const auto client = client_context();
  Pair pair(*context, client_stream(client.get()));
  pair.run();
  const std::string content(1u << 20, 'x');
  std::string_view rest = content;
  while (!rest.empty()) {
    const std::size_t before = rest.size();
    while (const std::size_t written = pair.server.stream->write(as_bytes(rest))) rest.remove_prefix(written);
    EXPECT_LT(rest.size(), before);
    const std::string output = pair.server.output();
    EXPECT_LE(output.size(), net::TlsStream::output_bytes_max);
    pair.client.waiting += output;
    pair.client.turn(SIZE_MAX);
  }
  EXPECT_EQ(pair.client.plain, content);
}

}  // namespace
}  // namespace postern::tls
