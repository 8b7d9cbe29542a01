#include "shard/server.h"

#include <algorithm>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <pthread.h>
#include <sched.h>
#include <set>
#include <system_error>
#include <tuple>
#include <utility>

#include <postern/base/check.h>
#include <postern/spool/types.h>

#include "io/blocking_file.h"
#include "io/descriptors.h"
#include "shard/logs.h"

namespace postern::shard {
namespace {

constexpr std::uint64_t mebibyte = 1u << 20;

MemoryBudget::Options memory_options(const Options& options) {
  MemoryBudget::Options made;
  made.total_bytes = options.memory_bytes;
  // Intake may never starve what empties the queue, nor both what tells of it.
  made.reserve_bytes[static_cast<std::size_t>(BudgetClass::intake)] = 0;
  made.reserve_bytes[static_cast<std::size_t>(BudgetClass::delivery)] = options.memory_bytes / 4;
  made.reserve_bytes[static_cast<std::size_t>(BudgetClass::control)] = options.memory_bytes / 16;
  made.lot_bytes = std::clamp<std::uint64_t>(options.memory_bytes / 128 / options.shards, 16u << 10, mebibyte);
  return made;
}

StatusOr<std::vector<std::vector<std::uint16_t>>> assign_logs(const Options& options) {
  const std::filesystem::path root = std::filesystem::path(options.data_dir) / "logs";
  std::error_code failure;
  std::filesystem::create_directory(root, failure);
  if (!failure) std::filesystem::permissions(root, std::filesystem::perms::owner_all, failure);
  if (failure) return error(StatusCode::kUnavailable, root.string() + ": " + failure.message());
  // Each log makes its own names durable; this one is nobody's. An earlier start may have died behind making it.
  POSTERN_RETURN_IF_ERROR(io::sync_directory(options.data_dir));
  std::set<std::uint16_t> found;
  for (const auto& entry : std::filesystem::directory_iterator(root, failure)) {
    const std::string name = entry.path().filename().string();
    if (const std::optional<std::uint16_t> log = spool::parse_log_name(name)) found.insert(*log);
  }
  if (failure) return error(StatusCode::kUnavailable, root.string() + ": " + failure.message());

  auto dealt = deal_out_logs(std::move(found), options.shards);
  if (!dealt.ok()) return error(dealt.status().code(), root.string() + ": " + std::string(message_of(dealt.status())));
  return dealt;
}

// Sockets that the shards cannot bind each for itself: those handed to the process, and unix sockets, which know no
// SO_REUSEPORT. All shards accept on the same one, each under a descriptor of its own: whoever is awake takes the next
// client, and nothing needs to be handed over. [shard][listener], -1: bind. `files`: of the unix sockets bound here.
StatusOr<std::vector<std::vector<io::Descriptor>>> share_listening(const Options& options, io::Loop& loop,
                                                                   std::vector<io::SocketFile>& files) {
  std::vector<std::vector<io::Descriptor>> shared(options.shards,
                                                  std::vector<io::Descriptor>(options.listeners.size(), -1));
  for (std::size_t i = 0; i < options.listeners.size(); ++i) {
    const ListenerOptions& listener = options.listeners[i];
    io::Descriptor socket = listener.inherited;
    if (!listener.is_inherited() && !listener.address.is_unix()) continue;
    if (!listener.is_inherited()) {
      const StatusOr<io::Descriptor> bound = loop.listen(listener.address, {.socket_mode = listener.socket_mode});
      if (!bound.ok()) return bound.status();
      socket = *bound;
      files.emplace_back(listener.address);
    }
    for (std::size_t shard = 0; shard + 1 < shared.size(); ++shard) {
      const StatusOr<int> copy = io::duplicate_descriptor(socket);
      if (!copy.ok()) return copy.status();
      shared[shard][i] = *copy;
    }
    shared.back()[i] = socket;
  }
  return shared;
}

void pin_to_cpu(std::thread& thread, std::size_t shard) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  const int count = CPU_COUNT(&allowed);
  if (count == 0) return;
  int wanted = static_cast<int>(shard % static_cast<std::size_t>(count));
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || wanted-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    // A hint: where it is refused, the scheduler decides.
    (void)pthread_setaffinity_np(thread.native_handle(), sizeof one, &one);
    return;
  }
}

}  // namespace

StatusOr<std::unique_ptr<Server>> Server::start(Setup setup) {
  const Options& options = *setup.options;
  std::unique_ptr<Server> server(new Server());
  server->options_ = setup.options;
  server->data_dir_ = options.data_dir;
  server->log_ = &setup.log;

  std::vector<std::unique_ptr<io::Loop>> loops;
  for (std::uint32_t i = 0; i < options.shards; ++i) {
    StatusOr<std::unique_ptr<io::Loop>> loop = setup.make_loop();
    if (!loop.ok()) return loop.status();
    loops.push_back(*std::move(loop));
  }
  struct {
    std::uint64_t site, cache, peers;
  } seeds;
  loops.front()->random(std::as_writable_bytes(std::span(&seeds, 1)));
  server->site_seed_ = seeds.site;
  StatusOr<SnapshotPtr> snapshot = Snapshot::make(setup.options, seeds.site, setup.recipients);
  if (!snapshot.ok()) return snapshot.status();
  StatusOr<std::vector<std::vector<std::uint16_t>>> logs = assign_logs(options);
  if (!logs.ok()) return logs.status();

  StatusOr<std::vector<std::vector<io::Descriptor>>> listening =
      share_listening(options, *loops.front(), server->socket_files_);
  if (!listening.ok()) return listening.status();

  dns::CacheOptions cache;
  cache.shards = options.shards;
  cache.seed = seeds.cache;
  // A site takes two entries of some 500 bytes: 32 MiB are enough for 30,000 that mail goes to. When they are more and
  // take turns, nothing is found again, so large machines have more.
  constexpr std::size_t largest = std::size_t{512} << 20;
  cache.bytes_max = std::max<std::size_t>(std::min<std::size_t>(cache.bytes_max, options.memory_bytes / 16),
                                          std::min<std::size_t>(largest, options.memory_bytes / 32));
  server->process_ = std::make_unique<Process>(memory_options(options), options.limits.connections,
                                               options.limits.connections_per_peer, seeds.peers, cache,
                                               static_cast<queue::ShardIndex>(options.shards), setup.log);
  server->process_->on_failure = std::move(setup.on_failure);
  StatusOr<std::unique_ptr<EventLog>> events =
      EventLog::start({.path = options.event_log.path,
                       .shards = options.shards,
                       .on_trouble = [log = &setup.log](std::string_view text) { log->say(Severity::warning, text); }});
  if (!events.ok()) return events.status();
  server->process_->event_log = *std::move(events);

  for (std::uint32_t i = 0; i < options.shards; ++i) {
    std::array<std::uint64_t, 4> seed{};
    loops[i]->random(std::as_writable_bytes(std::span(seed)));
    server->shards_.push_back(std::make_unique<Shard>(Shard::Setup{.index = static_cast<queue::ShardIndex>(i),
                                                                   .process = *server->process_,
                                                                   .loop = std::move(loops[i]),
                                                                   .snapshot = *snapshot,
                                                                   .logs = (*logs)[i],
                                                                   .listening = (*listening)[i],
                                                                   .seed = seed}));
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::size_t started = 0;
  Status outcome;
  server->running_ = options.shards;
  for (std::uint32_t i = 0; i < options.shards; ++i) {
    Shard* const shard = server->shards_[i].get();
    Server* const self = server.get();
    server->threads_.emplace_back([&, shard, self] {
      shard->run([&](const Status& status) {
        const std::lock_guard lock(mutex);
        ++started;
        if (!status.ok() && outcome.ok()) outcome = status;
        changed.notify_one();
      });
      --self->running_;
    });
    const std::string name = "shard" + std::to_string(i);
    pthread_setname_np(server->threads_.back().native_handle(), name.c_str());
    if (options.shards > 1) pin_to_cpu(server->threads_.back(), i);
  }
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return started == options.shards || !outcome.ok(); });
    if (!outcome.ok()) {
      // One cannot start: the others are told to stop, and may be short of their own start.
      for (const auto& shard : server->shards_) shard->request_stop(Duration::zero());
      changed.wait(lock, [&] { return started == options.shards || server->running_.load() == 0; });
    }
  }
  if (!outcome.ok()) {
    server->wait();
    return outcome;
  }
  return server;
}

Server::~Server() {
  for (io::SocketFile& file : socket_files_) file.remove();
  if (process_ == nullptr) return;
  request_stop(Duration::zero());
  wait();
  for (std::unique_ptr<Shard>& shard : shards_) {
    if (!shard->clean()) std::ignore = shard.release();
  }
}

void Server::request_stop(Duration grace) {
  stopping_ = true;
  for (io::SocketFile& file : socket_files_) file.remove();
  for (const auto& shard : shards_) shard->request_stop(grace);
}

void Server::wait() {
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

Status Server::reload(OptionsSnapshot options, std::shared_ptr<const policy::RecipientTable> recipients) {
  StatusOr<SnapshotPtr> snapshot = Snapshot::make(options, site_seed_, std::move(recipients));
  if (!snapshot.ok()) return snapshot.status();
  if ((*snapshot)->listeners.size() != options_->listeners.size()) {
    return error(StatusCode::kFailedPrecondition, "listeners were added or removed; restart to apply that");
  }
  options_ = std::move(options);
  for (const auto& shard : shards_) shard->reload(*snapshot);
  process_->event_log->reopen();
  return OkStatus();
}

Status Server::set_recipients(std::shared_ptr<const policy::RecipientTable> recipients) {
  const StatusOr<SnapshotPtr> snapshot = Snapshot::make(options_, site_seed_, std::move(recipients));
  if (!snapshot.ok()) return snapshot.status();
  for (const auto& shard : shards_) shard->reload(*snapshot);
  return OkStatus();
}

MetricsSum Server::metrics() {
  MetricsSum sum;
  for (const auto& shard : shards_) sum.add(shard->metrics());
  sum.memory_limit_bytes = process_->memory_budget.total_bytes();
  sum.events_dropped = process_->event_log->dropped();
  sum.shards = shards_.size();
  std::error_code failure;
  const std::filesystem::space_info space = std::filesystem::space(data_dir_, failure);
  if (!failure) sum.spool_free_bytes = space.available;
  return sum;
}

bool Server::healthy() {
  return !stopping_.load() && process_->exit_code.load() == 0 && running_.load() == shards_.size();
}

}  // namespace postern::shard
