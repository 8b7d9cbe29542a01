// A simulated DNS server over UDP and TCP, with moods.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>

#include "io/sim/peer.h"

namespace postern::sim {

class DnsZone {
 public:
  struct Mood {
    // In hundred queries.
    unsigned silence = 0;
    unsigned failures = 0;   // SERVFAIL
    unsigned lies = 0;       // the answer to another question, or under another id
    unsigned truncated = 0;  // TC: ask over TCP
    unsigned slow = 0;
  };

  DnsZone(io::sim::World& world, const io::Address& address);
  ~DnsZone();
  DnsZone(const DnsZone&) = delete;
  DnsZone& operator=(const DnsZone&) = delete;

  void add_mx(const std::string& domain, const std::string& host) { mx_[domain].push_back(host); }
  void add_a(const std::string& host, const std::string& address) { a_[host].push_back(address); }
  void set_mood(const Mood& mood) { mood_ = mood; }

 private:
  class Session;
  // Empty: no answer.
  [[nodiscard]] std::string answer(std::string_view query, bool tcp);

  io::sim::World& world_;
  io::Address address_;
  Mood mood_;
  std::map<std::string, std::vector<std::string>> mx_;
  std::map<std::string, std::vector<std::string>> a_;
  std::vector<std::unique_ptr<Session>> sessions_;
};

}  // namespace postern::sim
