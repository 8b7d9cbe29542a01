// A whole server with a loop of the test's choosing: what a file system does that the tests' own does not do.
#include "shard/server.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <postern/base/time.h>

#include "io/uring/uring_loop.h"

namespace postern::shard {
namespace {

using std::chrono::seconds;
using testing::StartsWith;

class HeardLog final : public OperatorLog {
 public:
  void say(Severity, std::string_view text) override {
    const std::lock_guard lock(mutex_);
    texts_.emplace_back(text);
  }
  [[nodiscard]] long count(std::string_view part) {
    const std::lock_guard lock(mutex_);
    return std::ranges::count_if(texts_, [part](const std::string& text) { return text.find(part) != text.npos; });
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> texts_;
};

struct Folder {
  Folder() : path(std::filesystem::temp_directory_path() / "postern-server-test-XXXXXX") {
    EXPECT_NE(mkdtemp(path.data()), nullptr);
  }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::string path;
};

// A client that waits: one reply of one or more lines per call.
class Client {
 public:
  explicit Client(const io::Address& address) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval patience{.tv_sec = 20, .tv_usec = 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    EXPECT_EQ(connect(socket_, address.kernel(), address.kernel_size()), 0);
  }
  ~Client() { close(socket_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  std::string reply() {
    std::string text;
    std::size_t line = 0;
    for (char byte = 0; recv(socket_, &byte, 1, 0) == 1;) {
      text += byte;
      if (byte != '\n') continue;
      if (text[line + 3] != '-') return text;
      line = text.size();
    }
    return text + "(end)";
  }
  std::string ask(std::string_view text) {
    EXPECT_EQ(::send(socket_, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
    return reply();
  }

 private:
  int socket_;
};

OptionsSnapshot options_in(const std::string& folder) {
  auto options = std::make_shared<Options>();
  options->hostname = "mx.test";
  options->data_dir = folder;
  options->shards = 3;
  options->memory_bytes = 64u << 20;
  options->listeners.push_back(
      {.text = "127.0.0.1:0", .address = io::Address::ip(IpAddress::v4({127, 0, 0, 1}), 0), .relay_from = {}});
  options->accept_domains = {"here.test"};
  options->spool.min_free_bytes = 1u << 20;
  options->spool.segment_bytes = 4u << 20;
  options->routes.push_back({.match = "*", .via = "smtp:[127.0.0.1]:1"});  // nobody listens there: it stays with us
  options->dns.servers.push_back({IpAddress::v4({127, 0, 0, 1}), 1});
  return options;
}

std::unique_ptr<Server> start(const OptionsSnapshot& options, OperatorLog& log, bool refuse_direct) {
  StatusOr<std::unique_ptr<Server>> server =
      Server::start({.options = options,
                     .log = log,
                     .make_loop = [refuse_direct] { return io::make_uring_loop({.refuse_direct = refuse_direct}); },
                     .on_failure = [] {}});
  EXPECT_TRUE(server.ok()) << server.status().ToString();
  return server.ok() ? *std::move(server) : nullptr;
}

// Until a recovered server has taken up what the spool holds.
bool holds(Server& server, std::int64_t recipients) {
  const auto until = std::chrono::steady_clock::now() + seconds(20);
  for (;;) {
    const MetricsSum now = server.metrics();
    if (now.recipients_scheduled + now.recipients_ready + now.recipients_in_flight == recipients) return true;
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

TEST(Server, WithoutODirectItWritesBufferedAndSaysSoOnce) {
  const Folder folder;
  const OptionsSnapshot options = options_in(folder.path);
  constexpr std::string_view said = "refuses O_DIRECT";
  {
    HeardLog log;
    const std::unique_ptr<Server> server = start(options, log, true);
    ASSERT_NE(server, nullptr);
    for (int i = 0; i < 12; ++i) {  // over all shards, which the kernel deals them out to
      Client client(server->addresses().front());
      EXPECT_THAT(client.reply(), StartsWith("220 "));
      EXPECT_THAT(client.ask("EHLO c.test\r\n"), StartsWith("250-"));
      EXPECT_THAT(client.ask("MAIL FROM:<a@c.test>\r\n"), StartsWith("250 "));
      EXPECT_THAT(client.ask("RCPT TO:<u@here.test>\r\n"), StartsWith("250 "));
      EXPECT_THAT(client.ask("DATA\r\n"), StartsWith("354 "));
      EXPECT_THAT(client.ask("Subject: x\r\n\r\nhello\r\n.\r\n"), StartsWith("250 2.0.0 "));
    }
    EXPECT_EQ(log.count(said), 1);
    EXPECT_EQ(server->exit_code(), 0);
  }
  // What was written one way is read the other way.
  HeardLog log;
  const std::unique_ptr<Server> server = start(options, log, false);
  ASSERT_NE(server, nullptr);
  EXPECT_TRUE(holds(*server, 12));
  EXPECT_EQ(log.count(said), 0);
}

}  // namespace
}  // namespace postern::shard
