// posternd: the command line. What it leads to is in control.cc (running) and config.cc (checking).
#include <cstdio>
#include <string>

#include <CLI/CLI.hpp>

#include "daemon/config.h"
#include "daemon/config_keys.h"
#include "daemon/control.h"
#include "daemon/recipients.h"
#include "daemon/stderr_log.h"
#include "daemon/system.h"

#ifdef POSTERN_MIMALLOC
#include <mimalloc.h>
#endif

namespace {

using postern::daemon::LoadedConfig;

std::string version_text() {
  std::string text = "posternd " POSTERN_VERSION;
#ifdef POSTERN_MIMALLOC
  // Said here so that the linker keeps the library, whose malloc replaces libc's by being loaded.
  text += " (mimalloc " + std::to_string(mi_version()) + ")";
#endif
  return text;
}

// Content comes and goes in chunks of 64 KiB: pages that go back to the kernel at once are faulted in again for the
// next message, at a tenth of its CPU. Freed memory is kept for some seconds. What the environment says goes before.
void keep_freed_memory() {
#ifdef POSTERN_MIMALLOC
  constexpr long keep_ms = 5000;
#if MI_MALLOC_VERSION >= 210
  mi_option_set_default(mi_option_purge_delay, keep_ms);
#else
  mi_option_set_default(mi_option_decommit_delay, keep_ms);
  mi_option_set_default(mi_option_segment_decommit_delay, keep_ms);
#endif
#endif
}

int print_faults(const LoadedConfig& loaded) {
  for (const std::string& text : loaded.warnings) std::fprintf(stderr, "warning: %s\n", text.c_str());
  for (const std::string& text : loaded.errors) std::fprintf(stderr, "%s\n", text.c_str());
  return loaded.options ? postern::daemon::exit_ok : postern::daemon::exit_config;
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  CLI::App app("Postern, a mail transfer agent. Runs in the foreground and logs to stderr; see posternd(8).",
               "posternd");
  std::string config_path = "/etc/postern/posternd.toml";
  bool check = false;
  bool print = false;
  app.add_option("--config", config_path, "configuration, see posternd.toml(5)")
      ->type_name("FILE")
      ->capture_default_str();
  app.add_flag("--check", check, "validate the configuration and exit: 0 good, 78 bad");
  app.add_flag("--print-config", print, "print every key with its default and exit");
  app.set_version_flag("--version", version_text());
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& wrong) {  // also --help and --version
    return app.exit(wrong) == 0 ? postern::daemon::exit_ok : postern::daemon::exit_usage;
  }

  const postern::daemon::System system = postern::daemon::System::detect();
  if (print) {
    std::fputs(postern::daemon::print_config(system.hostname).c_str(), stdout);
    return postern::daemon::exit_ok;
  }
  LoadedConfig loaded = postern::daemon::load_config(config_path, system);
  if (check && loaded.options) {
    const auto recipients = postern::daemon::load_recipients(loaded.options->recipients, config_path);
    if (!recipients.ok()) {
      loaded.errors.emplace_back(postern::message_of(recipients.status()));
      loaded.options.reset();
    }
  }
  if (check || !loaded.options) return print_faults(loaded);

  postern::daemon::block_signals();
  postern::daemon::StderrLog log;
  for (const std::string& text : loaded.warnings) log.say(postern::shard::Severity::warning, text);
  return postern::daemon::run(config_path, system, loaded.options, log);
}
