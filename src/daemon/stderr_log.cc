#include "daemon/stderr_log.h"

#include <cstdlib>

#include <spdlog/async.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace postern::daemon {

StderrLog::StderrLog() {
  spdlog::init_thread_pool(queue_lines, 1);
  logger_ = spdlog::create_async_nb<spdlog::sinks::stderr_sink_mt>("posternd");
  // journald has the time already.
  logger_->set_pattern(std::getenv("JOURNAL_STREAM") != nullptr ? "%l: %v" : "%Y-%m-%dT%H:%M:%S.%e%z %l: %v");
  logger_->flush_on(spdlog::level::info);
}

StderrLog::~StderrLog() {
  logger_->flush();
  logger_.reset();
  spdlog::shutdown();
}

void StderrLog::say(shard::Severity severity, std::string_view text) {
  switch (severity) {
    case shard::Severity::info:
      logger_->info("{}", text);
      return;
    case shard::Severity::warning:
      logger_->warn("{}", text);
      return;
    case shard::Severity::error:
      logger_->error("{}", text);
      return;
  }
}

}  // namespace postern::daemon
