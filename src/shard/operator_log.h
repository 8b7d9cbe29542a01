// What the operator is told in words, with cause and cure: start, stop, reload, damage, failed disks, limits clamped.
// Rare by nature; what happens to single messages goes to the event log. Implemented by the daemon (spdlog, to stderr).
#pragma once

#include <cstdint>
#include <string_view>

namespace postern::shard {

enum class Severity : std::uint8_t {
  info,
  warning,  // something works worse than it should
  error,    // something does not work; somebody should look
};

class OperatorLog {
 public:
  // From any thread; does not wait for the terminal or the disk. `text` without a line end; texts of peers in it are
  // escaped by the caller.
  virtual void say(Severity severity, std::string_view text) = 0;

 protected:
  ~OperatorLog() = default;
};

}  // namespace postern::shard
