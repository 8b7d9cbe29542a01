// postern-bench relay: source and sink around any SMTP relay, in one thread, and what a message costs the relay.
//
// Warm-up, then the measurement: from the first MAIL until everything accepted has arrived, and a little longer, so
// that what the relay does behind its last delivery counts too.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <unistd.h>
#include <vector>

#include <sys/socket.h>

#include "bench/arguments.h"
#include "bench/child.h"
#include "bench/commands.h"
#include "bench/drive.h"
#include "bench/engine.h"
#include "bench/interrupt.h"
#include "bench/ledger.h"
#include "bench/progress.h"
#include "bench/report.h"
#include "bench/sink.h"
#include "bench/source.h"
#include "bench/usage.h"

namespace postern::bench {
namespace {

constexpr Duration start_patience = std::chrono::seconds(60);
// A relay's last settlements are written behind its last delivery: in the next batch, 10–20 ms later with Postern.
constexpr Duration settle_time = std::chrono::milliseconds(200);

bool accepts_connections(const io::Address& address) {
  const int probe = ::socket(address.kernel()->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool accepted = probe >= 0 && ::connect(probe, address.kernel(), address.kernel_size()) == 0;
  if (probe >= 0) ::close(probe);
  return accepted;
}

// What is measured: a command of ours, a process that runs already, or nothing but the mail.
class Subject {
 public:
  [[nodiscard]] Status begin(const RelayArguments& arguments, const io::Address& target) {
    pid_ = static_cast<pid_t>(arguments.pid);
    if (pid_ != 0 && process_tree(pid_).empty()) {
      return error(StatusCode::kNotFound, "no process " + std::to_string(pid_));
    }
    if (!arguments.spool.empty()) {
      StatusOr<std::string> device = device_of(arguments.spool);
      if (!device.ok()) return device.status();
      device_ = *std::move(device);
    }
    if (!arguments.command.empty()) {
      if (accepts_connections(target)) {
        return error(StatusCode::kAlreadyExists,
                     target.to_string() + " is taken already: what answers there is not the command");
      }
      StatusOr<std::unique_ptr<Child>> child = Child::start(arguments.command);
      if (!child.ok()) return child.status();
      child_ = *std::move(child);
    }
    constexpr timespec pause{.tv_sec = 0, .tv_nsec = 20'000'000};
    const int tries = static_cast<int>(start_patience / std::chrono::milliseconds(20));
    for (int i = 0; i < tries && interrupts() == 0; ++i) {
      if (accepts_connections(target)) return OkStatus();
      if (child_ != nullptr && !child_->running()) {
        return error(StatusCode::kFailedPrecondition, "the command has ended before it took a connection");
      }
      if (child_ == nullptr) break;
      ::nanosleep(&pause, nullptr);
    }
    return error(StatusCode::kFailedPrecondition, "nothing takes connections at " + target.to_string());
  }

  [[nodiscard]] bool known() const { return child_ != nullptr || pid_ != 0; }
  [[nodiscard]] const std::string& device() const { return device_; }
  [[nodiscard]] const ControlGroup* group() const { return child_ == nullptr ? nullptr : child_->control_group(); }
  [[nodiscard]] std::vector<pid_t> processes() const {
    if (group() != nullptr) return group()->processes();
    return process_tree(child_ != nullptr ? child_->process() : pid_);
  }
  [[nodiscard]] Usage usage() const {
    Usage usage = usage_of(processes());
    if (const std::optional<Usage> cpu = group() == nullptr ? std::nullopt : group()->cpu()) {
      usage.cpu_us = cpu->cpu_us;
      usage.user_us = cpu->user_us;
      usage.system_us = cpu->system_us;
    }
    return usage;
  }
  void stop() {
    if (child_ != nullptr) child_->stop();
  }

 private:
  std::unique_ptr<Child> child_;
  pid_t pid_ = 0;
  std::string device_;
};

// The most memory that the relay held, looked at ten times a second while mail is sent.
class MemoryPeak {
 public:
  explicit MemoryPeak(const ControlGroup* group) : group_(group) {}
  void look(Instant now) {
    if (group_ == nullptr || now < next_) return;
    next_ = now + std::chrono::milliseconds(100);
    const std::optional<std::uint64_t> held = group_->anonymous_memory_bytes();
    if (held && *held > peak_.value_or(0)) peak_ = held;
  }
  // nullopt: it cannot be seen without a cgroup.
  [[nodiscard]] std::optional<std::uint64_t> bytes() const { return peak_; }

 private:
  const ControlGroup* group_;
  Instant next_{};
  std::optional<std::uint64_t> peak_;
};

// Of the relay's processes and of those that they start from now on.
struct Counters {
  StatusOr<std::unique_ptr<EventCounter>> system_calls;
  StatusOr<std::unique_ptr<EventCounter>> context_switches;
};

Counters attach_counters(const Subject& subject) {
  const Status nobody = error(StatusCode::kUnavailable, "neither --command nor --pid was given");
  if (!subject.known()) return {nobody, nobody};
  return {EventCounter::attach(EventCounter::Event::system_calls, subject.processes()),
          EventCounter::attach(EventCounter::Event::context_switches, subject.processes())};
}

struct Snapshot {
  Usage usage;
  std::optional<Disk> disk;
  std::uint64_t own_calls = 0;
};

Snapshot take_snapshot(const Subject& subject, const Engine& engine) {
  Snapshot made;
  if (subject.known()) made.usage = subject.usage();
  if (!subject.device().empty()) {
    if (const StatusOr<Disk> disk = disk_of(subject.device()); disk.ok()) made.disk = *disk;
  }
  made.own_calls = engine.loop->system_calls();
  return made;
}

// Waits until all that was accepted has arrived. The pause behind it is not part of any rate.
void drain(Engine& engine, const Ledger& ledger, Duration patience, Progress& progress) {
  const Instant until = engine.loop->clocks().monotonic + patience;
  while (ledger.outstanding() > 0 && interrupts() < 2 && engine.loop->now() < until) {
    engine.turn(std::min(until, progress.next()));
    const Instant now = engine.loop->now();
    if (progress.due(now)) progress.show("draining: " + std::to_string(ledger.outstanding()) + " to come", now);
  }
  const Instant settled = engine.loop->clocks().monotonic + settle_time;
  while (engine.loop->now() < settled) engine.turn(settled);
}

Json relay_figures(const Subject& subject, const Snapshot& before, const Snapshot& after, double messages,
                   const Counters& counters, const MemoryPeak& memory) {
  Json made = Json::object();
  if (subject.known()) {
    const Usage& a = before.usage;
    const Usage& b = after.usage;
    const std::vector<pid_t> processes = subject.processes();
    made["cpu_us_per_message"] = per(b.cpu_us - a.cpu_us, messages);
    made["user_cpu_us_per_message"] = per(b.user_us - a.user_us, messages);
    made["system_cpu_us_per_message"] = per(b.system_us - a.system_us, messages);
    made["context_switches_per_message"] =
        per(counters.context_switches.ok()
                ? static_cast<double>((*counters.context_switches)->count())
                : static_cast<double>(b.context_switches) - static_cast<double>(a.context_switches),
            messages);
    if (counters.system_calls.ok()) {
      made["system_calls_per_message"] = per(static_cast<double>((*counters.system_calls)->count()), messages);
    } else {
      made["system_calls_per_message"] = nullptr;
      made["system_calls_not_counted"] = std::string(message_of(counters.system_calls.status()));
    }
    if (a.disk_bytes_written && b.disk_bytes_written) {
      made["disk_bytes_per_message"] =
          per(static_cast<double>(*b.disk_bytes_written) - static_cast<double>(*a.disk_bytes_written), messages);
    }
    const std::optional<std::uint64_t> in_group =
        subject.group() == nullptr ? std::nullopt : subject.group()->peak_memory_bytes();
    made["peak_resident_bytes"] = peak_memory_of(processes);
    if (in_group) made["peak_memory_bytes"] = *in_group;  // with page cache and kernel memory
    if (memory.bytes()) made["peak_anonymous_bytes"] = *memory.bytes();
    made["processes"] = processes.size();
    made["measured_by"] = subject.group() == nullptr ? std::string("/proc") : std::string(subject.group()->name());
  }
  if (before.disk && after.disk) {
    const auto difference = [&](std::uint64_t Disk::* part) {
      return per(static_cast<double>((*after.disk).*part - (*before.disk).*part), messages);
    };
    made["device"] = subject.device();
    made["device_writes_per_message"] = difference(&Disk::writes);
    made["device_bytes_per_message"] = difference(&Disk::bytes_written);
    made["device_flushes_per_message"] = difference(&Disk::flushes);
  }
  return made;
}

}  // namespace

int run_relay(const RelayArguments& arguments) {
  const std::uint64_t run = new_run();
  const StatusOr<SourceOptions> options = source_options(arguments.load, arguments.target, run, wall_now());
  if (!options.ok()) return complain(options.status());
  const StatusOr<SinkOptions> hop = sink_options(arguments.hop, arguments.listen);
  if (!hop.ok()) return complain(hop.status());
  const StatusOr<Duration> patience = optional_duration(arguments.drain);
  if (!patience.ok()) return complain(patience.status());
  catch_interrupts();

  // Before the engine: a child shall not share its memory for a moment.
  Subject subject;
  if (const Status status = subject.begin(arguments, options->target); !status.ok()) return complain(status);
  constexpr std::size_t hop_connections = 1000;
  const StatusOr<std::unique_ptr<Engine>> started = start_engine(arguments.load.sessions + hop_connections);
  if (!started.ok()) return complain(started.status());
  Engine& engine = **started;

  Ledger warm_ledger(run + 1);
  Ledger ledger(run);
  Sink sink(engine, *hop, warm_ledger);
  if (const Status status = sink.open(); !status.ok()) return complain(status);
  Progress progress;
  if (arguments.warm_up > 0 && interrupts() == 0) {
    SourceOptions warm = *options;
    warm.content.run = run + 1;
    warm.count = arguments.warm_up;
    warm.duration = {};
    warm.rate = 0;
    Source source(engine, warm, &warm_ledger);
    source.start();
    drive(engine, source, progress, {});
    if (!source.done()) engine.end_connections();
    if (!source.status().ok()) {
      finish(engine, sink);
      return complain(source.status());
    }
    drain(engine, warm_ledger, *patience, progress);
  }

  sink.begin_anew(ledger);
  const Counters counters = attach_counters(subject);
  MemoryPeak memory(subject.group());
  const Snapshot before = take_snapshot(subject, engine);
  OwnUsage own;
  own.start();
  Source source(engine, *options, &ledger);
  source.start();
  drive(engine, source, progress, [&] { memory.look(engine.loop->now()); });
  drain(engine, ledger, *patience, progress);
  const double own_cpu = own.cpu_us();
  const Snapshot after = take_snapshot(subject, engine);

  const Source::Counts& sent = source.counts();
  const auto messages = static_cast<double>(sent.accepted);
  const double seconds = std::chrono::duration<double>(ledger.last_arrival() - source.began_at()).count();
  Json report;
  report["end_to_end_per_second"] =
      ledger.counts().arrived == 0
          ? 0.0
          : per(static_cast<double>(ledger.counts().arrived) / options->content.recipients, seconds);
  report["relay"] = relay_figures(subject, before, after, messages, counters, memory);
  report["source"] = to_json(source, *options);
  report["transit_ms"] = milliseconds(ledger.transit());
  Json came = to_json(sink.counts());
  came.update(to_json(ledger.counts()));
  came["undelivered"] = ledger.outstanding();
  report["sink"] = std::move(came);
  report["own_cpu_us_per_message"] = per(own_cpu, messages);
  report["own_system_calls_per_message"] = per(static_cast<double>(after.own_calls - before.own_calls), messages);
  report["surroundings"] = surroundings();
  subject.stop();
  finish(engine, sink);
  print(report, arguments.json);
  if (!source.status().ok()) return complain(source.status());
  const Ledger::Counts& counts = ledger.counts();
  const bool all_accepted = sent.accepted > 0 && sent.accepted == sent.begun;
  return all_accepted && ledger.outstanding() == 0 && counts.twice == 0 && counts.changed == 0 ? exit_good : exit_bad;
}

}  // namespace postern::bench
