#include "tests/sim/relay.h"

#include <algorithm>
#include <array>
#include <set>
#include <span>
#include <tuple>
#include <utility>

#include <postern/base/check.h>
#include <postern/spool/types.h>

#include "shard/event_log.h"
#include "shard/logs.h"
#include "shard/snapshot.h"

namespace postern::sim {
namespace {

MemoryBudget::Options memory_options(const shard::Options& options) {
  MemoryBudget::Options made;
  made.total_bytes = options.memory_bytes;
  made.reserve_bytes[static_cast<std::size_t>(BudgetClass::delivery)] = options.memory_bytes / 4;
  made.reserve_bytes[static_cast<std::size_t>(BudgetClass::control)] = options.memory_bytes / 16;
  made.lot_bytes = 16u << 10;
  return made;
}

std::set<std::uint16_t> logs_on(const io::sim::Disk& disk, const shard::Options& options) {
  std::vector<std::string> names;
  POSTERN_CHECK(disk.list(options.data_dir + "/logs", names) == 0, "the folder of the logs is there");
  std::set<std::uint16_t> found;
  for (const std::string& name : names) {
    if (const std::optional<std::uint16_t> log = spool::parse_log_name(name)) found.insert(*log);
  }
  return found;
}

std::uint64_t random_number(io::sim::World& world) {
  return world.random()();
}

}  // namespace

class Relay::Turn final : public io::sim::World::Program {
 public:
  Turn(io::sim::World& world, shard::Shard& shard) : world_(world), shard_(shard) {}
  Instant due() override { return shard_.done() ? never : shard_.turn_due(); }
  void step() override {
    if (!shard_.done()) shard_.step();
    if (shard_.done()) world_.detach(*this);
  }

 private:
  io::sim::World& world_;
  shard::Shard& shard_;
};

Relay::Relay(io::sim::World& world, const shard::OptionsSnapshot& options, const io::sim::LoopOptions& loop_options,
             std::size_t mailbox_letters)
    : world_(world), receive_buffers_(loop_options.receive_buffers), site_seed_(random_number(world)) {
  const StatusOr<shard::SnapshotPtr> snapshot = shard::Snapshot::make(options, site_seed_);
  POSTERN_CHECK(snapshot.ok(), "the simulator's options are right");
  dns::CacheOptions cache;
  cache.shards = options->shards;
  cache.seed = random_number(world);
  cache.bytes_max = std::min<std::size_t>(cache.bytes_max, options->memory_bytes / 16);
  process_ = std::make_unique<shard::Process>(
      memory_options(*options), options->limits.connections, options->limits.connections_per_peer, random_number(world),
      cache, static_cast<queue::ShardIndex>(options->shards), static_cast<shard::OperatorLog&>(*this), mailbox_letters);
  StatusOr<std::unique_ptr<shard::EventLog>> events =
      shard::EventLog::start({.path = "", .shards = options->shards, .on_trouble = nullptr});
  POSTERN_CHECK(events.ok(), "no event log is always possible");
  process_->event_log = *std::move(events);

  const auto logs = *shard::deal_out_logs(logs_on(world.disk(), *options), options->shards);
  for (std::uint32_t i = 0; i < options->shards; ++i) {
    std::unique_ptr<io::Loop> loop = world.make_loop(loop_options);
    loops_.push_back(loop.get());
    std::array<std::uint64_t, 4> seed{};
    for (std::uint64_t& each : seed) each = random_number(world);
    shards_.push_back(std::make_unique<shard::Shard>(
        shard::Shard::Setup{.index = static_cast<queue::ShardIndex>(i),
                            .process = *process_,
                            .loop = std::move(loop),
                            .snapshot = *snapshot,
                            .logs = logs[i],
                            .listening = std::vector<io::Descriptor>(options->listeners.size(), -1),
                            .seed = seed}));
  }
  for (std::size_t i = 0; i < shards_.size(); ++i) {
    turns_.push_back(std::make_unique<Turn>(world, *shards_[i]));
    world.attach(*turns_.back(), *loops_[i]);
    shards_[i]->begin([this](const Status& status) {
      ++started_;
      if (!status.ok()) start_failure_ = status;
    });
  }
}

Relay::~Relay() {
  if (!shards_.empty()) abandon();
}

void Relay::say(shard::Severity severity, std::string_view text) {
  world_.say(severity == shard::Severity::info ? "relay says:" : "relay ALARMS:", text);
  if (severity != shard::Severity::info) alarms_.emplace_back(text);
}

void Relay::request_stop(Duration grace) {
  stopping_ = true;
  for (const auto& shard : shards_) shard->request_stop(grace);
}

void Relay::reload(const shard::OptionsSnapshot& options) {
  const StatusOr<shard::SnapshotPtr> snapshot = shard::Snapshot::make(options, site_seed_);
  POSTERN_CHECK(snapshot.ok(), "the simulator's options are right");
  for (const auto& shard : shards_) shard->reload(*snapshot);
}

bool Relay::stopped() const {
  return std::ranges::all_of(shards_, [](const auto& shard) { return shard->done(); });
}

bool Relay::clean() const {
  return std::ranges::all_of(shards_, [](const auto& shard) { return shard->clean(); });
}

std::int64_t Relay::waiting() const {
  std::int64_t sum = 0;
  for (const auto& shard : shards_) {
    const shard::Metrics& metrics = shard->metrics();
    sum +=
        metrics.recipients_scheduled.value() + metrics.recipients_ready.value() + metrics.recipients_in_flight.value();
  }
  return sum;
}

std::int64_t Relay::in_flight() const {
  std::int64_t sum = 0;
  for (const auto& shard : shards_) sum += shard->metrics().recipients_in_flight.value();
  return sum;
}

std::uint64_t Relay::deferred() const {
  std::uint64_t sum = 0;
  for (const auto& shard : shards_) sum += shard->metrics().recipients_deferred.value();
  return sum;
}

std::uint64_t Relay::quarantined() const {
  std::uint64_t sum = 0;
  for (const auto& shard : shards_) sum += shard->metrics().spool_messages_quarantined.value();
  return sum;
}

std::int64_t Relay::connections_in() const {
  std::int64_t sum = 0;
  for (const auto& shard : shards_) sum += shard->metrics().connections_in.value();
  return sum;
}

std::int64_t Relay::connections_out() const {
  std::int64_t sum = 0;
  for (const auto& shard : shards_) sum += shard->metrics().connections_out.value();
  return sum;
}

std::size_t Relay::buffers_lent() const {
  std::size_t sum = 0;
  for (const io::Loop* const loop : loops_) sum += receive_buffers_ - loop->buffers_free();
  return sum;
}

void Relay::abandon() {
  for (const auto& turn : turns_) world_.detach(*turn);
  for (std::unique_ptr<shard::Shard>& shard : shards_) std::ignore = shard.release();
  std::ignore = process_.release();
  shards_.clear();
}

void Relay::take_down() {
  shards_.clear();
  loops_.clear();
}

}  // namespace postern::sim
