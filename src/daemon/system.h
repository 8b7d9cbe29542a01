// What the configuration takes from the machine: detected once, passed in as a value, so that tests choose it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <postern/base/ip.h>

namespace postern::daemon {

struct System {
  std::string hostname;                                // the machine's own; may be no full name
  unsigned cpus = 1;                                   // that this process may use
  std::uint64_t memory_bytes = 0;                      // of the machine or, when that is less, what the cgroup allows
  std::string resolv_conf;                             // the text of /etc/resolv.conf, empty when there is none
  std::vector<IpAddress> addresses;                    // of its interfaces that are up
  bool look_up_hosts = true;                           // getaddrinfo for listeners whose address is a name
  std::vector<std::pair<std::string, int>> inherited;  // listening descriptors passed by systemd: name, descriptor

  // Reads the above from the kernel and the environment [sd_listen_fds(3)]. What cannot be read keeps its default.
  [[nodiscard]] static System detect();
};

}  // namespace postern::daemon
