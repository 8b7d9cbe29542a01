// What the subcommands of postern-bench do, once their command lines are read. Each returns the exit code.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <postern/base/time.h>

namespace postern::bench {

inline constexpr int exit_good = 0;
inline constexpr int exit_bad = 1;      // ran, and something was refused, lost, repeated or changed
inline constexpr int exit_usage = 64;   // the command line is wrong
inline constexpr int exit_system = 71;  // io_uring forbidden, address taken, relay did not start

// As written on the command line; what is wrong with it is said by the run.
struct LoadArguments {
  std::uint32_t sessions = 20;
  std::uint32_t messages_per_connection = 0;
  std::uint32_t recipients = 1;
  std::uint32_t domains = 1;
  std::string domain = "hop.test";
  std::string sender = "bench@client.test";
  std::string size = "1KiB";
  std::uint64_t count = 0;
  std::string duration = {};  // neither of the two: 10 s
  double rate = 0;
  bool no_pipelining = false;
  bool no_chunking = false;
  std::uint64_t seed = 1;
};

struct HopArguments {
  std::vector<std::string> replies = {};
  std::vector<std::string> delays = {};
  std::vector<std::string> hang_ups = {};
  std::uint32_t messages_per_connection = 0;
  std::uint32_t connections = 0;
  std::uint32_t recipients = 1000;
  bool no_chunking = false;
  std::uint64_t seed = 1;
};

struct SourceArguments {
  std::string target;
  LoadArguments load;
  bool json = false;
};

struct SinkArguments {
  std::string listen;
  HopArguments hop;
  std::uint64_t expect = 0;
  std::string idle;  // ends when nothing came for so long, after the first message
  bool json = false;
};

struct RelayArguments {
  std::string target;
  std::string listen;
  std::string command;
  std::int64_t pid = 0;
  std::string spool;  // a folder on the relay's disk
  std::uint64_t warm_up = 500;
  std::string drain = "60s";
  LoadArguments load;
  HopArguments hop;
  bool json = false;
};

[[nodiscard]] int run_source(const SourceArguments& arguments);
[[nodiscard]] int run_sink(const SinkArguments& arguments);
[[nodiscard]] int run_relay(const RelayArguments& arguments);

}  // namespace postern::bench
