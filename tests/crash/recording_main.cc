// posternd-recording --config FILE: posternd on loops that record. Everything else is the daemon's: its configuration,
// start, threads, rings, stop. FILE.trace becomes what io/record/trace.h describes.
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <postern/base/status.h>

#include "daemon/config.h"
#include "daemon/control.h"
#include "daemon/stderr_log.h"
#include "daemon/system.h"
#include "io/record/recording_loop.h"
#include "io/record/trace.h"

int main(int count, char** words) {
  using namespace postern;  // NOLINT(google-build-using-namespace): this program is nothing but a call of it
  if (count != 3 || std::string_view(words[1]) != "--config") {
    std::fprintf(stderr, "posternd-recording --config FILE\n");
    return daemon::exit_usage;
  }
  const std::string config_path = words[2];
  const daemon::System system = daemon::System::detect();
  const daemon::LoadedConfig loaded = daemon::load_config(config_path, system);
  for (const std::string& text : loaded.errors) std::fprintf(stderr, "%s\n", text.c_str());
  if (!loaded.options) return daemon::exit_config;

  const StatusOr<std::unique_ptr<io::record::TraceWriter>> trace =
      io::record::TraceWriter::create(config_path + ".trace");
  if (!trace.ok()) {
    std::fprintf(stderr, "%s\n", std::string(message_of(trace.status())).c_str());
    return daemon::exit_system;
  }
  daemon::block_signals();
  daemon::StderrLog log;
  const int code = daemon::run(config_path, system, loaded.options, log, [&]() -> StatusOr<std::unique_ptr<io::Loop>> {
    StatusOr<std::unique_ptr<io::Loop>> within = daemon::make_usual_loop();
    if (!within.ok()) return within.status();
    return io::record::make_recording_loop(*std::move(within), **trace);
  });
  if (const Status status = (*trace)->finish(); !status.ok()) {
    std::fprintf(stderr, "%s\n", std::string(message_of(status)).c_str());
    return daemon::exit_system;
  }
  return code;
}
