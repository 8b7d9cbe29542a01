// From posternd.toml to an immutable snapshot of options, with every fault found at once.
//
// Reads the file, the certificates and keys that it names, and nothing else: no address is bound, no folder made, no
// name looked up but a listener's host name that is no address (getaddrinfo).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "daemon/system.h"
#include "shard/options.h"

namespace postern::daemon {

struct LoadedConfig {
  shard::OptionsSnapshot options;     // null when there are errors
  std::vector<std::string> errors;    // "FILE:LINE: key: what is wrong; cure", in the order of the file
  std::vector<std::string> warnings;  // in the same form
};

[[nodiscard]] LoadedConfig load_config(const std::string& path, const System& system);

// `path` is for messages and for what is relative to the file's folder.
[[nodiscard]] LoadedConfig parse_config(std::string_view text, const std::string& path, const System& system);

// What differs between two snapshots and only a restart can change, as keys: "listener", "shards", "data_dir" …
[[nodiscard]] std::vector<std::string> needs_restart(const shard::Options& before, const shard::Options& after);

// `after`, but with `before`'s values where only a restart can change them.
[[nodiscard]] shard::OptionsSnapshot merge_for_reload(const shard::Options& before, const shard::Options& after);

}  // namespace postern::daemon
