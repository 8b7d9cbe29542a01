// postern-bench source.
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <string>

#include <postern/base/check.h>

#include "bench/arguments.h"
#include "bench/commands.h"
#include "bench/drive.h"
#include "bench/engine.h"
#include "bench/interrupt.h"
#include "bench/progress.h"
#include "bench/report.h"
#include "bench/source.h"

namespace postern::bench {

int run_source(const SourceArguments& arguments) {
  const StatusOr<std::unique_ptr<Engine>> engine = start_engine(arguments.load.sessions);
  if (!engine.ok()) return complain(engine.status());
  const StatusOr<SourceOptions> options = source_options(arguments.load, arguments.target, new_run(), wall_now());
  if (!options.ok()) return complain(options.status());

  Source source(**engine, *options, nullptr);
  Progress progress;
  OwnUsage usage;
  const std::uint64_t calls = (*engine)->loop->system_calls();
  usage.start();
  source.start();
  drive(**engine, source, progress, {});
  const double cpu = usage.cpu_us();
  (*engine)->end_connections();

  Json report = to_json(source, *options);
  const auto accepted = static_cast<double>(source.counts().accepted);
  report["own_cpu_us_per_message"] = per(cpu, accepted);
  report["own_system_calls_per_message"] = per(static_cast<double>((*engine)->loop->system_calls() - calls), accepted);
  report["surroundings"] = surroundings();
  print(report, arguments.json);
  if (!source.status().ok()) return complain(source.status());
  return source.counts().accepted > 0 && source.counts().accepted == source.counts().begun ? exit_good : exit_bad;
}

}  // namespace postern::bench
