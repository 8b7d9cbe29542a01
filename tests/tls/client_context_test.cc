// The TLS that is spoken with next hops, in memory, with a server from our own context: splits, whose certificate is
// good for what, sessions that are offered again, and our own certificate.
#include "tls/client_context.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tls/certificates.h"
#include "tests/tls/pair.h"

namespace postern::tls {
namespace {

using testing::HasSubstr;

const MadeCertificate& authority() {
  static const MadeCertificate made = make_certificate({.names = {"Test authority"}, .authority = true});
  return made;
}

std::shared_ptr<const net::TlsContext> server_of(const MadeCertificate& certificate,
                                                 ClientCertificates asked = ClientCertificates::none) {
  auto made =
      make_server_context({.certificates = {certificate.parsed()},
                           .client_certificates = asked,
                           .client_authorities_pem = asked == ClientCertificates::none ? "" : authority().chain_pem,
                           .ticket_keys = std::make_shared<const TicketKeys>()});
  EXPECT_TRUE(made.ok()) << made.status();
  return *made;
}

std::shared_ptr<const net::TlsClientContext> client_of(std::string authorities = authority().chain_pem,
                                                       std::shared_ptr<const Certificate> certificate = nullptr) {
  auto made = make_client_context({.authorities_pem = std::move(authorities), .certificate = std::move(certificate)});
  EXPECT_TRUE(made.ok()) << made.status();
  return *made;
}

net::TlsTarget target_of(std::vector<std::string> names, bool verify = true) {
  return {.server_name = "mx.example.test", .names = std::move(names), .verify = verify};
}

MadeCertificate signed_for(std::vector<std::string> names, long valid_until_s = 864'000) {
  return make_certificate({.names = std::move(names), .valid_until_s = valid_until_s, .issuer = &authority()});
}

// What the client says of a server that shows `certificate`; "": verified. And that it is the same unverified.
std::string verdict(const MadeCertificate& certificate, const std::vector<std::string>& names,
                    const net::TlsClientContext& context) {
  const auto server = server_of(certificate);
  Pair strict(*server, context.make_stream(target_of(names)));
  strict.run();
  EXPECT_NE(strict.client.secured, strict.client.failed);
  EXPECT_TRUE(strict.client.secured || !strict.server.secured) << "the server is told";
  EXPECT_EQ(strict.client.stream->facts().peer_verified, strict.client.secured);
  Pair lenient(*server, context.make_stream(target_of(names, false)));
  lenient.run();
  EXPECT_TRUE(lenient.client.secured && lenient.server.secured) << lenient.client.stream->status();
  EXPECT_EQ(lenient.client.stream->facts().peer_verified, strict.client.secured);
  return strict.client.secured ? "" : std::string(message_of(strict.client.stream->status()));
}

TEST(ClientContext, SpeaksWithAServerAtEverySplit) {
  const MadeCertificate certificate = signed_for({"mx.example.test"});
  const auto server = server_of(certificate);
  const auto client = client_of();
  for (const std::size_t piece : {1u, 2u, 3u, 5u, 7u, 64u, 100u, 100'000u}) {
    Pair pair(*server, client->make_stream(target_of({"mx.example.test"})));
    pair.run(piece);
    ASSERT_TRUE(pair.server.secured && pair.client.secured) << piece;
    EXPECT_EQ(pair.client.stream->facts().version, "TLSv1.3");
    EXPECT_TRUE(pair.client.stream->facts().peer_verified);
    pair.client.write(std::string(40'000, 'x'));
    pair.server.write("250 ok\r\n");
    pair.run(piece);
    EXPECT_EQ(pair.server.plain, std::string(40'000, 'x')) << piece;
    EXPECT_EQ(pair.client.plain, "250 ok\r\n");
    pair.client.stream->close();
    pair.run(piece);
    EXPECT_TRUE(pair.server.ended);
  }
}

TEST(ClientContext, TruncatedFlightsWaitAndBrokenOnesFail) {
  const MadeCertificate certificate = signed_for({"mx.example.test"});
  const auto server = server_of(certificate);
  const auto client = client_of();
  Pair probe(*server, client->make_stream(target_of({"mx.example.test"})));
  probe.client.turn(SIZE_MAX);
  probe.server.waiting = probe.client.output();
  probe.server.turn(SIZE_MAX);
  const std::size_t size = probe.server.output().size();
  ASSERT_GT(size, 500u);
  for (std::size_t at = 0; at < size; at += 17) {
    for (const bool broken : {false, true}) {
      Pair pair(*server, client->make_stream(target_of({"mx.example.test"})));
      pair.client.turn(SIZE_MAX);
      pair.server.waiting = pair.client.output();
      pair.server.turn(SIZE_MAX);
      std::string flight = pair.server.output();
      if (at >= flight.size()) continue;
      if (broken) {
        flight[at] = static_cast<char>(flight[at] ^ 0x55);
      } else {
        flight.resize(at);
      }
      pair.client.waiting = flight;
      pair.client.turn(SIZE_MAX);
      ASSERT_FALSE(pair.client.secured) << at;
      // A byte in a record's length may well be a longer one that is awaited.
      ASSERT_TRUE(broken || !pair.client.failed) << at;
    }
  }
}

TEST(ClientContext, ACertificateIsGoodForItsNamesByATrustedAuthority) {
  const auto client = client_of();
  const MadeCertificate good = signed_for({"MX.example.test", "*.wild.example.test"});
  EXPECT_EQ(verdict(good, {"mx.example.test"}, *client), "");
  EXPECT_EQ(verdict(good, {"a.wild.example.test"}, *client), "");
  EXPECT_EQ(verdict(good, {"other.example.test", "mx.example.test"}, *client), "") << "one of them is enough";
  constexpr const char* not_for = "TLS handshake: the certificate is not for ";
  EXPECT_EQ(verdict(good, {"example.test"}, *client), std::string(not_for) + "example.test");
  EXPECT_EQ(verdict(good, {"wild.example.test"}, *client), std::string(not_for) + "wild.example.test");
  EXPECT_EQ(verdict(good, {"a.b.wild.example.test"}, *client), std::string(not_for) + "a.b.wild.example.test");
  EXPECT_EQ(verdict(good, {"x.test", "y.test"}, *client),
            std::string(not_for) + "x.test nor another name that was given");
  EXPECT_EQ(verdict(good, {"[192.0.2.1]"}, *client), std::string(not_for) + "[192.0.2.1]");
  EXPECT_EQ(verdict(good, {}, *client), std::string(not_for) + "any name");
  EXPECT_THAT(verdict(signed_for({"mx.example.test"}, -60), {"mx.example.test"}, *client), HasSubstr("has expired"));
  EXPECT_THAT(verdict(make_certificate({.names = {"mx.example.test"}}), {"mx.example.test"}, *client),
              HasSubstr("is not to be trusted: self signed certificate"));
  const MadeCertificate stranger = make_certificate({.names = {"Stranger"}, .authority = true});
  EXPECT_THAT(
      verdict(make_certificate({.names = {"mx.example.test"}, .issuer = &stranger}), {"mx.example.test"}, *client),
      HasSubstr("is not to be trusted: "));
  EXPECT_THAT(verdict(good, {"mx.example.test"}, *client_of("")), HasSubstr("is not to be trusted: "))
      << "without authorities nobody is";
}

TEST(ClientContext, ACommonNameIsNoName) {
  // Signed, but with a common name alone.
  MadeCertificate made = make_certificate({.issuer = &authority()});
  EXPECT_THAT(verdict(made, {"nobody"}, *client_of()), HasSubstr("is not for nobody"));
}

TEST(ClientContext, SessionsAreOfferedAgain) {
  const MadeCertificate certificate = signed_for({"mx.example.test"});
  const auto server = server_of(certificate);
  const auto client = client_of();
  std::shared_ptr<const net::TlsSession> session;
  for (int round = 0; round < 3; ++round) {
    net::TlsTarget target = target_of({"mx.example.test"});
    target.session = session;
    Pair pair(*server, client->make_stream(std::move(target)));
    pair.run();
    ASSERT_TRUE(pair.client.secured);
    pair.server.write("250 ok\r\n");  // its tickets go with the first bytes
    pair.run();
    EXPECT_EQ(pair.client.stream->facts().resumed, round > 0);
    EXPECT_TRUE(pair.client.stream->facts().peer_verified) << "what was found out the first time stands";
    session = pair.client.stream->take_session();
    EXPECT_NE(session, nullptr);
    EXPECT_EQ(pair.client.stream->take_session(), nullptr) << "each is given once";
  }
  // Where the server knows nothing of it any more, the whole handshake is made.
  const auto another = server_of(certificate);
  net::TlsTarget target = target_of({"mx.example.test"});
  target.session = session;
  Pair pair(*another, client->make_stream(std::move(target)));
  pair.run();
  EXPECT_TRUE(pair.client.secured);
  EXPECT_FALSE(pair.client.stream->facts().resumed);
}

TEST(ClientContext, ShowsItsCertificateWhenAsked) {
  const MadeCertificate certificate = signed_for({"mx.example.test"});
  const auto server = server_of(certificate, ClientCertificates::required);
  for (const KeyKind kind : {KeyKind::ecdsa, KeyKind::rsa}) {
    const MadeCertificate own = make_certificate({.names = {"us.example.test"}, .kind = kind, .issuer = &authority()});
    Pair pair(*server, client_of(authority().chain_pem, own.parsed())->make_stream(target_of({"mx.example.test"})));
    pair.run();
    ASSERT_TRUE(pair.client.secured && pair.server.secured) << pair.server.stream->status();
    EXPECT_TRUE(pair.server.stream->facts().peer_verified);
    EXPECT_EQ(pair.client.tasks, kind == KeyKind::rsa ? 1 : 0) << "RSA signatures are made elsewhere";
  }
  Pair without(*server, client_of()->make_stream(target_of({"mx.example.test"})));
  without.run();
  EXPECT_TRUE(without.server.failed);
  EXPECT_TRUE(without.client.failed);
  EXPECT_THAT(std::string(message_of(without.client.stream->status())), HasSubstr("certificate required"));
}

TEST(ClientContext, AuthoritiesMustBeReadable) {
  const auto why = [](std::string pem) {
    return std::string(message_of(make_client_context({.authorities_pem = std::move(pem)}).status()));
  };
  EXPECT_EQ(why("nothing"), "no certificate in PEM form");
  std::string broken = signed_for({"mx.example.test"}).chain_pem;
  broken[broken.size() / 2] = '!';
  EXPECT_EQ(why(authority().chain_pem + broken), "certificate 2 cannot be read");
  EXPECT_EQ(why(authority().chain_pem + "\nand text behind it\n"), "");
}

}  // namespace
}  // namespace postern::tls
