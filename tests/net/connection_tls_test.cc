// What a Connection does around a TlsStream, with one that changes no byte: handshakes, rests, ends, in every order.
#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "net/connection.h"
#include "tests/net/harness.h"
#include "tests/net/transparent_tls.h"

namespace postern::net {
namespace {

using namespace std::chrono_literals;

struct Secured {
  explicit Secured(bool with_task = false, Duration timeout = 10s) : server(net), peer(server.address()) {
    user = &server.accept();
    user->connection->start_tls(std::make_unique<TransparentTls>(with_task), timeout);
  }
  void shake_hands() {
    (void)peer.send("hello\n");
    ASSERT_TRUE(hear("HELLO\n"));
    ASSERT_TRUE(user->connection->secured());
    peer.received.clear();
  }
  // Until the peer has received exactly that.
  [[nodiscard]] bool hear(std::string_view text) {
    return net.run_until([&] {
      peer.receive();
      return peer.received.size() >= text.size();
    }) && peer.received == text;
  }

  Net net;
  Server server;
  Peer peer;
  User* user = nullptr;
};

TEST(ConnectionTls, ShakesHandsAndCarriesBytesBothWays) {
  for (const bool with_task : {false, true}) {
    Secured it(with_task);
    for (const char* piece : {"h", "ell", "o\nfirst"}) {
      (void)it.peer.send(piece);
      it.net.run_for(2ms);
    }
    ASSERT_TRUE(it.net.run_until([&] { return it.user->received == "first"; }));
    EXPECT_TRUE(it.hear("HELLO\n"));
    it.user->connection->send(as_bytes("second"));
    EXPECT_TRUE(it.hear("HELLO\nsecond"));
    EXPECT_TRUE(it.net.run_until([&] { return it.user->sent == 1; }));
  }
}

TEST(ConnectionTls, TakesWhatWasHeldInTheClearAsTheHandshakesInput) {
  Net net;
  Server server(net);
  Peer peer(server.address());
  User& user = server.accept();
  user.take = [](std::string_view bytes) { return std::min<std::size_t>(bytes.size(), 9); };
  (void)peer.send("STARTTLS\nhello\nbehind");
  ASSERT_TRUE(net.run_until([&] { return user.received == "STARTTLS\n"; }));
  user.take = [](std::string_view bytes) { return bytes.size(); };
  user.connection->start_tls(std::make_unique<TransparentTls>(), 10s);
  EXPECT_TRUE(net.run_until([&] { return user.received == "STARTTLS\nbehind"; }));
}

TEST(ConnectionTls, OffersTheRestAgainAfterResume) {
  Secured it;
  it.shake_hands();
  it.user->take = [](std::string_view bytes) { return std::min<std::size_t>(bytes.size(), 3); };
  std::string text;
  for (int i = 0; i < 300; ++i) text += std::to_string(i) + ",";
  (void)it.peer.send(text);
  EXPECT_TRUE(it.net.run_until([&] {
    if (it.user->connection != nullptr) it.user->connection->resume();
    return it.user->received.size() == text.size();
  }));
  EXPECT_EQ(it.user->received, text);
}

TEST(ConnectionTls, ReadsNoMoreWhileTheUserTakesNothing) {
  Secured it;
  it.shake_hands();
  it.user->take = [](std::string_view) { return std::size_t{0}; };
  (void)it.peer.send(std::string(5000, 'x') + "\x04");
  it.net.run_for(30ms);
  EXPECT_EQ(it.user->received, "");
  EXPECT_EQ(it.user->ends, 0) << "the end comes behind the last byte";
  it.user->take = [](std::string_view bytes) { return bytes.size(); };
  it.user->connection->resume();
  EXPECT_TRUE(it.net.run_until([&] { return it.user->ends == 1; }));
  EXPECT_EQ(it.user->received, std::string(5000, 'x'));
}

TEST(ConnectionTls, ManyTimesItsBufferLeavesInOrder) {
  Secured it;
  it.shake_hands();
  std::string text;
  for (int i = 0; text.size() < 3'000'000; ++i) text += std::to_string(i) + " ";
  const io::Slice slices[] = {{reinterpret_cast<const std::byte*>(text.data()), 10},
                              {nullptr, 0},
                              {reinterpret_cast<const std::byte*>(text.data()) + 10, text.size() - 10}};
  it.user->connection->send(slices);
  EXPECT_TRUE(it.hear(text));
  EXPECT_TRUE(it.net.run_until([&] { return it.user->sent == 1; }));
}

TEST(ConnectionTls, AnEmptySendIsSent) {
  Secured it;
  it.shake_hands();
  it.user->connection->send(Bytes{});
  EXPECT_TRUE(it.net.run_until([&] { return it.user->sent == 1; }));
}

TEST(ConnectionTls, AFinIsAnEndAsACloseNotifyIs) {
  for (const char* last : {"", "\x04"}) {
    Secured it;
    it.shake_hands();
    (void)it.peer.send(std::string("text") + last);
    if (*last == '\0') it.peer.end_sending();
    ASSERT_TRUE(it.net.run_until([&] { return it.user->ends == 1; }));
    EXPECT_EQ(it.user->received, "text");
    it.user->connection->send(as_bytes("last words"));
    ASSERT_TRUE(it.net.run_until([&] { return it.user->sent == 1; }));
    it.user->connection->close_orderly(10s);
    EXPECT_TRUE(it.hear("last words\x04"));
    it.peer.close();
    EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; }));
    EXPECT_EQ(it.user->lost, 0);
  }
}

TEST(ConnectionTls, ClosesOrderlyBehindWhatItSends) {
  Secured it;
  it.shake_hands();
  const std::string text(1'000'000, 'x');
  it.user->connection->send(as_bytes(text));
  it.user->connection->close_orderly(10s);
  EXPECT_TRUE(it.hear(text + "\x04"));
  EXPECT_TRUE(it.net.run_until([&] {
    it.peer.receive();
    return it.peer.end;
  }));
  it.peer.close();
  EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; }));
}

TEST(ConnectionTls, SaysWhyAHandshakeOrARecordIsRefused) {
  {
    Secured it;
    (void)it.peer.send("EHLO there\r\n");
    EXPECT_TRUE(it.hear("ALERT"));
    EXPECT_EQ(it.user->lost, 1);
    EXPECT_EQ(message_of(it.user->status), "TLS handshake: no hello");
    it.peer.close();
    EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; }));
  }
  {
    Secured it;
    it.shake_hands();
    (void)it.peer.send("text\x15more");
    EXPECT_TRUE(it.hear("ALERT"));
    EXPECT_EQ(it.user->received, "text");
    EXPECT_EQ(message_of(it.user->status), "TLS: broken");
    it.peer.close();
    EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; }));
  }
  {  // A peer that keeps its end open is not waited for.
    Secured it;
    (void)it.peer.send("nonsense");
    EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; }));
  }
}

TEST(ConnectionTls, AHandshakeEndsWithItsTimeItsPeerOrItsUser) {
  {
    Secured it(false, 20ms);
    (void)it.peer.send("hel");
    EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; }));
    EXPECT_EQ(it.user->status.code(), StatusCode::kDeadlineExceeded);
  }
  {
    Secured it;
    (void)it.peer.send("hel");
    it.peer.end_sending();
    EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; }));
    EXPECT_EQ(message_of(it.user->status), "TLS handshake: the peer closed the connection");
  }
  for (const bool orderly : {false, true}) {
    Secured it(true);
    (void)it.peer.send("hello\n");
    it.net.turn();
    if (orderly) {
      it.user->connection->close_orderly(20ms);
    } else {
      it.user->connection->abort();  // a task may be under way
    }
    EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; }));
    EXPECT_EQ(it.user->lost, 0);
  }
}

TEST(ConnectionTls, AResetIsALoss) {
  Secured it;
  it.shake_hands();
  (void)it.peer.send("text");
  ASSERT_TRUE(it.net.run_until([&] { return it.user->received == "text"; }));
  it.peer.reset();
  EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; }));
  EXPECT_EQ(it.user->lost, 1);
}

TEST(ConnectionTls, MayBeAbortedFromWithinEveryCall) {
  for (const int when : {0, 1, 2}) {
    Secured it;
    it.shake_hands();
    if (when == 0) it.user->after_received = [&] { it.user->connection->abort(); };
    if (when == 1) it.user->after_sent = [&] { it.user->connection->abort(); };
    if (when == 2) it.user->after_end = [&] { it.user->connection->abort(); };
    it.user->connection->send(as_bytes("x"));
    (void)it.peer.send("text\x04");
    EXPECT_TRUE(it.net.run_until([&] { return it.user->closed == 1; })) << when;
  }
}

}  // namespace
}  // namespace postern::net
