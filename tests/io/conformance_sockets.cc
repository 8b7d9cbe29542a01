// Conformance: sockets.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/io/conformance.h"

namespace postern::io::testing {
namespace {

using namespace std::chrono_literals;

std::string pattern(std::size_t size) {
  std::string text(size, '\0');
  std::minstd_rand random(7);
  for (char& each : text) each = static_cast<char>(random() >> 8);
  return text;
}

TEST_P(Conformance, OneAcceptServesManyConnectionsAndTellsTheirPeers) {
  start();
  const Descriptor listener = listen_anywhere();
  const Address address = address_of(listener);
  const Token accepting = token();
  loop().accept(listener, accepting);
  constexpr std::size_t connections = 20;
  std::vector<Descriptor> clients;
  std::vector<std::string> peers;
  for (std::size_t i = 0; i < connections; ++i) {
    clients.push_back(open_to(address));
    const Token connecting = token();
    loop().connect(clients.back(), address, connecting);
    ASSERT_EQ(await(connecting).result, 0);
    peers.push_back(address_of(clients.back()).to_string());
  }
  // A multishot accept may end at any time; then it is started again.
  while (seen().of(accepting).size() < connections) {
    if (await(accepting, seen().of(accepting).size() + 1).more) continue;
    loop().accept(listener, accepting);
  }
  std::vector<std::string> seen_peers;
  for (const Event& event : seen().of(accepting)) {
    ASSERT_GE(event.result, 0);
    seen_peers.push_back(event.peer.to_string());
    close(event.result);
  }
  std::sort(peers.begin(), peers.end());
  std::sort(seen_peers.begin(), seen_peers.end());
  EXPECT_EQ(seen_peers, peers);
  for (const Descriptor client : clients) close(client);
  loop().cancel(accepting);
  const Event last = await(accepting, connections + 1);
  EXPECT_EQ(last.result, -ECANCELED);
  EXPECT_FALSE(last.more);
  close(listener);
}

TEST_P(Conformance, NothingCompletesWithinTheCallThatStartsIt) {
  start();
  const Token connecting = token();
  const Descriptor client = open_to(*Address::parse("127.0.0.1:1"));
  loop().connect(client, *Address::parse("127.0.0.1:1"), connecting);
  EXPECT_FALSE(has_come(connecting));
  EXPECT_LT(await(connecting).result, 0);
  EXPECT_EQ(seen().of(connecting).size(), 1u);
  close(client);
}

TEST_P(Conformance, ConnectIsRefusedWhereNobodyListens) {
  start();
  const Descriptor listener = listen_anywhere();
  const Address address = address_of(listener);
  close(listener);
  const Descriptor client = open_to(address);
  const Token connecting = token();
  loop().connect(client, address, connecting);
  EXPECT_EQ(await(connecting).result, -ECONNREFUSED);
  close(client);
}

TEST_P(Conformance, ConnectThatNobodyAnswersEndsByCancel) {
  start();
  // A listener that never accepts: when its backlog is full, further connections get no answer.
  const Descriptor listener = listen_anywhere(1);
  const Address address = address_of(listener);
  std::vector<Descriptor> clients;
  Token unanswered;
  do {
    ASSERT_LT(clients.size(), 16u) << "the backlog never fills";
    clients.push_back(open_to(address));
    unanswered = token();
    loop().connect(clients.back(), address, unanswered);
    const Instant deadline = loop().clocks().monotonic + 200ms;
    while (!has_come(unanswered) && loop().clocks().monotonic < deadline) (void)loop().run_once(seen(), deadline);
  } while (has_come(unanswered));
  loop().cancel(unanswered);
  EXPECT_EQ(await(unanswered).result, -ECANCELED);
  for (const Descriptor client : clients) close(client);
  close(listener);
}

TEST_P(Conformance, ConnectionComesFromTheSourceAddressAskedFor) {
  start();
  const Descriptor listener = listen_anywhere();
  const Address address = address_of(listener);
  const auto client = loop().open_stream(address, *Address::parse("127.0.0.2:0"));
  ASSERT_TRUE(client.ok()) << client.status().message();
  const Token accepting = token();
  loop().accept(listener, accepting);
  loop().connect(*client, address, token());
  const Event accepted = await(accepting);
  ASSERT_GE(accepted.result, 0);
  EXPECT_EQ(accepted.peer.ip().to_string(), "127.0.0.2");
  close({.client = *client, .server = accepted.result});
  loop().cancel(accepting);
  (void)await(accepting, 2);
  close(listener);
  const auto foreign = loop().open_stream(address, *Address::parse("192.0.2.1:0"));
  EXPECT_EQ(foreign.status().code(), StatusCode::kInvalidArgument) << "not an address of this machine";
}

TEST_P(Conformance, Ipv6AndIpv4ListenersShareAPort) {
  start();
  const auto six = loop().listen(*Address::parse("[::]:0"), {.reuse_port = false});
  if (!six.ok()) GTEST_SKIP() << "no IPv6 here: " << six.status().message();
  const std::uint16_t port = address_of(*six).port();
  const auto four = loop().listen(Address::ip(IpAddress::v4({0, 0, 0, 0}), port), {.reuse_port = false});
  EXPECT_TRUE(four.ok()) << four.status().message();
  const Address local = *Address::parse("[::1]:" + std::to_string(port));
  const Descriptor client = open_to(local);
  const Token accepting = token();
  const Token connecting = token();
  loop().accept(*six, accepting);
  loop().connect(client, local, connecting);
  EXPECT_EQ(await(connecting).result, 0);
  const Event accepted = await(accepting);
  EXPECT_EQ(accepted.peer, address_of(client));
  close({.client = client, .server = accepted.result});
  loop().cancel(accepting);
  (void)await(accepting, 2);
  close(*six);
  if (four.ok()) close(*four);
}

TEST_P(Conformance, ListeningWhereAnotherListensIsAlreadyExists) {
  start();
  const auto listener = loop().listen(*Address::parse("127.0.0.1:0"), {.reuse_port = false});
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  const Address address = address_of(*listener);
  const auto again = loop().listen(address, {.reuse_port = false});
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.status().code(), StatusCode::kAlreadyExists);
  EXPECT_NE(message_of(again.status()).find(address.to_string()), std::string_view::npos);
  close(*listener);
}

TEST_P(Conformance, ListenersOfOnePortShareItWhenAllAskForIt) {
  start();
  const Descriptor first = listen_anywhere();
  const auto second = loop().listen(address_of(first), {.reuse_port = true});
  ASSERT_TRUE(second.ok()) << second.status().message();
  close(first);
  close(*second);
}

TEST_P(Conformance, SendToASlowReaderCompletesOnceAndWhole) {
  start();
  const Pair pair = connected();
  const std::string text = pattern(8u << 20);
  const Slice slice{.data = as_bytes(text).data(), .size = text.size()};
  const Token sending = token();
  loop().send(pair.client, {&slice, 1}, sending);
  settle(20ms);
  EXPECT_FALSE(has_come(sending)) << "more than the socket buffers take";
  EXPECT_EQ(receive(pair.server, text.size()), text);
  EXPECT_EQ(await(sending).result, static_cast<std::int32_t>(text.size()));
  close(pair);
}

TEST_P(Conformance, SlicesArriveInOrder) {
  start();
  const Pair pair = connected();
  const std::string text = pattern(6u << 20);
  std::vector<Slice> slices;
  std::size_t at = 0;
  for (std::size_t i = 0; i < Loop::slices_max; ++i) {
    // Sizes from nothing to some hundred KiB; the last takes the rest.
    const std::size_t size = i + 1 < Loop::slices_max ? i * 3'001 : text.size() - at;
    slices.push_back({.data = as_bytes(text).data() + at, .size = size});
    at += size;
  }
  const Token sending = token();
  loop().send(pair.client, slices, sending);
  EXPECT_EQ(receive(pair.server, text.size()), text);
  EXPECT_EQ(await(sending).result, static_cast<std::int32_t>(text.size()));
  close(pair);
}

TEST_P(Conformance, SendEndsWhenThePeerIsGone) {
  start();
  const Pair pair = connected();
  const std::string text = pattern(16u << 20);
  const Slice slice{.data = as_bytes(text).data(), .size = text.size()};
  const Token sending = token();
  loop().send(pair.client, {&slice, 1}, sending);
  settle(20ms);
  ASSERT_FALSE(has_come(sending));
  close(pair.server);
  EXPECT_LT(await(sending).result, static_cast<std::int32_t>(text.size()));
  // And from then on every send fails, without a signal.
  const Token again = token();
  loop().send(pair.client, {&slice, 1}, again);
  EXPECT_LT(await(again).result, 0);
  close(pair.client);
}

TEST_P(Conformance, ResetByThePeerEndsTheReceive) {
  start();
  const Pair pair = connected();
  send_all(pair.client, "never read");
  const Token receiving = token();
  loop().recv(pair.client, true, receiving);
  settle(20ms);
  ASSERT_FALSE(has_come(receiving));
  close(pair.server);  // with bytes unread: a reset, not a FIN [RFC 2525 §2.17]
  EXPECT_EQ(await(receiving).result, -ECONNRESET);
  close(pair.client);
}

TEST_P(Conformance, ReceiveSaysWhetherMoreIsThere) {
  start({.receive_buffer_bytes = 1024});
  const Pair pair = connected();
  ASSERT_EQ(loop().receive_buffer_bytes(), 1024u);
  send_all(pair.client, std::string(1500, 'x'));
  const Token first = token();
  loop().recv(pair.server, true, first);
  const Event full = await(first);
  EXPECT_EQ(full.result, 1024);
  EXPECT_TRUE(full.more_in_socket);
  const Token second = token();
  loop().recv(pair.server, false, second);
  const Event rest = await(second);
  EXPECT_EQ(rest.result, 476);
  EXPECT_FALSE(rest.more_in_socket);
  close(pair);
}

TEST_P(Conformance, ReceiveIntoFillsTheCallersMemory) {
  start();
  const Pair pair = connected();
  const std::string text = pattern(100'000);
  const Slice slice{.data = as_bytes(text).data(), .size = text.size()};
  const Token sending = token();
  loop().send(pair.client, {&slice, 1}, sending);
  std::string content(text.size(), '\0');
  std::size_t filled = 0;
  const std::size_t free_before = loop().buffers_free();
  while (filled < content.size()) {
    const Token receiving = token();
    loop().recv_into(pair.server, {reinterpret_cast<std::byte*>(content.data()) + filled, content.size() - filled},
                     filled == 0, receiving);
    const Event event = await(receiving);
    ASSERT_GT(event.result, 0);
    EXPECT_EQ(event.bytes, text.substr(filled, static_cast<std::size_t>(event.result)));
    filled += static_cast<std::size_t>(event.result);
  }
  EXPECT_EQ(content, text);
  EXPECT_EQ(loop().buffers_free(), free_before);
  EXPECT_EQ(await(sending).result, static_cast<std::int32_t>(text.size()));
  loop().shutdown(pair.client);
  const Token at_end = token();
  loop().recv_into(pair.server, {reinterpret_cast<std::byte*>(content.data()), content.size()}, true, at_end);
  EXPECT_EQ(await(at_end).result, 0);
  close(pair);
}

TEST_P(Conformance, ReceiveWithoutFreeBufferIsEnobufsAndRecoversByRelease) {
  start({.receive_buffers = 8});
  const Pair pair = connected();
  seen().keep_buffers = true;
  EXPECT_EQ(loop().buffers_free(), 8u);
  std::vector<BufferId> held;
  for (int i = 0; i < 8; ++i) {
    send_all(pair.client, "x");
    const Token receiving = token();
    loop().recv(pair.server, true, receiving);
    const Event event = await(receiving);
    ASSERT_EQ(event.result, 1);
    ASSERT_TRUE(event.buffer.held());
    held.push_back(event.buffer);
  }
  EXPECT_EQ(loop().buffers_free(), 0u);
  send_all(pair.client, "y");
  const Token starved = token();
  loop().recv(pair.server, true, starved);
  const Event refused = await(starved);
  EXPECT_EQ(refused.result, -ENOBUFS);
  EXPECT_FALSE(refused.buffer.held());
  loop().release(held.back());
  held.pop_back();
  EXPECT_EQ(loop().buffers_free(), 1u);
  const Token recovered = token();
  loop().recv(pair.server, true, recovered);
  const Event event = await(recovered);
  EXPECT_EQ(event.result, 1);
  EXPECT_EQ(event.bytes, "y");
  ASSERT_TRUE(event.buffer.held());
  loop().release(event.buffer);
  for (const BufferId buffer : held) loop().release(buffer);
  EXPECT_EQ(loop().buffers_free(), 8u);
  close(pair);
}

TEST_P(Conformance, IdleReceivesHoldNoBuffer) {
  start({.receive_buffers = 8});
  std::vector<Pair> pairs;
  std::vector<Token> idle;
  for (int i = 0; i < 20; ++i) {
    pairs.push_back(connected());
    idle.push_back(token());
    loop().recv(pairs.back().server, true, idle.back());
  }
  settle(10ms);
  EXPECT_EQ(loop().buffers_free(), 8u);
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    send_all(pairs[i].client, "x");
    EXPECT_EQ(await(idle[i]).result, 1);
    close(pairs[i]);
  }
  EXPECT_EQ(loop().buffers_free(), 8u);
}

TEST_P(Conformance, BuffersOfEndsAndErrorsComeBack) {
  start({.receive_buffers = 8});
  for (int i = 0; i < 20; ++i) {
    const Pair pair = connected();
    const Token ending = token();
    loop().recv(pair.server, i % 2 == 0, ending);
    loop().shutdown(pair.client);
    EXPECT_EQ(await(ending).result, 0);
    const Token cancelled = token();
    loop().recv(pair.client, i % 2 == 0, cancelled);
    loop().cancel(cancelled);
    EXPECT_LE(await(cancelled).result, 0);
    close(pair);
  }
  EXPECT_EQ(loop().buffers_free(), 8u);
}

TEST_P(Conformance, CancelEndsAllOperationsOfItsTokenAndNoOther) {
  start();
  const Pair one = connected();
  const Pair two = connected();
  const Token both = token();
  const Token other = token();
  loop().recv(one.server, true, both);
  loop().recv(two.server, true, both);
  loop().recv(one.client, true, other);
  settle(10ms);
  loop().cancel(both);
  EXPECT_EQ(await(both, 2).result, -ECANCELED);
  EXPECT_EQ(seen().of(both).front().result, -ECANCELED);
  settle(10ms);
  EXPECT_FALSE(has_come(other));
  loop().cancel(both);  // nothing there any more: silent
  settle(10ms);
  EXPECT_EQ(seen().of(both).size(), 2u);
  send_all(one.server, "still here");
  EXPECT_EQ(await(other).bytes, "still here");
  close(one);
  close(two);
}

TEST_P(Conformance, CancelRacingWithDataLosesNothing) {
  start();
  const Pair pair = connected();
  constexpr std::size_t rounds = 300;
  std::string sent;
  std::string received;
  for (std::size_t i = 0; i < rounds; ++i) {
    const Token receiving = token();
    const Token sending = token();
    const char byte = static_cast<char>('a' + i % 26);
    const Slice slice{.data = reinterpret_cast<const std::byte*>(&byte), .size = 1};
    loop().recv(pair.server, i % 2 == 0, receiving);
    if (i % 3 == 0) (void)loop().run_once(seen(), Instant::min());
    loop().send(pair.client, {&slice, 1}, sending);
    if (i % 5 == 0) (void)loop().run_once(seen(), Instant::min());
    loop().cancel(receiving);
    EXPECT_EQ(await(sending).result, 1);
    sent += byte;
    const Event event = await(receiving);
    EXPECT_TRUE(event.result > 0 || event.result == -ECANCELED) << event.result;
    received += event.bytes;
  }
  // What a cancelled receive did not take is still in the socket.
  if (received.size() < sent.size()) received += receive(pair.server, sent.size() - received.size());
  EXPECT_EQ(received, sent);
  settle(10ms);
  EXPECT_EQ(loop().buffers_free(), 64u);
  close(pair);
}

TEST_P(Conformance, OperationsMayBeStartedAndCancelledFromWithinACompletion) {
  start();
  const Pair pair = connected();
  const Token echo = token();
  const Token bystander = token();
  loop().recv(pair.client, true, bystander);
  int left = 50;
  const char byte = 'x';
  const Slice slice{.data = reinterpret_cast<const std::byte*>(&byte), .size = 1};
  seen().then = [&](Token came) {
    if (came != echo || --left == 0) return;
    loop().recv(pair.server, true, echo);
    loop().send(pair.client, {&slice, 1}, Token{.slot = 99'999});
    if (left == 1) loop().cancel(bystander);
  };
  loop().recv(pair.server, true, echo);
  send_all(pair.client, "x");
  (void)await(echo, 50);
  EXPECT_EQ(await(bystander).result, -ECANCELED);
  seen().then = nullptr;
  close(pair);
}

TEST_P(Conformance, ShutdownEndsPendingOperationsAndDeliversTheFin) {
  start();
  const Pair pair = connected();
  const Token pending = token();
  loop().recv(pair.server, true, pending);
  settle(10ms);
  send_all(pair.server, "the last words");
  loop().shutdown(pair.server);
  EXPECT_EQ(await(pending).result, 0);
  close(pair.server);                                       // all operations have ended
  EXPECT_EQ(receive(pair.client, 1000), "the last words");  // up to the end of the stream
  close(pair.client);
}

TEST_P(Conformance, HalfClosedConnectionStillReceives) {
  start();
  const Pair pair = connected();
  send_all(pair.client, "question");
  loop().shutdown_send(pair.client);
  EXPECT_EQ(receive(pair.server, 1000), "question");
  send_all(pair.server, "answer");
  loop().shutdown(pair.server);
  EXPECT_EQ(receive(pair.client, 1000), "answer");
  close(pair);
}

TEST_P(Conformance, WaitingInputIsSeenUntilItIsReceived) {
  start();
  const Pair pair = connected();
  EXPECT_FALSE(loop().input_waiting(pair.server));
  send_all(pair.client, "too early");
  settle(std::chrono::milliseconds(50));  // bytes take their time on the way
  EXPECT_TRUE(loop().input_waiting(pair.server));
  EXPECT_FALSE(loop().input_waiting(pair.client)) << "the other side's input";
  loop().shutdown_send(pair.client);
  EXPECT_EQ(receive(pair.server, 1000), "too early");
  EXPECT_FALSE(loop().input_waiting(pair.server)) << "an end of stream is no input";
  close(pair);
}

TEST_P(Conformance, AcceptAtDescriptorExhaustionEndsAndTheReserveServes) {
  start();
  if (GetParam().exhaust_descriptors == nullptr) GTEST_SKIP() << "this backend cannot run out of descriptors";
  const Descriptor listener = listen_anywhere();
  const Address address = address_of(listener);
  const Descriptor refused = open_to(address);
  const Descriptor served = open_to(address);
  Token connecting = token();
  loop().connect(refused, address, connecting);
  ASSERT_EQ(await(connecting).result, 0);

  // Nothing below returns before restore_descriptors().
  GetParam().exhaust_descriptors();
  const Token accepting = token();
  loop().accept(listener, accepting);
  const Event event = await(accepting);
  EXPECT_EQ(event.result, -EMFILE);
  EXPECT_FALSE(event.more);
  const auto none_left = loop().open_stream(address, Address());
  EXPECT_EQ(none_left.status().code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(loop().accept_and_refuse(listener, "421 4.3.2 too many connections\r\n"));
  EXPECT_FALSE(loop().accept_and_refuse(listener, "421 4.3.2 too many connections\r\n")) << "nobody waits";
  EXPECT_EQ(receive(refused, 1000), "421 4.3.2 too many connections\r\n");
  GetParam().restore_descriptors();

  loop().accept(listener, accepting);
  connecting = token();
  loop().connect(served, address, connecting);
  ASSERT_EQ(await(connecting).result, 0);
  const Descriptor server = await(accepting, 2).result;
  ASSERT_GE(server, 0);
  loop().cancel(accepting);
  (void)await(accepting, 3);
  for (const Descriptor each : {refused, served, server, listener}) close(each);
}

TEST_P(Conformance, DatagramsGoBothWaysAndKeepTheirBounds) {
  start();
  // A port each, found by asking for any.
  const Address anywhere = *Address::parse("127.0.0.1:0");
  const Address nobody = *Address::parse("127.0.0.1:9");
  const auto placeholder = loop().open_datagram(nobody, anywhere);
  ASSERT_TRUE(placeholder.ok()) << placeholder.status().message();
  const Address a_address = address_of(*placeholder);
  ASSERT_NE(a_address.port(), 0);
  const auto b = loop().open_datagram(a_address, anywhere);
  ASSERT_TRUE(b.ok()) << b.status().message();
  close(*placeholder);
  const auto a = loop().open_datagram(address_of(*b), a_address);
  ASSERT_TRUE(a.ok()) << a.status().message();

  const Token first = token();
  const Token second = token();
  loop().recv_datagram(*b, first);
  loop().send_datagram(*a, as_bytes("one"), token());
  loop().send_datagram(*a, as_bytes("two"), token());
  const Event one = await(first);
  EXPECT_EQ(one.bytes, "one");
  EXPECT_EQ(one.peer, a_address);
  loop().recv_datagram(*b, second);
  EXPECT_EQ(await(second).bytes, "two");
  const Token back = token();
  loop().recv_datagram(*a, back);
  const Token answering = token();
  loop().send_datagram(*b, as_bytes("three"), answering);
  EXPECT_EQ(await(answering).result, 5);
  EXPECT_EQ(await(back).bytes, "three");
  EXPECT_EQ(loop().buffers_free(), 64u);

  const Token waiting = token();
  loop().recv_datagram(*a, waiting);
  loop().cancel(waiting);
  EXPECT_EQ(await(waiting).result, -ECANCELED);
  close(*a);
  close(*b);
}

TEST_P(Conformance, DatagramToAClosedPortIsRefused) {
  start();
  const auto placeholder = loop().open_datagram(*Address::parse("127.0.0.1:9"), *Address::parse("127.0.0.1:0"));
  ASSERT_TRUE(placeholder.ok());
  const Address closed = address_of(*placeholder);
  close(*placeholder);
  const auto socket = loop().open_datagram(closed, Address());
  ASSERT_TRUE(socket.ok());
  const Token waiting = token();
  loop().recv_datagram(*socket, waiting);
  loop().send_datagram(*socket, as_bytes("hello?"), token());
  EXPECT_EQ(await(waiting).result, -ECONNREFUSED);
  close(*socket);
}

TEST_P(Conformance, UnixSocketsListenAcceptAndCarryBytes) {
  start();
  const Address address = Address::unix_path(directory() + "/socket");
  const auto listener = loop().listen(address, {});
  ASSERT_TRUE(listener.ok()) << listener.status().message();
  EXPECT_EQ(address_of(*listener), address);
  const auto taken = loop().listen(address, {});
  EXPECT_EQ(taken.status().code(), StatusCode::kAlreadyExists) << "somebody listens there";

  const Token accepting = token();
  const Token connecting = token();
  const Descriptor client = open_to(address);
  loop().accept(*listener, accepting);
  loop().connect(client, address, connecting);
  ASSERT_EQ(await(connecting).result, 0);
  // The probe of the second listen() may have been accepted before.
  while (!seen().of(accepting).empty() && !seen().of(accepting).back().more) loop().accept(*listener, accepting);
  (void)await(accepting);
  settle(10ms);
  const Event accepted = seen().of(accepting).back();
  ASSERT_GE(accepted.result, 0);
  EXPECT_TRUE(accepted.peer.is_unix());
  send_all(client, "over a path");
  EXPECT_EQ(receive(accepted.result, 11), "over a path");
  for (const Event& event : seen().of(accepting)) close(event.result);
  close(client);
  loop().cancel(accepting);
  (void)await(accepting, seen().of(accepting).size() + 1);
  close(*listener);

  // The path is still there; nobody listens.
  const auto again = loop().listen(address, {});
  ASSERT_TRUE(again.ok()) << again.status().message();
  close(*again);
}

TEST_P(Conformance, ManyOperationsStartedInOneTurnAllComplete) {
  start({.receive_buffers = 2048, .receive_buffer_bytes = 64});
  constexpr std::size_t pairs_count = 40;
  constexpr std::size_t rounds = 40;
  std::vector<Pair> pairs;
  for (std::size_t i = 0; i < pairs_count; ++i) pairs.push_back(connected());
  const char byte = 'x';
  const Slice slice{.data = reinterpret_cast<const std::byte*>(&byte), .size = 1};
  // 1,600 receives and as many sends before the first turn: more than any queue of submissions.
  const Token receiving = token();
  const Token sending = token();
  for (std::size_t i = 0; i < rounds; ++i) {
    for (const Pair& pair : pairs) loop().recv(pair.server, true, receiving);
  }
  for (std::size_t i = 0; i < rounds; ++i) {
    for (const Pair& pair : pairs) loop().send(pair.client, {&slice, 1}, sending);
  }
  (void)await(sending, pairs_count * rounds);
  // Several bytes may arrive in one receive, so some of them stay unanswered: they end with the connection.
  for (const Pair& pair : pairs) loop().shutdown(pair.client);
  (void)await(receiving, pairs_count * rounds);
  std::size_t bytes = 0;
  for (const Event& event : seen().of(receiving)) {
    ASSERT_GE(event.result, 0);
    bytes += event.bytes.size();
  }
  EXPECT_EQ(bytes, pairs_count * rounds);
  for (const Pair& pair : pairs) close(pair);
}

}  // namespace
}  // namespace postern::io::testing
