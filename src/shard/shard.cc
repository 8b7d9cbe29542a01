#include "shard/shard.h"

#include <algorithm>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/planted.h>

namespace postern::shard {
namespace {

constexpr std::size_t letters_per_turn = 1024;
constexpr std::size_t timers_per_turn = 4096;
// Rounds of work in one turn before the loop looks at the sockets again.
constexpr int work_rounds = 16;
constexpr std::size_t starts_per_round = 256;
// Over which ETRN spreads what it makes due.
constexpr Duration wake_spread = std::chrono::seconds(2);
// After the grace: for outcomes and settlements of what was aborted.
constexpr Duration flush_max = std::chrono::seconds(10);
// While mail is taken up from the spool, the operator is told how far it is this often.
constexpr Duration progress_interval = std::chrono::seconds(5);
// Some fifteen million messages are taken up in it. Less than queue::OwnerQueue's last chance for what is too old.
constexpr Duration gather_max = std::chrono::minutes(5);

queue::OwnerQueue::Options queue_options(const Options& options) {
  queue::OwnerQueue::Options made;
  made.schedule = queue::RetrySchedule(options.retry.schedule);
  return made;
}

egress::EgressOptions egress_options(const Options& options) {
  egress::EgressOptions made;
  made.session.ehlo_name = options.hostname;
  made.session.timeouts.greeting = options.smtp_client.reply_timeout;
  made.session.timeouts.ehlo = options.smtp_client.reply_timeout;
  made.session.timeouts.mail = options.smtp_client.reply_timeout;
  made.session.timeouts.rcpt = options.smtp_client.reply_timeout;
  made.session.timeouts.data = std::min<Duration>(made.session.timeouts.data, options.smtp_client.reply_timeout);
  made.session.timeouts.end_of_data = options.smtp_client.content_timeout;
  made.hostname = options.hostname;
  made.connect_timeout = options.smtp_client.connect_timeout;
  made.idle = options.smtp_client.idle;
  made.messages_per_connection = options.smtp_client.messages_per_connection;
  made.connections_max = std::max(options.smtp_client.connections / options.shards, 1u);
  made.tls_timeout = std::min(made.tls_timeout, options.smtp_client.reply_timeout);
  return made;
}

egress::EgressTls egress_tls(const Options& options) {
  return {.context = options.smtp_client.tls.context, .usual = options.smtp_client.tls.usual};
}

egress::EgressCredentials egress_credentials(const Options& options) {
  egress::EgressCredentials made;
  for (const CredentialsOptions& one : options.smtp_client.credentials) made.emplace(one.name, one.made);
  return made;
}

ingress::IngressOptions ingress_options(const Options& options) {
  ingress::IngressOptions made;
  made.connections_max = options.limits.connections;
  made.stress_percent = options.limits.stress_at;
  made.stress_idle = options.limits.stress_idle;
  made.inline_content_max = spool_options(options).inline_content_max;
  return made;
}

std::vector<io::Address> dns_servers(const Options& options) {
  std::vector<io::Address> made;
  made.reserve(options.dns.servers.size());
  for (const dns::ServerAddress& server : options.dns.servers)
    made.push_back(io::Address::ip(server.address, server.port));
  return made;
}

Random fork(Random& random) {
  return Random({random(), random(), random(), random()});
}

}  // namespace

struct Shard::ResolverSink final : net::CompletionHandler {
  explicit ResolverSink(Shard& of) : shard(of) {}
  void on_completion(const io::Completion& completion) override { shard.resolver_->on_completion(completion); }
  Shard& shard;
};

struct Shard::LogSink final : net::CompletionHandler {
  explicit LogSink(Shard& of) : shard(of) {}
  void on_completion(const io::Completion& completion) override {
    shard.logs_.all()[completion.token.slot >> 24]->on_completion(completion);
  }
  Shard& shard;
};

Shard::Shard(Setup setup)
    : index_(setup.index),
      process_(setup.process),
      loop_(std::move(setup.loop)),
      snapshot_(std::move(setup.snapshot)),
      events_(process_.event_log->buffer(index_)),
      random_(setup.seed),
      mailbox_(process_.mailboxes, index_),
      timers_(loop_->now()),
      connections_(*loop_, dispatcher_, timers_),
      dns_reader_(process_.dns_cache, index_),
      resolver_sink_(std::make_unique<ResolverSink>(*this)),
      resolver_(std::make_unique<resolver::Resolver>(
          *loop_, dns_reader_, static_cast<resolver::Notifier&>(*this),
          resolver::ResolverOptions{.servers = dns_servers(*snapshot_->options),
                                    .lookup = snapshot_->options->dns.lookup,
                                    .first_kind = dispatcher_.claim(*resolver_sink_, resolver::Resolver::kinds)},
          fork(random_))),
      log_sink_(std::make_unique<LogSink>(*this)),
      store_(process_.memory_budget),
      queue_(queue_options(*snapshot_->options), fork(random_)),
      slots_(index_),
      broker_({.shards = process_.mailboxes.shards(),
               .connections_per_path = snapshot_->options->smtp_client.connections_per_path +
                                       (POSTERN_PLANTED(limit_ignored_by_one_shard) && index_ == 1 ? 1u : 0u),
               .recipients_max = snapshot_->options->smtp_client.recipients}),
      router_(queue_, *resolver_, *loop_, fork(random_)),
      callouts_({.self = index_,
                 .loop = *loop_,
                 .resolver = *resolver_,
                 .timers = timers_,
                 .metrics = metrics_,
                 .events = events_,
                 .user = *this,
                 .random = fork(random_)}),
      intake_({.loop = *loop_,
               .logs = logs_,
               .store = store_,
               .router = router_,
               .metrics = metrics_,
               .events = events_,
               .user = *this,
               .callouts = callouts_}),
      owner_({.self = index_,
              .loop = *loop_,
              .queue = queue_,
              .store = store_,
              .logs = logs_,
              .router = router_,
              .intake = intake_,
              .metrics = metrics_,
              .events = events_,
              .user = *this,
              .random = fork(random_)}),
      pieces_(index_, logs_, mailbox_),
      egress_({.loop = *loop_,
               .connections = connections_,
               .dispatcher = dispatcher_,
               .timers = timers_,
               .user = *this,
               .pieces = pieces_,
               .options = egress_options(*snapshot_->options),
               .tls = egress_tls(*snapshot_->options),
               .credentials = egress_credentials(*snapshot_->options)}),
      ingress_({.connections = connections_,
                .dispatcher = dispatcher_,
                .timers = timers_,
                .loop = *loop_,
                .door = intake_,
                .observer = *this,
                .connection_count = process_.connection_count,
                .peer_counts = process_.peer_counts,
                .handshake_rates = process_.handshake_rates,
                .connection_rates = process_.connection_rates,
                .message_rates = process_.message_rates,
                .auth_failures = process_.auth_failures,
                .relay_policy = snapshot_->relay_policy,
                .recipients = snapshot_->recipients,
                .users = snapshot_->users,
                .options = ingress_options(*snapshot_->options)}) {
  listening_ = std::move(setup.listening);
  router_.set_snapshot(snapshot_);
  callouts_.set_snapshot(snapshot_);
  intake_.set_snapshot(snapshot_);
  owner_.set_snapshot(snapshot_);
  const std::uint8_t kind = dispatcher_.claim(*log_sink_);
  POSTERN_CHECK(setup.logs.size() <= 255, "more logs than a shard's tokens can name");
  for (std::size_t i = 0; i < setup.logs.size(); ++i) {
    logs_.add(std::make_unique<LogDriver>(
        LogDriver::Setup{.loop = *loop_,
                         .user = *this,
                         .metrics = metrics_,
                         .said_buffered = process_.said_buffered,
                         .data_dir = snapshot_->options->data_dir,
                         .log = setup.logs[i],
                         .synced = snapshot_->options->spool.durability == Durability::synced,
                         .options = spool_options(*snapshot_->options),
                         .kind = kind,
                         .index = static_cast<std::uint8_t>(i)}));
  }
  process_.mailboxes.set_waker(index_, loop_->waker());
}

Shard::~Shard() = default;

// --- orders from other threads ---------------------------------------------------------------------------------------

void Shard::request_stop(Duration grace) {
  stop_grace_ns_.store(std::max<std::int64_t>(grace.count(), 0));
  loop_->waker().wake();
}

void Shard::reload(SnapshotPtr snapshot) {
  new_snapshot_.store(std::move(snapshot));
  loop_->waker().wake();
}

void Shard::take_orders() {
  if (SnapshotPtr fresh = new_snapshot_.exchange(nullptr)) {
    snapshot_ = fresh;
    router_.set_snapshot(fresh);
    callouts_.set_snapshot(fresh);
    intake_.set_snapshot(fresh);
    owner_.set_snapshot(fresh);
    ingress_.set_policy(fresh->relay_policy, fresh->recipients, fresh->users);
    for (std::size_t i = 0; i < fresh->listeners.size(); ++i) ingress_.set_context(i, fresh->listeners[i]);
    egress_.set_tls(egress_tls(*fresh->options));
    egress_.set_credentials(egress_credentials(*fresh->options));
  }
  const std::int64_t grace = stop_grace_ns_.load(std::memory_order_relaxed);
  if (grace < 0) return;
  const Instant deadline = loop_->now() + Duration(grace);
  if (phase_ < Phase::stopping) {
    phase_ = Phase::stopping;
    stop_deadline_ = deadline;
    ingress_.stop_accepting();
    callouts_.stop();
    ingress_.shut_down();
    egress_.close_all_idle();
    egress_.give_up_questions();
    owner_.stop_waiting();
    for (const auto& driver : logs_.all()) driver->stop_waiting();
  }
  stop_deadline_ = std::min(stop_deadline_, deadline);
  stop_grace_ns_.store(-1, std::memory_order_relaxed);
}

// --- the loop --------------------------------------------------------------------------------------------------------

void Shard::run(Started started) {
  begin(std::move(started));
  while (!done()) step();
}

void Shard::begin(Started started) {
  started_ = std::move(started);
  for (const auto& driver : logs_.all()) driver->start();
  dns_reader_.online();
}

void Shard::step() {
  const Instant deadline = next_deadline();
  // A shard that may sleep must not keep the cache from giving memory back.
  if (deadline > loop_->now()) {
    dns_reader_.offline();
  } else {
    dns_reader_.quiescent();
  }
  const std::size_t completions = loop_->run_once(*this, deadline);
  if (!dns_reader_.is_online()) dns_reader_.online();
  turn(completions > 0);
  if (done()) dns_reader_.offline();
}

void Shard::on_completion(const io::Completion& completion) {
  if (!dns_reader_.is_online()) dns_reader_.online();
  dispatcher_.on_completion(completion);
}

void Shard::turn(bool more_is_coming) {
  const Instant now = loop_->now();
  take_orders();
  mailbox_.receive(letters_per_turn, [this](Letter&& letter) { receive(std::move(letter)); });
  timers_.advance(now, timers_per_turn);
  if (resolver_->next_deadline() <= now) resolver_->on_deadline(now);
#ifdef POSTERN_PLANTED_BUGS
  if (POSTERN_PLANTED(clock_step)) {
    ClockPair clocks = loop_->clocks();
    const auto apart = [&] { return clocks.wall.time_since_epoch() - clocks.monotonic.time_since_epoch(); };
    static const Duration apart_at_first = apart();
    clocks.monotonic += apart() - apart_at_first;
    if (queue_.next_deadline() <= clocks.monotonic) queue_.on_deadline(clocks);
  }
#endif
  if (queue_deadline() <= now && !POSTERN_PLANTED(clock_step)) queue_.on_deadline(loop_->clocks());
  if (gather_until_ <= now) end_gathering();
  if (slots_.next_deadline() <= now) slots_.on_deadline(now);
  if (broker_.next_deadline() <= now) broker_.on_deadline(now);
  work();
  for (const auto& driver : logs_.all()) driver->turn(now, more_is_coming);
  if (now >= next_second_) on_second(now);
  if (ingress_.anyone_stalled() && store_.take_freed()) ingress_.on_resources();
  advance_start();
  if (phase_ >= Phase::stopping) advance_stop(now);
  tell_rest(done() ? never : now);
  letters_left_ = mailbox_.flush();
  set_gauges();
}

// What stands now; a few stores, so that whoever looks never sees an old picture.
void Shard::set_gauges() {
  metrics_.loop_turns.add();
  const queue::OwnerQueue::Counts& counts = queue_.counts();
  std::size_t scheduled = counts.scheduled;
  if (replays_ > 0) {
    // Messages that the spool holds and the queue has not taken up yet wait as well.
    std::uint64_t live = 0;
    for (const auto& driver : logs_.all()) live += driver->log().index().live_messages();
    const std::uint64_t left = live - std::min<std::uint64_t>(live, queue_.message_count());
    scheduled += left;
    if (loop_->now() >= next_progress_) {
      next_progress_ = loop_->now() + progress_interval;
      say(Severity::info, "shard " + std::to_string(index_) + ": taking up mail from the spool, " +
                              std::to_string(queue_.message_count()) + " messages done, " + std::to_string(left) +
                              " to go");
    }
  }
  metrics_.recipients_scheduled.set(static_cast<std::int64_t>(scheduled));
  metrics_.recipients_ready.set(static_cast<std::int64_t>(counts.ready + counts.routing));
  metrics_.recipients_in_flight.set(static_cast<std::int64_t>(counts.in_flight));
  metrics_.connections_out.set(static_cast<std::int64_t>(egress_.open_connections()));
  metrics_.connections_in.set(ingress_.connection_count());
}

// Carries outputs to inputs until nothing moves.
void Shard::work() {
  work_left_ = true;
  for (int round = 0; round < work_rounds; ++round) {
    bool any = false;
    while (router_.has_room() && !owner_.congested()) {
      const std::optional<queue::DestinationToRoute> destination = queue_.take_destination_to_route();
      if (!destination) break;
      router_.route(*destination);
      any = true;
    }
    while (const std::optional<mail::SiteId> site = queue_.take_notice()) {
      slots_.on_ready(*site, loop_->now());
      any = true;
    }
    while (const std::optional<mail::SiteId> site = callouts_.take_notice()) {
      slots_.on_ready(*site, loop_->now());
      any = true;
    }
    while (const std::optional<queue::OwnerSlots::Output> output = slots_.take_output()) {
      carry(*output);
      any = true;
    }
    while (std::optional<queue::SlotBroker::Action> action = broker_.take_action()) {
      carry(*std::move(action));
      any = true;
    }
    any |= owner_.work();
    for (std::size_t i = 0; i < starts_per_round && (phase_ >= Phase::stopping || may_start()); ++i) {
      const std::optional<WaitingStart> start = waiting_starts_.take(egress_.has_place());
      if (!start) break;
      start_now(*start);
      any = true;
    }
    if (!waiting_starts_.empty()) egress_.free_places();
    if (!any) {
      work_left_ = false;
      return;
    }
  }
}

Instant Shard::next_deadline() {
  if (work_left_ || mailbox_.pending()) return Instant::min();
  Instant deadline =
      std::min({timers_.next_expiry(), resolver_->next_deadline(), queue_deadline(), slots_.next_deadline(),
                broker_.next_deadline(), owner_.next_deadline(), unreadable_.next_deadline(),
                lost_records_.next_deadline(), next_second_, gather_until_});
  for (const auto& driver : logs_.all()) deadline = std::min(deadline, driver->next_deadline());
  if (phase_ >= Phase::stopping) deadline = std::min({deadline, stop_deadline_, flush_deadline_});
  // Letters that found a mailbox full are offered again soon; connections that wait for memory, too.
  if (letters_left_) deadline = std::min(deadline, loop_->now() + std::chrono::milliseconds(1));
  if (ingress_.anyone_stalled()) deadline = std::min(deadline, loop_->now() + std::chrono::milliseconds(50));
  return deadline;
}

void Shard::on_second(Instant now) {
  next_second_ = now + std::chrono::seconds(1);
  ingress_.on_tick(now);
  if (ingress_.anyone_stalled()) ingress_.on_resources();
  if (++seconds_ % 60 == 0) {
    router_.sweep();
    store_.trim();
  }
  metrics_.stressed.set(ingress_.stressed() ? 1 : 0);
  metrics_.memory_bytes.set(static_cast<std::int64_t>(store_.used_bytes() + queue_.memory_bytes()));
  std::size_t segments = 0;
  for (const auto& driver : logs_.all()) {
    if (driver->ready()) segments += driver->log().index().segment_count();
  }
  metrics_.spool_segments.set(static_cast<std::int64_t>(segments));
  metrics_.spool_messages.set(static_cast<std::int64_t>(queue_.message_count()));
  const std::uint64_t calls = loop_->system_calls();
  metrics_.system_calls.add(calls - std::exchange(system_calls_seen_, calls));
  const std::uint64_t queries = resolver_->counters().queries;
  metrics_.dns_queries.add(queries - std::exchange(dns_queries_seen_, queries));
  metrics_.dns_cache_hits.add(dns_reader_.hits() - std::exchange(dns_hits_seen_, dns_reader_.hits()));
  metrics_.dns_cache_misses.add(dns_reader_.misses() - std::exchange(dns_misses_seen_, dns_reader_.misses()));
}

// --- start and stop --------------------------------------------------------------------------------------------------

void Shard::advance_start() {
  if (phase_ == Phase::recovering && logs_ready_ == logs_.all().size() && !counted_recovered_) {
    counted_recovered_ = true;
    if (process_.recovered.fetch_add(1) + 1 == process_.mailboxes.shards()) process_.mailboxes.wake_all();
  }
  if (phase_ == Phase::recovering && process_.recovered.load() == process_.mailboxes.shards()) {
    phase_ = Phase::opening;
    next_progress_ = loop_->now() + progress_interval;
    gather_until_ = loop_->now() + gather_max;
    queue_.gather();
    for (const auto& driver : logs_.all()) {
      ++replays_;
      driver->begin_replay();
    }
  }
  if (phase_ == Phase::opening && logs_.active().log().intake() != spool::Intake::starting) open();
}

void Shard::open() {
  for (std::size_t i = 0; i < snapshot_->listeners.size(); ++i) {
    const ListenerOptions& listener = snapshot_->options->listeners[i];
    const Status status = ingress_.listen(dispatcher_, listener.address, listening_[i], snapshot_->listeners[i]);
    if (!status.ok()) return fail_start(status);
  }
  addresses_ = ingress_.addresses();
  intake_.open();
  phase_ = Phase::running;
  if (started_) std::exchange(started_, nullptr)(OkStatus());
}

void Shard::fail_start(const Status& status) {
  phase_ = Phase::stopping;
  stop_deadline_ = loop_->now();
  ingress_.stop_accepting();
  if (started_) std::exchange(started_, nullptr)(status);
}

bool Shard::quiet() const {
  return ingress_.stopped() && intake_.idle() && egress_.deliveries() == 0 && owner_.lent() == 0 && owner_.idle() &&
         callouts_.lent() == 0;
}

void Shard::advance_stop(Instant now) {
  if (phase_ == Phase::stopping) {
    if (quiet() && !counted_quiet_) {
      counted_quiet_ = true;
      if (process_.quiet.fetch_add(1) + 1 >= process_.mailboxes.shards()) process_.mailboxes.wake_all();
    }
    const bool all_quiet = process_.quiet.load() >= process_.mailboxes.shards();
    if (now >= stop_deadline_ && flush_deadline_ == never) {
      flush_deadline_ = now + flush_max;
      stop_deadline_ = never;
      ingress_.abort_all();
      egress_.abort_all();
    }
    if (!all_quiet && now < flush_deadline_) return;
    phase_ = Phase::flushing;
    flush_deadline_ = now + flush_max;
    resolver_->stop();
    connections_.abort_all();
    for (const auto& driver : logs_.all()) driver->stop_waiting();
    work_left_ = true;  // one more turn, so that the logs give out what they held back
    return;
  }
  if (phase_ == Phase::flushing) {
    const bool logs_idle = std::ranges::all_of(logs_.all(), [](const auto& driver) { return driver->idle(); });
    clean_ = logs_idle && owner_.idle() && callouts_.lent() == 0 && connections_.empty() && egress_.idle() &&
             resolver_->idle() && ingress_.stopped();
    if (clean_ || now >= flush_deadline_) phase_ = Phase::done;
  }
}

void Shard::say(Severity severity, const std::string& text) {
  process_.operator_log.say(severity, text);
}

// Of the alarms that were too many to be told one by one.
void Shard::tell_rest(Instant now) {
  if (std::min(unreadable_.next_deadline(), lost_records_.next_deadline()) > now) return;
  const std::string shard = "shard " + std::to_string(index_) + ": ";
  if (const std::optional<AlarmLimit::Rest> rest = unreadable_.take_rest(now)) {
    say(Severity::error, shard + std::to_string(rest->count) + " more messages cannot be read back: " + rest->reason);
  }
  if (const std::optional<AlarmLimit::Rest> rest = lost_records_.take_rest(now)) {
    say(Severity::error,
        shard + "the spool refused " + std::to_string(rest->count) + " more settlements: " + rest->reason);
  }
}

// --- letters and slots -----------------------------------------------------------------------------------------------

void Shard::receive(Letter&& letter) {
  const Instant now = loop_->now();
  if (auto* notice = std::get_if<queue::Notice>(&letter)) {
    broker_.on_notice(*notice, now);
  } else if (auto* request = std::get_if<queue::SlotRequest>(&letter)) {
    broker_.on_slot_request(*request, now);
  } else if (auto* slots = std::get_if<queue::SlotReturn>(&letter)) {
    broker_.on_slot_return(*slots, now);
  } else if (auto* grant = std::get_if<queue::SlotGrant>(&letter)) {
    slots_.on_slot_grant(*grant, now);
  } else if (auto* recall = std::get_if<queue::SlotRecall>(&letter)) {
    slots_.on_slot_recall(*recall, now);
  } else if (auto* pull = std::get_if<queue::PullRequest>(&letter)) {
    start_or_wait({.site = pull->site,
                   .recipients_max = pull->recipients_max,
                   .home = queue::home_of(pull->site, process_.mailboxes.shards()),
                   .pulled = true,
                   .connected = pull->connected});
  } else if (auto* answer = std::get_if<PullAnswer>(&letter)) {
    queue::PullReply reply{.site = answer->site, .from = answer->from, .work = std::nullopt, .more = answer->more};
    if (answer->delivery != nullptr) reply.work.emplace();
    broker_.on_pull_reply(reply, now);
    if (answer->delivery != nullptr) egress_.start(*answer->delivery);
  } else if (auto* back = std::get_if<DeliveryBack>(&letter)) {
    take_back(*back->delivery);
  } else if (auto* dns = std::get_if<DnsNotice>(&letter)) {
    resolver_->on_notice(*dns->question);
  } else if (auto* down = std::get_if<SiteDownNotice>(&letter)) {
    on_site_failed(down->down->site, down->down->reply);
    slots_.on_site_down(down->down->site, ready(down->down->site) > 0, now);
  } else if (auto* wake = std::get_if<WakeNotice>(&letter)) {
    (void)queue_.flush(*wake->domain, wake_spread, loop_->clocks());
  } else if (auto* wanted = std::get_if<PieceRequest>(&letter)) {
    pieces_.on_request(*wanted);
  } else if (auto* piece = std::get_if<PieceReply>(&letter)) {
    pieces_.on_reply(std::move(*piece));
  }
}

void Shard::carry(const queue::OwnerSlots::Output& output) {
  const queue::ShardIndex shards = process_.mailboxes.shards();
  if (const auto* start = std::get_if<queue::OwnerSlots::Start>(&output)) {
    start_or_wait({.site = start->site,
                   .recipients_max = snapshot_->options->smtp_client.recipients,
                   .home = index_,
                   .pulled = false,
                   .connected = start->connected});
  } else if (const auto* close = std::get_if<queue::OwnerSlots::CloseIdle>(&output)) {
    egress_.close_idle(close->site, close->connections);
  } else if (const auto* notice = std::get_if<queue::Notice>(&output)) {
    mailbox_.send(queue::home_of(notice->site, shards), *notice);
  } else if (const auto* request = std::get_if<queue::SlotRequest>(&output)) {
    mailbox_.send(queue::home_of(request->site, shards), *request);
  } else if (const auto* slots = std::get_if<queue::SlotReturn>(&output)) {
    mailbox_.send(queue::home_of(slots->site, shards), *slots);
  }
}

void Shard::carry(queue::SlotBroker::Action action) {
  if (auto* grant = std::get_if<queue::SlotGrant>(&action.message)) {
    mailbox_.send(action.to, *grant);
  } else if (auto* recall = std::get_if<queue::SlotRecall>(&action.message)) {
    mailbox_.send(action.to, *recall);
  } else if (auto* pull = std::get_if<queue::PullRequest>(&action.message)) {
    mailbox_.send(action.to, *pull);
  } else if (auto* down = std::get_if<queue::SiteDown>(&action.message)) {
    mailbox_.send(action.to, SiteDownNotice{std::make_unique<queue::SiteDown>(std::move(*down))});
  }
}

bool Shard::must_wait(const WaitingStart& start) {
  if (phase_ >= Phase::stopping) return false;
  if (owner_.congested() || (!start.pulled && !egress_.may_start(start.site))) return true;
  if (owner_.may_load() || callouts_.is_next(start.site, queue_.has_ready(start.site))) return false;
  const std::optional<mail::QueueId> next = queue_.next_ready(start.site);
  return next && !owner_.at_hand(*next);
}

void Shard::start_or_wait(const WaitingStart& start) {
  if (must_wait(start)) {
    waiting_starts_.push(start);
  } else {
    start_now(start);
  }
}

void Shard::start_now(const WaitingStart& start) {
  if (start_question(start)) return;
  std::optional<queue::Work> work;
  if (phase_ < Phase::stopping) work = queue_.pull(start.site, start.recipients_max);
  if (!start.pulled) {
    slots_.on_started(start.site, phase_ < Phase::stopping ? ready(start.site) : 0, loop_->now());
  }
  if (work) {
    owner_.lend(*std::move(work), start.home, start.pulled);
  } else {
    on_not_lent(start.site, start.home, start.pulled);
  }
}

bool Shard::start_question(const WaitingStart& start) {
  egress::Delivery* const question = callouts_.take(start.site, queue_.has_ready(start.site));
  if (question == nullptr) return false;
  question->executor = start.home;
  question->pulled = start.pulled;
  if (!start.pulled) slots_.on_started(start.site, ready(start.site), loop_->now());
  on_lent(*question);
  return true;
}

void Shard::take_back(egress::Delivery& delivery) {
  if (delivery.is_question()) {
    callouts_.take_back(delivery);
  } else {
    owner_.take_back(delivery);
  }
}

void Shard::on_site_failed(mail::SiteId site, const mail::Reply& reply) {
  owner_.defer_site(site, reply);
  callouts_.on_site_failed(site, reply);
}

// What it says of more work, this shard's slots hear at the same moment.
void Shard::send_pull_answer(mail::SiteId site, queue::ShardIndex home, egress::Delivery* delivery) {
  const bool more = phase_ < Phase::stopping && ready(site) > 0;
  slots_.on_pulled(site, more, loop_->now());
  mailbox_.send(home, PullAnswer{.site = site, .from = index_, .more = more, .delivery = delivery});
}

// --- OwnerUser -------------------------------------------------------------------------------------------------------

void Shard::on_lent(egress::Delivery& delivery) {
  if (delivery.pulled) return send_pull_answer(delivery.work.site, delivery.executor, &delivery);
  slots_.on_connecting(delivery.work.site, loop_->now());
  egress_.start(delivery);
}

void Shard::on_not_lent(mail::SiteId site, queue::ShardIndex executor, bool pulled) {
  if (pulled) return send_pull_answer(site, executor, nullptr);
  slots_.on_start_void(site, loop_->now());
}

void Shard::on_record_lost(mail::QueueId id, const Status& status) {
  if (!lost_records_.admit(loop_->now(), message_of(status))) return;
  say(Severity::error,
      "message " + id.to_string() + ": the spool refused its settlement: " + std::string(message_of(status)));
}

void Shard::on_unreadable(mail::QueueId id, const Status& status) {
  if (!unreadable_.admit(loop_->now(), message_of(status))) return;
  say(Severity::error,
      "message " + id.to_string() + " cannot be read back: " + std::string(message_of(status)) +
          "; it is tried again until it expires, and then stays in the spool. What is left of it is saved "
          "by: postern-spool export --all --include-damaged --data-dir " +
          snapshot_->options->data_dir + " TO");
}

// --- CalloutUser -----------------------------------------------------------------------------------------------------

void Shard::on_recipient_answered(const ingress::Asker& asker, const mail::Reply* refusal) {
  ingress_.on_recipient_answered(asker, refusal, loop_->now());
}

// --- egress::EgressUser ----------------------------------------------------------------------------------------------

void Shard::on_outcomes(egress::Delivery& delivery) {
  const mail::SiteId site = delivery.work.site;
  const Instant now = loop_->now();
  const bool pulled = delivery.pulled;
  const egress::PathState path = delivery.path;
  const mail::Reply path_reply = path == egress::PathState::failed ? delivery.path_reply : mail::Reply{};
  if (delivery.owner == index_) {
    take_back(delivery);
  } else {
    if (!delivery.is_question()) metrics_.deliveries_crossed.add();
    mailbox_.send(delivery.owner, DeliveryBack{&delivery});
  }
  if (path == egress::PathState::failed) {
    if (pulled) {
      broker_.on_path_failed(site, path_reply, now, random_);
    } else {
      slots_.on_path_failed(site, now, random_);
      on_site_failed(site, path_reply);
    }
  } else if (path == egress::PathState::usable) {
    if (pulled) {
      broker_.on_path_succeeded(site, now);
    } else {
      slots_.on_path_succeeded(site, now);
    }
  }
}

void Shard::on_slot_free(mail::SiteId site, queue::ShardIndex /*owner*/, bool kept) {
  if (broker_.leases()) {
    if (kept) waiting_starts_.on_connection_idle(site);
    slots_.on_delivery_done(site, kept, loop_->now());
  } else {
    broker_.on_delivery_done(site, kept, loop_->now());
  }
}

void Shard::on_idle_closed(mail::SiteId site) {
  if (broker_.leases()) {
    slots_.on_idle_closed(site, loop_->now());
  } else {
    broker_.on_idle_closed(site, loop_->now());
  }
}

void Shard::on_connection_opened() {
  metrics_.connections_opened.add();
}

void Shard::on_connection_failed() {
  metrics_.connections_failed.add();
}

void Shard::on_peer_secured(std::string_view site, std::string_view peer, const net::TlsFacts& facts) {
  (facts.resumed ? metrics_.hop_tls_handshakes_resumed : metrics_.hop_tls_handshakes_full).add();
  (facts.version == "TLSv1.3" ? metrics_.hop_tls_sessions_1_3 : metrics_.hop_tls_sessions_1_2).add();
  if (facts.peer_verified) metrics_.hop_tls_verified.add();
  events_.record({.kind = EventKind::secured,
                  .time = loop_->clocks().wall,
                  .site = site,
                  .peer = peer,
                  .tls = facts.version,
                  .cipher = facts.cipher,
                  .resumed = facts.resumed,
                  .verified = facts.peer_verified});
}

void Shard::on_peer_tls_failed(std::string_view site, std::string_view peer, std::string_view why, bool plain) {
  metrics_.hop_tls_handshakes_failed.add();
  std::string text(why);
  if (plain) text += "; tried without TLS";
  events_.record(
      {.kind = EventKind::tls_failed, .time = loop_->clocks().wall, .site = site, .peer = peer, .reply = text});
}

void Shard::on_peer_authenticated(const egress::HopAuthentication& authentication) {
  using Trouble = smtp::ClientSession::AuthTrouble;
  Event event{.kind = EventKind::auth_failed,
              .time = loop_->clocks().wall,
              .site = authentication.site,
              .peer = authentication.peer,
              .reply = authentication.why,
              .user = authentication.user,
              .mechanism = authentication.mechanism};
  switch (authentication.trouble) {
    case Trouble::none:
      metrics_.hop_authentications_succeeded.add();
      event.kind = EventKind::authenticated;
      break;
    case Trouble::refused:
      metrics_.hop_authentications_refused.add();
      break;
    case Trouble::unusable:
      metrics_.hop_authentications_unusable.add();
      break;
    case Trouble::put_off:
    case Trouble::broken:
      metrics_.hop_authentications_broken.add();
      break;
  }
  events_.record(event);
}

// --- LogUser ---------------------------------------------------------------------------------------------------------

void Shard::on_log_ready(LogDriver& /*driver*/) {
  ++logs_ready_;
}

void Shard::on_log_unusable(LogDriver& /*driver*/, const Status& status) {
  fail_start(status);
}

void Shard::on_durable(LogDriver& /*driver*/, spool::Ticket ticket) {
  intake_.on_durable(ticket);
}

void Shard::on_undone(LogDriver& /*driver*/, spool::Ticket ticket) {
  intake_.on_undone(ticket);
}

void Shard::on_moved(LogDriver& /*driver*/, const spool::Moved& moved) {
  owner_.on_moved(moved);
}

void Shard::on_replayed(LogDriver& /*driver*/, const spool::ReplayedMessage& message) {
  owner_.take_recovered(message);
}

void Shard::on_replay_done(LogDriver& /*driver*/) {
  if (--replays_ > 0) return;
  end_gathering();
  if (queue_.message_count() > 0) {
    say(Severity::info, "shard " + std::to_string(index_) + ": " + std::to_string(queue_.message_count()) +
                            " messages taken up from the spool");
  }
}

void Shard::end_gathering() {
  gather_until_ = never;
  queue_.release(loop_->clocks());
}

void Shard::on_log_failed(LogDriver& /*driver*/, const Status& status) {
  int none = 0;
  if (process_.exit_code.compare_exchange_strong(none, 74)) {
    say(Severity::error, std::string(message_of(status)) +
                             "; no mail is accepted any more. What was accepted is in the spool and is taken up again "
                             "at the next start: see to the disk, then start again");
    if (process_.on_failure) process_.on_failure();
  }
}

void Shard::on_log_alarm(LogDriver& /*driver*/, std::string_view text) {
  say(Severity::warning, std::string(text));
}

void Shard::on_log_room(LogDriver& /*driver*/) {
  owner_.on_room();
  intake_.on_room();
  if (ingress_.anyone_stalled()) ingress_.on_resources();
}

// --- IntakeUser ------------------------------------------------------------------------------------------------------

// Of the other shards' mail it is not known whether there is any.
bool Shard::on_wake(const std::string& domain) {
  const queue::ShardIndex shards = process_.mailboxes.shards();
  for (queue::ShardIndex shard = 0; shard < shards; ++shard) {
    if (shard != index_) mailbox_.send(shard, WakeNotice{std::make_unique<std::string>(domain)});
  }
  return queue_.flush(domain, wake_spread, loop_->clocks()) || shards > 1;
}

void Shard::on_message_durable(std::unique_ptr<mail::Message> message) {
  owner_.take(std::move(message));
}

void Shard::on_submission_accepted(const ingress::Submission& submission, mail::QueueId id) {
  ingress_.on_accepted(submission, id, loop_->now());
}

void Shard::on_submission_refused(const ingress::Submission& submission, const mail::Reply& reply) {
  ingress_.on_refused(submission, reply, loop_->now());
}

// --- ingress::Observer -----------------------------------------------------------------------------------------------

void Shard::on_connected(const io::Address& peer) {
  metrics_.connections_accepted.add();
  const std::string text = peer.to_string();
  events_.record({.kind = EventKind::connected, .time = loop_->clocks().wall, .peer = text});
}

void Shard::on_disconnected(const io::Address& peer, std::uint32_t messages) {
  const std::string text = peer.to_string();
  events_.record({.kind = EventKind::disconnected, .time = loop_->clocks().wall, .peer = text, .count = messages});
}

void Shard::on_turned_away(const io::Address& peer, std::string_view line) {
  metrics_.connections_refused.add();
  const std::string text = peer.to_string();
  events_.record({.kind = EventKind::rejected, .time = loop_->clocks().wall, .peer = text, .reply = line});
}

void Shard::on_stress(bool begins, std::uint32_t count) {
  if (begins) metrics_.stress_begun.add();
  const std::string_view text =
      begins ? "connections run short: idle ones are closed sooner" : "connections suffice again";
  events_.record({.kind = EventKind::stress, .time = loop_->clocks().wall, .reply = text, .count = count});
}

void Shard::on_secured(const io::Address& peer, const net::TlsFacts& facts) {
  (facts.resumed ? metrics_.tls_handshakes_resumed : metrics_.tls_handshakes_full).add();
  (facts.version == "TLSv1.3" ? metrics_.tls_sessions_1_3 : metrics_.tls_sessions_1_2).add();
  const std::string text = peer.to_string();
  events_.record({.kind = EventKind::secured,
                  .time = loop_->clocks().wall,
                  .peer = text,
                  .tls = facts.version,
                  .cipher = facts.cipher,
                  .resumed = facts.resumed});
}

void Shard::on_tls_failed(const io::Address& peer, const Status& status) {
  metrics_.tls_handshakes_failed.add();
  const std::string text = peer.to_string();
  events_.record(
      {.kind = EventKind::tls_failed, .time = loop_->clocks().wall, .peer = text, .reply = message_of(status)});
}

void Shard::on_tls_refused(const io::Address& peer, std::string_view line) {
  metrics_.tls_handshakes_refused.add();
  const std::string text = peer.to_string();
  events_.record({.kind = EventKind::tls_failed, .time = loop_->clocks().wall, .peer = text, .reply = line});
}

void Shard::on_authenticated(const io::Address& peer, std::string_view user, std::string_view mechanism) {
  metrics_.authentications_succeeded.add();
  const std::string text = peer.to_string();
  events_.record({.kind = EventKind::authenticated,
                  .time = loop_->clocks().wall,
                  .peer = text,
                  .user = user,
                  .mechanism = mechanism});
}

void Shard::on_auth_failed(const io::Address& peer, std::string_view user, std::string_view mechanism,
                           const mail::Reply& reply) {
  (reply.code == 454 ? metrics_.authentications_put_off : metrics_.authentications_failed).add();
  metrics_.commands_rejected.add();
  const std::string text = peer.to_string();
  const std::string words = reply.to_log_text();
  events_.record({.kind = EventKind::auth_failed,
                  .time = loop_->clocks().wall,
                  .peer = text,
                  .reply = words,
                  .user = user,
                  .mechanism = mechanism});
}

void Shard::on_rejected(const io::Address& peer, const mail::Envelope* envelope, std::string_view recipient,
                        const mail::Reply& reply) {
  metrics_.commands_rejected.add();
  const std::string text = peer.to_string();
  const std::string words = reply.to_log_text();
  Event event{.kind = EventKind::rejected, .time = loop_->clocks().wall, .to = recipient, .peer = text, .reply = words};
  if (envelope != nullptr) event.from = envelope->reverse_path().text;
  events_.record(event);
}

// --- resolver::Notifier ----------------------------------------------------------------------------------------------

void Shard::notify(std::uint16_t shard, const dns::Question& question) {
  mailbox_.send(shard, DnsNotice{std::make_unique<dns::Question>(question)});
}

}  // namespace postern::shard
