// What peers that mean no good come to within TLS: records rightly encrypted that never end, say nothing, or are no
// data; and hellos of every size.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tls/certificates.h"
#include "tests/tls/forger.h"
#include "tests/tls/pair.h"
#include "tls/server_context.h"

namespace postern::tls {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

std::shared_ptr<const net::TlsContext> make_context() {
  ServerContextOptions options;
  options.certificates = {make_certificate({.names = {"mx.example.test"}}).parsed()};
  options.ticket_keys = std::make_shared<const TicketKeys>();
  return *make_server_context(std::move(options));
}

class Hostile : public testing::TestWithParam<std::uint16_t> {
 protected:
  // What the server makes of it; and that, once failed, it stays so and has an alert to say, no more.
  void expect_failure(std::string_view records, const testing::Matcher<std::string>& why) {
    End& server = forger.server();
    server.waiting = records;
    server.turn(SIZE_MAX);
    EXPECT_TRUE(server.failed);
    EXPECT_THAT(std::string(message_of(server.stream->status())), why);
    EXPECT_LT(server.output().size(), 100u);
    EXPECT_EQ(server.stream->write(as_bytes("220")), 0u) << "nothing is said behind an alert";
  }

  std::shared_ptr<const net::TlsContext> context = make_context();
  Forger forger{*context, GetParam()};
};

TEST_P(Hostile, RecordsMadeByHandAreRead) {
  End& server = forger.server();
  server.waiting = forger.record(data_record, "EHLO client\r\n");
  server.waiting += forger.record(data_record, "QUIT\r\n");
  server.turn(SIZE_MAX);
  EXPECT_EQ(server.plain, "EHLO client\r\nQUIT\r\n") << server.stream->status();
}

TEST_P(Hostile, EmptyRecordsAreReadBetweenOthersAndEndThemselves) {
  End& server = forger.server();
  for (int i = 0; i < 1000; ++i) {
    server.waiting += forger.record(data_record, "");
    server.waiting += forger.record(data_record, "x");
  }
  server.turn(SIZE_MAX);
  EXPECT_EQ(server.plain, std::string(1000, 'x')) << server.stream->status();
  std::string many;
  for (int i = 0; i < 100; ++i) many += forger.record(data_record, "");
  expect_failure(many, HasSubstr("empty fragments"));
}

TEST_P(Hostile, WarningsEndThemselves) {
  std::string many;
  for (int i = 0; i < 100; ++i) many += forger.record(alert_record, std::string("\x01\x5A", 2));
  expect_failure(many, HasSubstr("TLS: "));
}

TEST_P(Hostile, AnAlertOfAnOddSizeEnds) {
  expect_failure(forger.record(alert_record, std::string(3, '\x01')), HasSubstr("TLS: "));
}

// Renegotiation, tickets from a client, certificates nobody asked for, a second Finished; of key updates 1.3 knows one.
TEST_P(Hostile, NoMessageOfAHandshakeIsTakenBehindIt) {
  for (const int type : {0, 1, 2, 4, 8, 11, 13, 14, 15, 16, 20, 21, 67, 254, 255}) {
    SCOPED_TRACE(type);
    Forger fresh(*context, GetParam());
    End& server = fresh.server();
    std::string message = {static_cast<char>(type), 0, 0, 4};
    message += "abcd";
    for (int i = 0; i < 100; ++i) server.waiting += fresh.record(handshake_record, message);
    server.turn(SIZE_MAX);
    EXPECT_TRUE(server.failed);
    EXPECT_EQ(server.plain, "");
    EXPECT_LT(server.output().size(), 100u);
  }
}

TEST_P(Hostile, AMessageWithoutEndIsNotCollected) {
  std::string records = forger.record(handshake_record, std::string("\x18\xFF\xFF\xFF", 4));
  for (int i = 0; i < 64; ++i) records += forger.record(handshake_record, std::string(16'000, 'x'));
  expect_failure(records, HasSubstr("TLS: "));
}

TEST_P(Hostile, ARecordBeyondTheSizeEnds) {
  const std::string record = forger.record(data_record, std::string(net::TlsStream::record_bytes_max + 1, 'x'));
  expect_failure(record, AnyOf(HasSubstr("length too long"), HasSubstr("data length")));
}

TEST_P(Hostile, AChangeOfCipherBehindTheHandshakeEnds) {
  expect_failure(forger.record(change_cipher_record, "\x01"), HasSubstr("TLS: "));
}

TEST_P(Hostile, AByteChangedAnywhereInARecordEndsIt) {
  const std::string record = forger.record(data_record, "MAIL FROM:<a@client.test>\r\n");
  for (std::size_t at = 0; at < record.size(); ++at) {
    Forger fresh(*context, GetParam());
    std::string broken = fresh.record(data_record, "MAIL FROM:<a@client.test>\r\n");
    broken[at] = static_cast<char>(broken[at] ^ 0x01);
    fresh.server().waiting = broken;
    fresh.server().turn(SIZE_MAX);
    EXPECT_EQ(fresh.server().plain, "") << at;
    // A length beyond the truth waits for its bytes.
    if (at != 3 && at != 4) {
      EXPECT_TRUE(fresh.server().failed) << at;
    }
  }
}

TEST_P(Hostile, ARecordSaidTwiceEnds) {
  const std::string record = forger.record(data_record, "RSET\r\n");
  End& server = forger.server();
  server.waiting = record + record;
  server.turn(SIZE_MAX);
  EXPECT_TRUE(server.failed);
  EXPECT_EQ(server.plain, "RSET\r\n");
}

TEST_P(Hostile, HellosOfEverySizeAreReadOrRefused) {
  for (const std::size_t size : {1000u, 5000u, 12'000u, 15'000u, 17'000u, 40'000u}) {
    auto client = client_context();
    SSL_CTX_set_max_proto_version(client.get(), GetParam());
    std::string protocols;
    while (protocols.size() < size) protocols += std::string(1, '\x20') + std::string(32, 'p');
    SSL_CTX_set_alpn_protos(client.get(), reinterpret_cast<const std::uint8_t*>(protocols.data()),
                            static_cast<unsigned>(protocols.size()));
    for (const std::size_t piece : {std::size_t{100}, std::size_t{SIZE_MAX}}) {
      Pair pair(*context, client_stream(client.get()));
      pair.run(piece);
      EXPECT_EQ(pair.server.secured, size < 16'000) << size;
      EXPECT_EQ(pair.server.failed, size > 16'000) << size;
    }
  }
}

TEST_P(Hostile, ATicketOfNonsenseIsAFullHandshake) {
  auto client = client_context();
  SSL_CTX_set_max_proto_version(client.get(), GetParam());
  for (const std::size_t size : {1u, 16u, 47u, 48u, 200u, 10'000u}) {
    Pair first(*context, client_stream(client.get()));
    first.run();
    bssl::UniquePtr<SSL_SESSION> session(
        SSL_get1_session(const_cast<SSL*>(static_cast<const Stream&>(*first.client.stream).ssl())));
    const std::vector<std::uint8_t> nonsense(size, 0x41);
    ASSERT_EQ(SSL_SESSION_set_ticket(session.get(), nonsense.data(), nonsense.size()), 1);
    Pair second(*context, client_stream(client.get(), nullptr, session.get()));
    second.run();
    EXPECT_TRUE(second.server.secured) << size << ": " << second.server.stream->status();
    EXPECT_FALSE(second.server.stream->facts().resumed) << size;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Hostile, testing::Values(TLS1_2_VERSION, TLS1_3_VERSION),
                         [](const auto& test) { return test.param == TLS1_3_VERSION ? "Tls13" : "Tls12"; });

}  // namespace
}  // namespace postern::tls
