#include "admin/admin_server.h"

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

namespace postern::admin {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

class FixedSource final : public shard::MetricsSource {
 public:
  shard::MetricsSum metrics() override {
    shard::MetricsSum sum;
    sum.messages_received = 42;
    return sum;
  }
  bool healthy() override { return healthy_; }
  std::atomic<bool> healthy_{true};
};

// Sends `request`, reads until the server closes.
std::string send_request(const io::Address& address, std::string_view request) {
  const int client = socket(address.kernel()->sa_family, SOCK_STREAM, 0);
  EXPECT_EQ(connect(client, address.kernel(), address.kernel_size()), 0);
  EXPECT_EQ(send(client, request.data(), request.size(), MSG_NOSIGNAL), static_cast<ssize_t>(request.size()));
  std::string reply;
  char buffer[4096];
  for (ssize_t n = 0; (n = recv(client, buffer, sizeof buffer, 0)) > 0;)
    reply.append(buffer, static_cast<std::size_t>(n));
  close(client);
  return reply;
}

std::string get(const io::Address& address, std::string_view path, std::string_view method = "GET") {
  return send_request(
      address, std::string(method) + " " + std::string(path) + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
}

class AdminServerTest : public testing::Test {
 protected:
  void SetUp() override {
    auto server = AdminServer::bind(*io::Address::parse("127.0.0.1:0"));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    ASSERT_TRUE(server_->serve(source_).ok());
    address_ = server_->local_address();
  }

  FixedSource source_;
  std::unique_ptr<AdminServer> server_;
  io::Address address_;
};

TEST_F(AdminServerTest, AnswersMetrics) {
  const std::string reply = get(address_, "/metrics");
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(reply, HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(reply, HasSubstr("postern_messages_received_total 42\n"));
}

TEST_F(AdminServerTest, AnswersHealthByTheSource) {
  EXPECT_THAT(get(address_, "/healthz"), StartsWith("HTTP/1.1 200"));
  source_.healthy_ = false;
  EXPECT_THAT(get(address_, "/healthz"), StartsWith("HTTP/1.1 503"));
}

TEST_F(AdminServerTest, RefusesOtherPathsAndMethods) {
  EXPECT_THAT(get(address_, "/"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(get(address_, "/metrics", "DELETE"), StartsWith("HTTP/1.1 405"));
  EXPECT_THAT(get(address_, "/healthz", "HEAD"), StartsWith("HTTP/1.1 200"));
}

TEST_F(AdminServerTest, SwallowsARequestsBody) {
  const std::string body(50'000, 'x');
  const std::string reply =
      send_request(address_, "POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " +
                                 std::to_string(body.size()) + "\r\n\r\n" + body);
  EXPECT_THAT(reply, StartsWith("HTTP/1.1 405"));
}

TEST_F(AdminServerTest, BoundsTheHeader) {
  const std::string reply =
      send_request(address_, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: " + std::string(100'000, 'x') + "\r\n\r\n");
  EXPECT_THAT(reply, testing::AnyOf(testing::IsEmpty(), testing::Not(StartsWith("HTTP/1.1 200"))));
  EXPECT_THAT(get(address_, "/healthz"), StartsWith("HTTP/1.1 200")) << "and goes on";
}

TEST_F(AdminServerTest, SaysThatAnAddressIsTaken) {
  const auto second = AdminServer::bind(address_);
  EXPECT_EQ(second.status().code(), StatusCode::kAlreadyExists) << second.status();
}

TEST(AdminServer, ReplacesAStaleUnixSocketAndRemovesItsOwn) {
  std::string folder = std::filesystem::temp_directory_path() / "postern-admin-XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/admin.sock";
  const io::Address address = io::Address::unix_path(path);
  const int stale = socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_EQ(bind(stale, address.kernel(), address.kernel_size()), 0);
  close(stale);  // leaves the file, as a killed process does
  FixedSource source;
  {
    auto server = AdminServer::bind(address);
    ASSERT_TRUE(server.ok()) << server.status();
    ASSERT_TRUE((*server)->serve(source).ok());
    struct stat facts{};
    ASSERT_EQ(stat(path.c_str(), &facts), 0);
    EXPECT_EQ(facts.st_mode & 0777, 0660u);
    EXPECT_THAT(get(address, "/healthz"), StartsWith("HTTP/1.1 200"));
    EXPECT_EQ(AdminServer::bind(address).status().code(), StatusCode::kAlreadyExists) << "somebody listens";
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace postern::admin
