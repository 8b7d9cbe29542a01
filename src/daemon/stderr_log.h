// The operator log: lines on stderr, written by spdlog's own thread.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "shard/operator_log.h"

namespace spdlog {
class logger;
}

namespace postern::daemon {

class StderrLog final : public shard::OperatorLog {
 public:
  // When `queue_lines` lines wait for a slow stderr, the oldest are lost, never a shard's time.
  static constexpr std::size_t queue_lines = 8192;

  StderrLog();
  // Writes what still waits.
  ~StderrLog();
  StderrLog(const StderrLog&) = delete;
  StderrLog& operator=(const StderrLog&) = delete;

  void say(shard::Severity severity, std::string_view text) override;

 private:
  std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace postern::daemon
