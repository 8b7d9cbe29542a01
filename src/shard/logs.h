// The logs that one shard writes: the one that takes its new mail, and those that an earlier start with more shards
// left it. A settlement goes to the log in which its message lies.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

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

}  // namespace postern::shard
