// The list of all configuration keys: what --print-config shows, what "unknown key" is judged by, and what the man page
// and the sample are checked against. Their meaning is in config.cc, their values in shard/options.h.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace postern::daemon {

struct KeyInfo {
  std::string_view table;  // "", "limits", "listener" …; the root's dotted key io.backend is {"io", "backend"}
  std::string_view name;
  std::string_view default_value;  // as TOML
  std::string_view help;           // one line
};

// Grouped by table, in the order in which they are shown.
[[nodiscard]] std::span<const KeyInfo> config_keys();

// [[name]] instead of [name].
[[nodiscard]] bool is_array_of_tables(std::string_view table);

// The key of `table` (or, failing that, "table.key" of another one) that `name` was probably meant to be; empty: none
// is near.
[[nodiscard]] std::string nearest_key(std::string_view table, std::string_view name);

// Every key with its default and its line of help, commented out; valid TOML and a good configuration when uncommented.
// `hostname` is what an absent one becomes.
[[nodiscard]] std::string print_config(std::string_view hostname);

}  // namespace postern::daemon
