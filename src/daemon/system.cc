#include "daemon/system.h"

#include <algorithm>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <ifaddrs.h>
#include <iterator>
#include <sched.h>
#include <string_view>
#include <thread>
#include <unistd.h>

#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <postern/base/text.h>

#include "io/address.h"

namespace postern::daemon {
namespace {

// Files of /proc, /sys and /etc; at most 64 KiB of them.
std::string read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(stream), {}};
  if (text.size() > (64u << 10)) text.resize(64u << 10);
  return text;
}

std::uint64_t machine_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES);
  const long page = sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<std::uint64_t>(pages) * static_cast<std::uint64_t>(page) : 0;
}

// The smallest memory.max from our cgroup up to the root [cgroups(7), version 2].
std::uint64_t cgroup_memory(std::uint64_t limit) {
  const std::string groups = read_file("/proc/self/cgroup");
  const std::size_t at = groups.find("0::/");
  if (at == std::string::npos) return limit;
  std::string path = groups.substr(at + 3, groups.find('\n', at) - at - 3);
  for (;;) {
    const std::string text = read_file("/sys/fs/cgroup" + path + "/memory.max");
    if (const auto value = parse_uint<std::uint64_t>(trim(text.substr(0, text.find('\n')))))
      limit = std::min(limit, *value);
    if (path.empty() || path == "/") return limit;
    path.resize(path.find_last_of('/'));
  }
}

std::vector<std::pair<std::string, int>> inherited_descriptors() {
  constexpr int first = 3;  // SD_LISTEN_FDS_START
  const char* pid = std::getenv("LISTEN_PID");
  const char* count = std::getenv("LISTEN_FDS");
  if (pid == nullptr || count == nullptr || parse_uint<unsigned>(pid) != static_cast<unsigned>(getpid())) return {};
  const char* all_names = std::getenv("LISTEN_FDNAMES");
  std::string_view names = all_names == nullptr ? "" : all_names;
  std::vector<std::pair<std::string, int>> result;
  const unsigned n = parse_uint<unsigned>(count, 1024).value_or(0);
  for (unsigned i = 0; i < n; ++i) {
    const int descriptor = first + static_cast<int>(i);
    if (fcntl(descriptor, F_SETFD, FD_CLOEXEC) < 0) continue;  // not open
    result.emplace_back(names.substr(0, names.find(':')), descriptor);
    const std::size_t colon = names.find(':');
    names.remove_prefix(colon == std::string_view::npos ? names.size() : colon + 1);
  }
  return result;
}

// Those of all interfaces that are up [getifaddrs(3)].
std::vector<IpAddress> interface_addresses() {
  std::vector<IpAddress> addresses;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return addresses;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_UP) == 0) continue;
    const sa_family_t family = one->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    addresses.push_back(io::Address::from_kernel(one->ifa_addr, size).ip());
  }
  freeifaddrs(all);
  return addresses;
}

}  // namespace

System System::detect() {
  System system;
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) == 0) system.hostname = name;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  system.cpus = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? static_cast<unsigned>(CPU_COUNT(&cpus))
                                                              : std::max(1u, std::thread::hardware_concurrency());
  system.memory_bytes = cgroup_memory(machine_memory());
  system.resolv_conf = read_file("/etc/resolv.conf");
  system.addresses = interface_addresses();
  system.inherited = inherited_descriptors();
  return system;
}

}  // namespace postern::daemon
