// A DNS server of a few lines on 127.0.0.1, for tests: UDP and TCP on one port, answers by a function, in a thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include <postern/dns/message.h>

namespace postern::resolver::testing {

class DnsServer {
 public:
  // The response to a query; nullopt: silence. Runs in the server's thread.
  using Handler = std::function<std::optional<std::string>(Bytes query, const dns::Question& question, bool tcp)>;

  explicit DnsServer(Handler handler);
  ~DnsServer();
  DnsServer(const DnsServer&) = delete;
  DnsServer& operator=(const DnsServer&) = delete;

  [[nodiscard]] std::uint16_t port() const { return port_; }
  // Queries seen so far for this name, of any type and over both transports.
  [[nodiscard]] int queries(const std::string& name) const;

 private:
  void run();
  std::optional<std::string> answer(Bytes query, bool tcp);

  Handler handler_;
  int udp_ = -1;
  int tcp_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<bool> stop_{false};
  mutable std::mutex mutex_;
  std::map<std::string, int> queries_;
  std::thread thread_;
};

}  // namespace postern::resolver::testing
