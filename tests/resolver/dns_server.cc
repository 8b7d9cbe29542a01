#include "tests/resolver/dns_server.h"

#include <array>
#include <poll.h>
#include <unistd.h>
#include <utility>

#include <netinet/in.h>
#include <sys/socket.h>

#include <postern/base/check.h>

#include "tests/dns/message_builder.h"

namespace postern::resolver::testing {
namespace {

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

bool bind_to(int descriptor, std::uint16_t port) {
  const sockaddr_in address = loopback(port);
  return bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
}

}  // namespace

DnsServer::DnsServer(Handler handler) : handler_(std::move(handler)) {
  // A free UDP port need not be a free TCP port: try a few.
  for (int attempt = 0; attempt < 50 && port_ == 0; ++attempt) {
    udp_ = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    tcp_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    socklen_t size = sizeof(address);
    if (bind_to(udp_, 0) && getsockname(udp_, reinterpret_cast<sockaddr*>(&address), &size) == 0 &&
        bind_to(tcp_, ntohs(address.sin_port)) && listen(tcp_, 16) == 0) {
      port_ = ntohs(address.sin_port);
    } else {
      close(udp_);
      close(tcp_);
    }
  }
  POSTERN_CHECK(port_ != 0, "no port for the test's DNS server");
  thread_ = std::thread([this] { run(); });
}

DnsServer::~DnsServer() {
  stop_ = true;
  thread_.join();
  close(udp_);
  close(tcp_);
}

int DnsServer::queries(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = queries_.find(name);
  return found == queries_.end() ? 0 : found->second;
}

std::optional<std::string> DnsServer::answer(Bytes query, bool tcp) {
  const std::optional<dns::Message> message = dns::decode(query);
  if (!message || !message->question) return std::nullopt;
  {
    const std::lock_guard lock(mutex_);
    ++queries_[message->question->name.to_text()];
  }
  return handler_(query, *message->question, tcp);
}

void DnsServer::run() {
  std::array<std::byte, 4096> buffer{};
  while (!stop_) {
    std::array<pollfd, 2> polled{{{udp_, POLLIN, 0}, {tcp_, POLLIN, 0}}};
    if (poll(polled.data(), polled.size(), 10) <= 0) continue;
    if ((polled[0].revents & POLLIN) != 0) {
      sockaddr_in peer{};
      socklen_t size = sizeof(peer);
      const ssize_t received =
          recvfrom(udp_, buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&peer), &size);
      if (received < 0) continue;
      const auto response = answer(Bytes(buffer).first(static_cast<std::size_t>(received)), false);
      if (response)
        (void)sendto(udp_, response->data(), response->size(), 0, reinterpret_cast<const sockaddr*>(&peer), size);
    }
    if ((polled[1].revents & POLLIN) != 0) {
      const int connection = accept4(tcp_, nullptr, nullptr, SOCK_CLOEXEC);
      if (connection < 0) continue;
      const ssize_t received = recv(connection, buffer.data(), buffer.size(), 0);  // a query comes in one segment
      if (received > 2) {
        const auto response = answer(Bytes(buffer).subspan(2, static_cast<std::size_t>(received) - 2), true);
        if (response) {
          const std::string framed =
              dns::testing::MessageBuilder::u16(static_cast<unsigned>(response->size())) + *response;
          (void)send(connection, framed.data(), framed.size(), MSG_NOSIGNAL);
        }
      }
      close(connection);
    }
  }
}

}  // namespace postern::resolver::testing
