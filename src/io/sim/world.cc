#include "io/sim/world.h"

#include <algorithm>
#include <utility>

#include <postern/base/check.h>

#include "io/sim/sim_loop.h"

namespace postern::io::sim {

World::World(const Options& options)
    : options_(options),
      now_(options.start),
      wall_offset_(options.wall_start.time_since_epoch() - options.start.time_since_epoch()),
      random_(options.seed),
      network_(*this, options.network),
      disk_(*this, options.disk),
      // Numbers as a process has them: 0 to 2 are its terminal.
      entries_(3) {}

World::~World() {
  POSTERN_CHECK(loops_.empty() || crashed_, "a loop lives longer than its world");
}

void World::step_wall(Duration by) {
  wall_offset_ += by;
  note("wall clock stepped by", static_cast<std::uint64_t>(by.count()));
}

Duration World::between(Duration least, Duration most) {
  if (most <= least) return least;
  // In steps of 1/2^20: below() takes no more than 32 bits. Long spans are divided first, lest they overflow.
  constexpr int bits = 20;
  const auto span = (most - least).count();
  const auto step = static_cast<std::int64_t>(random_.below((std::uint64_t{1} << bits) + 1));
  return least + Duration(span < std::int64_t{1} << 40 ? (span * step) >> bits : (span >> bits) * step);
}

void World::at(Instant when, std::function<void()> what) {
  events_.push({.when = std::max(when, now_),
                .order = events_made_++,
                .what = std::make_shared<std::function<void()>>(std::move(what))});
}

std::unique_ptr<Loop> World::make_loop(const LoopOptions& options) {
  auto made = std::make_unique<SimLoop>(*this, options, loops_.size());
  loops_.push_back(made.get());
  return made;
}

void World::attach(Program& program, Loop& loop) {
  attached_.push_back({.program = &program, .loop = static_cast<SimLoop*>(&loop)});
}

void World::detach(Program& program) {
  std::erase_if(attached_, [&](const Attached& each) { return each.program == &program; });
}

bool World::run_one_event(Instant until) {
  if (events_.empty() || events_.top().when > until) return false;
  const Event event = events_.top();
  events_.pop();
  now_ = std::max(now_, event.when);
  (*event.what)();
  return true;
}

void World::run_events(Instant until, const std::function<bool()>& enough) {
  while (!enough()) {
    if (run_one_event(until)) continue;
    if (until != never) now_ = std::max(now_, until);
    return;
  }
}

bool World::run(Instant until, const std::function<bool()>& enough) {
  std::vector<Attached*> ready;
  while (!crashed_ && now_ < until) {
    if (enough && enough()) return true;
    ready.clear();
    Instant next = until;
    for (Attached& each : attached_) {
      if (!each.loop->ready() && each.due > now_ && each.program->due() < each.due) {
        breach("a loop sleeps although its program has something to do: nobody woke it");
        each.turn_at = now_;
      }
      if (each.loop->ready() || each.turn_at <= now_) {
        ready.push_back(&each);
      } else {
        next = std::min(next, each.turn_at);
      }
    }
    const bool event_due = !events_.empty() && events_.top().when <= now_;
    if (event_due && (ready.empty() || random_.below(2) == 0)) {
      (void)run_one_event(now_);
      continue;
    }
    if (ready.empty()) {
      if (!events_.empty() && events_.top().when <= next) {
        (void)run_one_event(next);
      } else {
        now_ = next;
      }
      continue;
    }
    Program& chosen = *ready[ready.size() > 1 ? random_.below(ready.size()) : 0]->program;
    chosen.step();
    now_ += between(std::chrono::microseconds(1), options_.turn_max);
    for (Attached& each : attached_) {
      if (each.program != &chosen) continue;
      each.due = chosen.due();
      const bool waits = each.due > now_ && each.due != never;
      each.turn_at = waits ? each.due + between(Duration::zero(), options_.lateness_max) : each.due;
      note("turn of loop", each.loop->number(), static_cast<std::uint64_t>(each.due.time_since_epoch().count()));
    }
  }
  return enough && enough();
}

// --- the process -----------------------------------------------------------------------------------------------------

void World::crash_at(std::uint64_t operation, bool power_cut) {
  crash_at_ = operation == 0 ? 0 : operations_ + operation;
  power_cut_ = power_cut;
}

void World::crash_in_write(std::uint64_t write, bool power_cut) {
  ++crash_plan_;
  crash_in_write_ = write;
  power_cut_ = power_cut;
}

void World::on_write_begun(Duration takes) {
  if (crash_in_write_ == 0) return;
  --crash_in_write_;
  if (crash_in_write_ != 0) return;
  at(now_ + between(Duration::zero(), takes), [this, plan = crash_plan_] {
    if (plan == crash_plan_ && !crashed_) crash();
  });
}

bool World::tick() {
  if (crashed_) return false;
  ++operations_;
  if (operations_ != crash_at_) return true;
  crash();
  return false;
}

void World::crash() {
  note(power_cut_ ? "power cut" : "killed", operations_);
  crashed_ = true;
  crash_at_ = crash_in_write_ = 0;
  for (SimLoop* const loop : loops_) loop->die();
  if (power_cut_) disk_.cut_power();
}

void World::end_process() {
  for (SimLoop* const loop : loops_) loop->die();
  loops_.clear();
  attached_.clear();
  for (Descriptor descriptor = 3; descriptor < static_cast<Descriptor>(entries_.size()); ++descriptor) {
    if (entries_[static_cast<std::size_t>(descriptor)].kind == Entry::Kind::free) continue;
    Entry& entry = entries_[static_cast<std::size_t>(descriptor)];
    if (power_cut_ && crashed_ && entry.kind == Entry::Kind::stream) entry.stream->vanish();
    remove(descriptor);
  }
  crashed_ = false;
  power_cut_ = false;
  crash_at_ = crash_in_write_ = 0;
  ++crash_plan_;
  note("the process has ended");
}

void World::breach(std::string_view what) {
  if (crashed_) return;
  say("breach of the loop's contract:", what);
  if (!breach_) breach_ = std::string(what);
}

// --- descriptors -----------------------------------------------------------------------------------------------------

Descriptor World::add(Entry entry) {
  if (!descriptors_left()) return -1;
  std::size_t place = 3;
  while (place < entries_.size() && entries_[place].kind != Entry::Kind::free) ++place;
  if (place == entries_.size()) entries_.emplace_back();
  entries_[place] = std::move(entry);
  ++open_;
  return static_cast<Descriptor>(place);
}

World::Entry* World::find(Descriptor descriptor) {
  if (descriptor < 0 || static_cast<std::size_t>(descriptor) >= entries_.size()) return nullptr;
  Entry& entry = entries_[static_cast<std::size_t>(descriptor)];
  return entry.kind == Entry::Kind::free ? nullptr : &entry;
}

void World::remove(Descriptor descriptor) {
  Entry* const found = find(descriptor);
  if (found == nullptr) return;
  const Entry entry = std::exchange(*found, {});
  --open_;
  switch (entry.kind) {
    case Entry::Kind::listener:
      network_.close(*entry.listener);
      break;
    case Entry::Kind::stream:
      entry.stream->close();
      break;
    case Entry::Kind::datagram:
      network_.close(*entry.datagram);
      break;
    default:
      break;
  }
}

}  // namespace postern::io::sim
