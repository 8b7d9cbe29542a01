// One run of the simulator: what it is made of, all of it from one seed, and what came out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tests/sim/oracle.h"

namespace postern::sim {

struct Scenario {
  std::uint64_t seed = 1;
  std::uint32_t shards = 2;
  std::uint32_t messages = 40;
  std::uint32_t connections_per_path = 3;
  std::uint32_t receive_buffers = 64;
  std::uint32_t receive_buffer_bytes = 4096;
  std::uint64_t segment_bytes = 2u << 20;
  std::uint32_t content_max = 60'000;
  std::uint32_t mailbox_letters = 128;
  std::uint32_t crashes = 0;
  std::uint32_t stops = 0;       // orderly ones in the storm, each with a start behind it
  std::uint32_t reloads = 0;     // of the configuration
  bool other_shards = false;     // each start but the first takes another number of them, 1 … 4
  bool power_cuts = false;       // half of the crashes
  bool network_trouble = false;  // latency, pieces, lost connections, partitions
  bool disorder = false;         // of completions and turns
  bool rude_clients = false;
  bool moody_hops = false;
  bool moody_dns = false;
  bool slow_disk = false;
  bool write_errors = false;
  bool full_disk = false;
  bool flipped_bits = false;
  bool wall_steps = false;
  bool few_descriptors = false;
  bool little_memory = false;
  bool page_cache = false;  // durability; then the machine keeps its power
  bool dead_hop = false;    // one site is down until the end: its mail expires
  bool tls = false;         // two thirds of the clients
  bool hop_tls = false;     // of next hops: where offered, required, and verified
  bool lmtp = false;        // some mail goes to a store
  bool callouts = false;    // next hops are asked before RCPT is answered

  [[nodiscard]] static Scenario of_seed(std::uint64_t seed);
  // What is switched on, for people.
  [[nodiscard]] std::string to_text() const;
  // Simpler ones that may fail in the same way, the simplest first.
  [[nodiscard]] std::vector<Scenario> simpler() const;
  friend bool operator==(const Scenario&, const Scenario&) = default;
};

struct Outcome {
  std::vector<std::string> violations;
  std::uint64_t hash = 0;
  std::uint64_t lines = 0;
  std::uint32_t crashes = 0;
  double simulated_seconds = 0;
  Oracle::Counts counts;
};

// In this thread, in this process: a bug of the relay that stops a process (POSTERN_CHECK) stops this one.
[[nodiscard]] Outcome run(const Scenario& scenario, const std::function<void(std::string_view)>& trace = nullptr);

}  // namespace postern::sim
