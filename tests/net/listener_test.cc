#include <memory>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "harness.h"

namespace postern::net {
namespace {

TEST(Listener, HandsOverConnectionsWithTheirPeer) {
  Net net;
  Server server(net);
  Peer peer(server.address());
  User& user = server.accept();
  EXPECT_TRUE(user.connection->open());
}

TEST(Listener, SaysThatAnAddressIsTaken) {
  Net net;
  Server server(net);
  struct Nobody final : ListenerUser {
    void on_connection(Listener&, io::Descriptor, const io::Address&) override { ADD_FAILURE(); }
  } nobody;
  Listener second(*net.loop, net.dispatcher, net.wheel, net.table.descriptor_waiters(), nobody, {});
  EXPECT_EQ(second.open(server.address(), {.reuse_port = false}).code(), StatusCode::kAlreadyExists);
  EXPECT_TRUE(second.stopped());
}

TEST(Listener, AStoppedOneRefusesConnections) {
  Net net;
  Server server(net);
  const io::Address address = server.address();
  Peer before(address);
  (void)server.accept();
  server.listener.stop();
  EXPECT_TRUE(net.run_until([&] { return server.listener.stopped(); }));
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_EQ(::connect(socket, address.kernel(), address.kernel_size()), -1);
  ::close(socket);
  EXPECT_TRUE(server.users.front().connection->open()) << "what was accepted goes on";
}

TEST(Listener, WithoutDescriptorsItSaysFarewellAndRecovers) {
  // Low, so that it is soon reached; and set first, as the kernel notes a process's limit when an accept is started.
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit usual = limit;
  limit.rlim_cur = 256;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  Net net;
  Server server(net, {.farewell = "421 4.3.2 Too busy\r\n"});
  const io::Address address = server.address();
  Peer first(address);
  User& user = server.accept();

  // The peers' sockets are in this process too: made before all is taken, connected behind it.
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 5; ++i) peers.push_back(std::make_unique<Peer>(::socket(AF_INET, SOCK_STREAM, 0)));
  std::vector<int> fillers;
  for (int filler = ::dup(0); filler >= 0; filler = ::dup(0)) fillers.push_back(filler);

  for (const auto& peer : peers) {
    ASSERT_EQ(::connect(peer->descriptor, address.kernel(), address.kernel_size()), 0);
  }
  EXPECT_TRUE(net.run_until([&] { return server.listener.refused() == peers.size(); }));
  for (const auto& peer : peers) {
    EXPECT_TRUE(net.run_until([&] { return peer->receive(), peer->end; }));
    EXPECT_EQ(peer->received, "421 4.3.2 Too busy\r\n");
    EXPECT_EQ(peer->error, 0);
  }
  EXPECT_EQ(server.users.size(), 1u);

  // A connection closes; its descriptor serves the next client. (Two more are closed for the sanitizers' own use.)
  peers[0]->close();
  peers[1]->close();
  user.connection->abort();
  EXPECT_TRUE(net.run_until([&] { return user.closed == 1; }));
  const int socket = ::socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_GE(socket, 0);
  Peer late(socket);
  ASSERT_EQ(::connect(socket, address.kernel(), address.kernel_size()), 0);
  EXPECT_TRUE(net.run_until([&] { return server.users.size() == 2; }));
  for (const int filler : fillers) ::close(filler);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &usual), 0);
}

}  // namespace
}  // namespace postern::net
