#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/random.h>

#include "harness.h"

namespace postern::net {
namespace {

using namespace std::chrono_literals;

// A random block of odd length over and over: cheap, and no two places that a mistake would mix up are alike.
std::string pattern(std::size_t size) {
  Random random(1);
  std::string block(65'537, '\0');
  for (char& c : block) c = static_cast<char>(random());
  std::string text;
  text.reserve(size);
  while (text.size() < size) text.append(block, 0, size - text.size());
  return text;
}

// Sends back what comes, one send at a time, taking nothing while one is in flight.
void make_echo(User& user) {
  struct Echo {
    std::string sending;
  };
  const auto echo = std::make_shared<Echo>();
  user.take = [&user, echo](std::string_view bytes) -> std::size_t {
    if (user.connection->sending()) return 0;
    echo->sending.assign(bytes);
    user.connection->send(as_bytes(echo->sending));
    return bytes.size();
  };
  user.after_sent = [&user] { user.connection->resume(); };
}

TEST(Connection, EchoesByteForByte) {
  Net net;
  Server server(net);
  server.prepare = make_echo;
  Peer peer(server.address());
  const std::string text = pattern(3'000'000);
  std::string_view rest = text;
  EXPECT_TRUE(net.run_until([&] {
    rest.remove_prefix(peer.send(rest));
    peer.receive();
    return peer.received.size() == text.size();
  }));
  EXPECT_TRUE(peer.received == text);
}

TEST(Connection, OffersTheRestAgainAfterResume) {
  Net net;
  Server server(net);
  std::vector<std::string> offers;
  server.prepare = [&](User& user) {
    user.take = [&](std::string_view bytes) -> std::size_t {
      offers.emplace_back(bytes);
      return 2;
    };
  };
  Peer peer(server.address());
  peer.send("abcdef");
  User& user = server.accept();
  EXPECT_TRUE(net.run_until([&] { return offers.size() == 1; }));
  net.run_for(20ms);
  EXPECT_EQ(offers.size(), 1u) << "nothing is offered before resume()";
  user.connection->resume();
  EXPECT_EQ(offers.size(), 1u) << "nor from within it";
  EXPECT_TRUE(net.run_until([&] { return offers.size() == 2; }));
  peer.send("gh");
  user.connection->resume();
  EXPECT_TRUE(net.run_until([&] { return offers.size() == 3; }));
  user.connection->resume();
  EXPECT_TRUE(net.run_until([&] { return offers.size() == 4; }));
  EXPECT_EQ(offers, (std::vector<std::string>{"abcdef", "cdef", "ef", "gh"}));
}

TEST(Connection, ResumeFromWithinOnReceivedOffersTheRestInTheNextTurn) {
  Net net;
  Server server(net);
  server.prepare = [](User& user) {
    user.take = [](std::string_view) -> std::size_t { return 1; };
    user.after_received = [&user] { user.connection->resume(); };
  };
  Peer peer(server.address());
  peer.send("abc");
  User& user = server.accept();
  EXPECT_TRUE(net.run_until([&] { return user.received == "abc"; }));
}

TEST(Connection, PausePutsPressureBackOnThePeer) {
  Net net;
  Server server(net);
  Peer peer(server.address());
  User& user = server.accept();
  user.connection->pause();
  const std::string text = pattern(24u << 20);
  std::size_t sent = 0;
  for (int idle = 0; idle < 20;) {
    const std::size_t size = peer.send(std::string_view(text).substr(sent));
    sent += size;
    idle = size == 0 ? idle + 1 : 0;
    net.turn(2ms);
  }
  EXPECT_LT(sent, text.size()) << "the peer had to stop";
  EXPECT_EQ(user.received, "");
  user.connection->resume();
  EXPECT_TRUE(net.run_until([&] {
    sent += peer.send(std::string_view(text).substr(sent));
    return user.received.size() == text.size();
  }));
  EXPECT_TRUE(user.received == text);
}

TEST(Connection, HalfClosedPeersGetTheirAnswer) {
  Net net;
  Server server(net);
  const std::string answer = pattern(1u << 20);
  server.prepare = [&](User& user) {
    user.after_end = [&] {
      user.connection->send(as_bytes(answer));
      user.connection->close_orderly(5s);
    };
  };
  Peer peer(server.address());
  peer.send("question");
  peer.end_sending();
  User& user = server.accept();
  EXPECT_TRUE(net.run_until([&] { return peer.receive(), peer.end; }));
  EXPECT_TRUE(peer.received == answer);
  EXPECT_TRUE(net.run_until([&] { return user.closed == 1; }));
  EXPECT_EQ(user.received, "question");
  EXPECT_EQ(user.ends, 1);
  EXPECT_EQ(user.sent, 0) << "after close_orderly() only on_closed() comes";
}

TEST(Connection, TheFarewellArrivesThoughThePeerGoesOnSending) {
  Net net;
  Server server(net);
  server.prepare = [](User& user) {
    user.after_received = [&user] {
      user.connection->send(as_bytes("221 2.0.0 Bye\r\n"));
      user.connection->close_orderly(5s);
    };
  };
  Peer peer(server.address());
  peer.send("QUIT\r\n");
  User& user = server.accept();
  EXPECT_TRUE(net.run_until([&] { return user.received == "QUIT\r\n"; }));
  const std::string more = pattern(200'000);
  for (int i = 0; i < 20; ++i) {
    peer.send(more);
    net.turn(1ms);
  }
  EXPECT_EQ(user.closed, 0) << "waits for the peer's FIN";
  EXPECT_TRUE(net.run_until([&] { return peer.receive(), peer.end || peer.error != 0; }));
  EXPECT_EQ(peer.error, 0);
  EXPECT_EQ(peer.received, "221 2.0.0 Bye\r\n");
  peer.close();
  EXPECT_TRUE(net.run_until([&] { return user.closed == 1; }));
  EXPECT_EQ(user.received, "QUIT\r\n") << "what comes behind is dropped";
}

TEST(Connection, LingersNoLongerThanItsTime) {
  Net net;
  Server server(net);
  Peer peer(server.address());
  User& user = server.accept();
  const Instant start = net.loop->clocks().monotonic;
  user.connection->close_orderly(60ms);
  EXPECT_TRUE(net.run_until([&] { return user.closed == 1; }));
  const Duration taken = net.loop->clocks().monotonic - start;
  EXPECT_GE(taken, 60ms);
  EXPECT_LT(taken, 2s);
  peer.receive();
  EXPECT_TRUE(peer.end);
}

TEST(Connection, APeerThatNeverReadsDoesNotHoldAnOrderlyClose) {
  Net net;
  Server server(net);
  Peer peer(server.address());
  User& user = server.accept();
  const std::string text = pattern(16u << 20);
  user.connection->send(as_bytes(text));
  user.connection->close_orderly(50ms);
  EXPECT_TRUE(net.run_until([&] { return user.closed == 1; }));
  EXPECT_EQ(user.lost, 0);
}

TEST(Connection, AResetIsALoss) {
  Net net;
  Server server(net);
  Peer peer(server.address());
  User& user = server.accept();
  peer.reset();
  EXPECT_TRUE(net.run_until([&] { return user.closed == 1; }));
  EXPECT_EQ(user.lost, 1);
  EXPECT_EQ(user.ends, 0);
}

TEST(Connection, AResetWhileSendingIsOneLoss) {
  Net net;
  Server server(net);
  Peer peer(server.address());
  User& user = server.accept();
  auto text = std::make_unique<std::string>(pattern(16u << 20));
  user.connection->send(as_bytes(*text));
  net.run_for(20ms);
  EXPECT_EQ(user.sent, 0);
  peer.reset();
  EXPECT_TRUE(net.run_until([&] { return user.closed == 1; }));
  text.reset();
  net.run_for(5ms);
  EXPECT_EQ(user.lost, 1);
  EXPECT_EQ(user.sent, 0);
}

TEST(Connection, OneSendMayBeOfAnySizeAndShape) {
  Net net;
  Server server(net);
  Peer peer(server.address());
  User& user = server.accept();
  std::string expected;
  const auto check = [&](std::span<const io::Slice> slices) {
    expected.clear();
    for (const io::Slice& slice : slices) expected += as_text({slice.data, slice.size});
    peer.received.clear();
    const int sent_before = user.sent;
    user.connection->send(slices);
    EXPECT_EQ(user.sent, sent_before) << "on_sent() never comes from within send()";
    EXPECT_TRUE(net.run_until([&] {
      peer.receive();
      return user.sent == sent_before + 1 && peer.received.size() >= expected.size();
    }));
    EXPECT_TRUE(peer.received == expected);
  };
  const std::string text = pattern(3u << 20);
  const auto slice = [&](std::size_t offset, std::size_t size) -> io::Slice {
    return {.data = as_bytes(text).data() + offset, .size = size};
  };
  check(std::vector<io::Slice>{slice(0, 1u << 20)});
  check(std::vector<io::Slice>{slice(0, 10), slice(10, 1u << 20), slice(7, 5)});
  check(
      std::vector<io::Slice>{slice(0, 0), slice(5, 256u << 10), slice(0, 0), slice(9, (256u << 10) + 1), slice(0, 0)});
  check({});
  check(std::vector<io::Slice>{slice(0, 0)});
  Random random(4);
  for (int round = 0; round < 5; ++round) {
    std::vector<io::Slice> slices;
    for (std::uint64_t i = random.below(400); i > 0; --i) {
      slices.push_back(slice(random.below(1u << 20), random.below(random.below(10) == 0 ? 300'000 : 3000)));
    }
    check(slices);
  }
}

TEST(Connection, AbortEndsAtOnceAndTellsOnlyThatItIsClosed) {
  const std::size_t descriptors = open_descriptors();
  {
    Net net;
    Server server(net);
    Peer peer(server.address());
    User& user = server.accept();
    const std::string text = pattern(16u << 20);
    user.connection->send(as_bytes(text));
    user.connection->abort();
    EXPECT_EQ(user.closed, 0) << "never from within the call";
    user.connection->abort();
    user.connection->close_orderly(1s);
    user.connection->send(as_bytes(text));
    EXPECT_TRUE(net.run_until([&] { return user.closed == 1; }));
    EXPECT_EQ(user.lost + user.sent + user.ends, 0);
  }
  EXPECT_EQ(open_descriptors(), descriptors);
}

TEST(Connection, MayEndWithinAnyOfItsCalls) {
  Net net;
  Server server(net);
  for (int round = 0; round < 6; ++round) {
    server.prepare = [round](User& user) {
      const auto end = [&user, round] {
        if (round % 2 == 0) {
          user.connection->abort();
        } else {
          user.connection->close_orderly(1s);
        }
      };
      if (round / 2 == 0) user.after_received = end;
      if (round / 2 == 1) user.after_end = end;
      if (round / 2 == 2) {
        user.after_received = [&user] { user.connection->send(as_bytes("reply")); };
        user.after_sent = end;
      }
    };
    Peer peer(server.address());
    peer.send("text");
    peer.end_sending();
    User& user = server.accept();
    EXPECT_TRUE(net.run_until([&] { return user.closed == 1; })) << round;
    EXPECT_EQ(user.lost, 0);
  }
}

TEST(Connection, ConnectsOut) {
  Net net;
  Server server(net);
  server.prepare = make_echo;
  User client;
  const auto connection = net.table.connect(server.address(), {}, 5s, client);
  ASSERT_TRUE(connection.ok());
  client.connection = *connection;
  EXPECT_FALSE(client.connection->open());
  EXPECT_TRUE(net.run_until([&] { return client.connected == 1; }));
  EXPECT_TRUE(client.connection->open());
  const std::string text = pattern(500'000);
  client.connection->send(as_bytes(text));
  EXPECT_TRUE(net.run_until([&] { return client.received.size() == text.size(); }));
  EXPECT_TRUE(client.received == text);
  client.connection->close_orderly(5s);
  EXPECT_TRUE(net.run_until([&] { return server.users.front().ends == 1; }));
  server.users.front().connection->close_orderly(5s);
  EXPECT_TRUE(net.run_until([&] { return client.closed == 1 && server.users.front().closed == 1; }));
}

TEST(Connection, ARefusedConnectIsALoss) {
  Net net;
  io::Address nobody;
  {
    Server server(net);
    nobody = server.address();
  }
  User client;
  ASSERT_TRUE(net.table.connect(nobody, {}, 5s, client).ok());
  EXPECT_TRUE(net.run_until([&] { return client.closed == 1; }));
  EXPECT_EQ(client.lost, 1);
  EXPECT_EQ(client.status.code(), StatusCode::kUnavailable);
}

TEST(Connection, AConnectWithoutAnswerEndsAtItsTime) {
  Net net;
  // A listen queue that is full drops what comes.
  const int listening = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(listening, reinterpret_cast<sockaddr*>(&any), sizeof any), 0);
  ASSERT_EQ(::listen(listening, 0), 0);
  socklen_t size = sizeof any;
  ASSERT_EQ(::getsockname(listening, reinterpret_cast<sockaddr*>(&any), &size), 0);
  const io::Address address = io::Address::from_kernel(reinterpret_cast<sockaddr*>(&any), size);
  Peer first(address);
  User second, third;
  ASSERT_TRUE(net.table.connect(address, {}, 5s, second).ok());
  net.run_for(20ms);
  ASSERT_TRUE(net.table.connect(address, {}, 50ms, third).ok());
  EXPECT_TRUE(net.run_until([&] { return third.closed == 1; }));
  EXPECT_EQ(third.status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(third.connected, 0);
  net.table.abort_all();
  EXPECT_TRUE(net.run_until([&] { return second.closed == 1; }));
  ::close(listening);
}

TEST(ConnectionTable, AFullTableTakesNoMore) {
  Net net({}, {.capacity = 1});
  Server server(net);
  Peer peer(server.address());
  (void)server.accept();
  User other;
  EXPECT_EQ(net.table.connect(server.address(), {}, 1s, other).status().code(), StatusCode::kResourceExhausted);
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(net.table.adopt(socket, other), nullptr);
  ::close(socket);
}

TEST(ConnectionTable, AllGetTheirBytesThroughFewerBuffersThanConnections) {
  Net net({.receive_buffers = 2, .receive_buffer_bytes = 4096});
  Server server(net);
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 24; ++i) {
    peers.push_back(std::make_unique<Peer>(server.address()));
    (void)server.accept();
  }
  const std::string text = pattern(60'000);
  for (const auto& peer : peers) ASSERT_EQ(peer->send(text), text.size());
  EXPECT_TRUE(net.run_until([&] {
    return std::all_of(server.users.begin(), server.users.end(),
                       [&](const User& user) { return user.received.size() == text.size(); });
  }));
  for (const User& user : server.users) EXPECT_TRUE(user.received == text);
  EXPECT_GT(net.table.starvations(), 0u);
}

TEST(ConnectionTable, ConnectionsThatWaitDoNotStarveTheOthers) {
  Net net({.receive_buffers = 4, .receive_buffer_bytes = 4096}, {.buffers_reserved = 2});
  Server server(net);
  server.prepare = [](User& user) { user.take = [](std::string_view) -> std::size_t { return 0; }; };
  std::vector<std::unique_ptr<Peer>> peers;
  const std::string text = pattern(3000);
  for (int i = 0; i < 12; ++i) {
    peers.push_back(std::make_unique<Peer>(server.address()));
    peers.back()->send(text);
    (void)server.accept();
  }
  net.run_for(20ms);
  server.prepare = make_echo;
  Peer peer(server.address());
  peer.send("hello");
  EXPECT_TRUE(net.run_until([&] { return peer.receive(), peer.received == "hello"; }));
  EXPECT_GE(net.loop->buffers_free(), 2u);
  for (std::size_t i = 0; i < 12; ++i) {
    User& user = server.users[i];
    user.take = [](std::string_view bytes) { return bytes.size(); };
    user.connection->resume();
  }
  EXPECT_TRUE(net.run_until([&] {
    return std::all_of(server.users.begin(), server.users.begin() + 12,
                       [&](const User& user) { return user.received == text; });
  }));
}

// Everything at once, in an order that nobody wrote down; what must hold is that each connection ends exactly once, all
// buffers and descriptors come back, and (under the sanitizers) that nothing touches what is gone.
TEST(ConnectionTable, SurvivesWhateverUsersAndPeersDo) {
  const std::size_t descriptors = open_descriptors();
  {
    Net net({.receive_buffers = 8, .receive_buffer_bytes = 4096}, {.buffers_reserved = 3});
    Server server(net);
    Random random(11);
    const std::string text = pattern(400'000);
    const auto act = [&](User& user) {
      if (user.connection == nullptr) return;
      switch (random.below(8)) {
        case 0:
          if (!user.connection->sending()) user.connection->send(as_bytes(text).first(random.below(text.size())));
          break;
        case 1:
          user.connection->pause();
          break;
        case 2:
        case 3:
        case 4:
          user.connection->resume();
          break;
        case 5:
          if (random.below(6) == 0) user.connection->abort();
          break;
        case 6:
          if (random.below(6) == 0) user.connection->close_orderly(Duration(random.below(30'000'000)));
          break;
        default:
          break;
      }
    };
    server.prepare = [&](User& user) {
      user.take = [&](std::string_view bytes) -> std::size_t {
        return random.below(3) == 0 ? random.below(bytes.size() + 1) : bytes.size();
      };
      user.after_received = user.after_sent = user.after_end = [&] { act(user); };
    };
    std::deque<Peer> peers;
    const io::Address address = server.address();
    for (int step = 0; step < 3000; ++step) {
      if (peers.size() < 300 && random.below(8) == 0) peers.emplace_back(address);
      if (!peers.empty()) {
        Peer& peer = peers[random.below(peers.size())];
        if (peer.descriptor >= 0) {
          switch (random.below(12)) {
            case 0:
              peer.end_sending();
              break;
            case 1:
              peer.reset();
              break;
            case 2:
              peer.close();
              break;
            case 3:
            case 4:
            case 5:
              peer.receive();
              break;
            default:
              peer.send(std::string_view(text).substr(0, random.below(20'000)));
          }
        }
      }
      if (!server.users.empty()) act(server.users[random.below(server.users.size())]);
      net.turn(Duration{0});
    }
    peers.clear();
    net.table.abort_all();
    EXPECT_TRUE(net.run_until([&] { return net.table.empty(); }));
    for (const User& user : server.users) EXPECT_EQ(user.closed, 1);
    EXPECT_EQ(net.loop->buffers_free(), 8u);
  }
  EXPECT_EQ(open_descriptors(), descriptors);
}

}  // namespace
}  // namespace postern::net
