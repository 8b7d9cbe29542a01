// postern-bench sink.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "bench/arguments.h"
#include "bench/commands.h"
#include "bench/drive.h"
#include "bench/engine.h"
#include "bench/interrupt.h"
#include "bench/ledger.h"
#include "bench/progress.h"
#include "bench/report.h"
#include "bench/sink.h"

namespace postern::bench {

int run_sink(const SinkArguments& arguments) {
  constexpr std::size_t connections_usual = 1000;
  const StatusOr<std::unique_ptr<Engine>> engine =
      start_engine(std::max<std::size_t>(arguments.hop.connections, connections_usual));
  if (!engine.ok()) return complain(engine.status());
  const StatusOr<SinkOptions> options = sink_options(arguments.hop, arguments.listen);
  if (!options.ok()) return complain(options.status());
  const StatusOr<Duration> idle = optional_duration(arguments.idle);
  if (!idle.ok()) return complain(idle.status());

  Ledger ledger;
  Sink sink(**engine, *options, ledger);
  if (const Status status = sink.open(); !status.ok()) return complain(status);
  if (const StatusOr<io::Address> address = sink.address(); address.ok()) {
    std::fprintf(stderr, "listening on %s\n", address->to_string().c_str());
  }
  Progress progress;
  OwnUsage usage;
  usage.start();
  const std::uint64_t calls = (*engine)->loop->system_calls();
  std::uint64_t shown = 0;
  while (interrupts() == 0) {
    if (arguments.expect > 0 && ledger.counts().arrived >= arguments.expect * ledger.recipients_per_message()) break;
    Instant end = never;
    if (*idle > Duration::zero() && sink.counts().messages > 0) end = sink.last_message_at() + *idle;
    (*engine)->turn(std::min(end, progress.next()));
    const Instant now = (*engine)->loop->now();
    if (now >= end && now >= sink.last_message_at() + *idle) break;
    if (progress.due(now)) {
      const std::uint64_t messages = sink.counts().messages;
      progress.show(std::to_string(messages) + " messages, " + std::to_string(messages - shown) + "/s", now);
      shown = messages;
    }
  }
  const double cpu = usage.cpu_us();
  finish(**engine, sink);

  const Ledger::Counts& counts = ledger.counts();
  const std::uint64_t wanted = arguments.expect > 0 ? arguments.expect : ledger.messages_seen();
  Json report = to_json(sink.counts());
  report.update(to_json(counts));
  const std::uint64_t lost = ledger.missing(wanted);
  report["lost"] = lost;
  const auto messages = static_cast<double>(sink.counts().messages);
  if (counts.arrived > 1) {
    const double seconds = std::chrono::duration<double>(ledger.last_arrival() - ledger.first_arrival()).count();
    report["messages_per_second"] = per(messages, seconds);
  }
  report["own_cpu_us_per_message"] = per(cpu, messages);
  report["own_system_calls_per_message"] = per(static_cast<double>((*engine)->loop->system_calls() - calls), messages);
  report["surroundings"] = surroundings();
  print(report, arguments.json);
  return lost == 0 && counts.twice == 0 && counts.changed == 0 ? exit_good : exit_bad;
}

}  // namespace postern::bench
