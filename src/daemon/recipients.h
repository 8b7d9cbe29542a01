// The recipients that the configuration and its file name, as a table that the shards look into; and whether the file
// has changed since. Reads files; used by the control thread alone, so that no shard waits for it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <postern/base/status.h>
#include <postern/policy/recipient_table.h>

#include "shard/options.h"

namespace postern::daemon {

inline constexpr std::uint64_t recipient_file_bytes_max = std::uint64_t{1} << 30;  // some 30 million addresses

// Null when the configuration has no [recipients]: then everyone exists. kInvalidArgument: "FILE:LINE: what; cure";
// kDataLoss: the same for a cdb file that is none. kNotFound: the file cannot be read. `config_path`: for messages
// about recipients.known. Memory: the file, at most recipient_file_bytes_max, and the table beside it.
[[nodiscard]] StatusOr<std::shared_ptr<const policy::RecipientTable>> load_recipients(
    const shard::RecipientOptions& options, const std::string& config_path);

// Notices when the file is another one. It counts as changed only when it looks the same at two glances, one
// check_interval apart: who writes it in place instead of renaming a new one over it is not read halfway through.
class RecipientFile {
 public:
  // As the file is now: what a load right after this will have seen, or newer.
  void watch(const std::string& path);
  // As watch() has seen it: what was read since is of one piece.
  [[nodiscard]] bool unchanged() const { return look() == known_; }
  // At each check_interval: true once for each change.
  [[nodiscard]] bool changed();

 private:
  struct Look {
    std::uint64_t device = 0, inode = 0, size = 0;
    std::int64_t modified_s = 0, modified_ns = 0;
    friend bool operator==(const Look&, const Look&) = default;
  };
  [[nodiscard]] Look look() const;  // all 0: it is not there

  std::string path_;  // empty: none
  Look known_;
  Look seen_;
};

}  // namespace postern::daemon
