// The logs that one shard writes: the one that takes its new mail, and those that an earlier start with more shards
// left it. A settlement goes to the log in which its message lies.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include <postern/base/status.h>

#include "shard/log_driver.h"

namespace postern::shard {

class Logs {
 public:
  void add(std::unique_ptr<LogDriver> driver) { drivers_.push_back(std::move(driver)); }
  // Takes new mail.
  [[nodiscard]] LogDriver& active() { return *drivers_.front(); }
  // nullptr: not one of this shard's.
  [[nodiscard]] LogDriver* find(std::uint16_t log) {
    for (const auto& driver : drivers_) {
      if (driver->id() == log) return driver.get();
    }
    return nullptr;
  }
  [[nodiscard]] const std::vector<std::unique_ptr<LogDriver>>& all() const { return drivers_; }

 private:
  std::vector<std::unique_ptr<LogDriver>> drivers_;  // a few: searched in order
};

// The logs found on disk, dealt out to `shards` (≥ 1) shards; one that would have none gets a fresh one. The first of
// each takes its new mail. kResourceExhausted: all numbers are taken.
[[nodiscard]] StatusOr<std::vector<std::vector<std::uint16_t>>> deal_out_logs(std::set<std::uint16_t> found,
                                                                              std::size_t shards);

}  // namespace postern::shard
