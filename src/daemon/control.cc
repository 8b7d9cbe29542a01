#include "daemon/control.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <poll.h>
#include <thread>
#include <unistd.h>
#include <utility>

#include <sys/eventfd.h>
#include <sys/signalfd.h>

#include <postern/base/units.h>

#include "admin/admin_server.h"
#include "daemon/config.h"
#include "daemon/config_tls.h"
#include "daemon/process.h"
#include "daemon/recipients.h"
#include "daemon/users.h"
#include "io/descriptors.h"
#include "io/uring/probe.h"
#include "io/uring/uring_loop.h"
#include "shard/server.h"

namespace postern::daemon {
namespace {

using shard::Severity;

// Beyond shutdown_grace, for the last writes; then the process ends all the same. The spool has what was accepted.
constexpr Duration stop_slack = std::chrono::seconds(15);
// After a disk has failed, for the replies to those who have just sent something.
constexpr Duration disk_failed_grace = std::chrono::seconds(2);

// How often certificates, keys and users are looked at for changes, and how often ticket keys are replaced (a ticket is
// good for one to two of these).
constexpr Duration files_looked_at_every = std::chrono::seconds(10);
constexpr Duration ticket_keys_last = std::chrono::hours(1);

// Descriptors that are not clients': rings, logs, segments, files of deliveries, the control thread's own.
constexpr std::size_t descriptors_base = 48;
constexpr std::size_t descriptors_per_shard = 24;

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  return set;
}

// What admin asks, also before the server is there and after it has gone.
class LateSource final : public shard::MetricsSource {
 public:
  void set(shard::Server* server) { server_.store(server); }
  shard::MetricsSum metrics() override {
    shard::Server* server = server_.load();
    return server == nullptr ? shard::MetricsSum{} : server->metrics();
  }
  bool healthy() override {
    shard::Server* server = server_.load();
    return server != nullptr && server->healthy();
  }

 private:
  std::atomic<shard::Server*> server_{nullptr};
};

// One thing that the control thread waits for besides signals: the start's end, the server's end.
class Bell {
 public:
  Bell() : descriptor_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}
  void ring() const {
    const std::uint64_t one = 1;
    (void)!write(descriptor_.get(), &one, sizeof one);
  }
  bool take() const {
    std::uint64_t count = 0;
    return read(descriptor_.get(), &count, sizeof count) == sizeof count;
  }
  [[nodiscard]] int descriptor() const { return descriptor_.get(); }

 private:
  OwnedDescriptor descriptor_;
};

Instant monotonic_now() {
  return Instant(std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch()));
}

class Control {
 public:
  Control(const std::string& config_path, const System& system, shard::OptionsSnapshot options, shard::OperatorLog& log,
          const MakeLoop& make_loop)
      : config_path_(config_path),
        system_(system),
        options_(std::move(options)),
        log_(log),
        make_loop_(make_loop),
        tls_files_(mark_tls_files(*options_)) {
    watch_users();
  }

  int run();

 private:
  [[nodiscard]] Status prepare();
  [[nodiscard]] Status clamp_connections();
  [[nodiscard]] Status start();
  [[nodiscard]] int serve();
  void on_signal(int signal);
  void reload();
  void on_tick();
  void reload_certificates();
  void reload_users();
  void watch_users();
  [[nodiscard]] bool watches_files() const { return !tls_files_.empty() || !options_->auth.users_file.empty(); }
  [[nodiscard]] Status load_recipients();
  void check_recipients();
  // Hands signals to `on_signal` until the bell rings (true) or give_up_at_ has come (false). Looks at the files of
  // certificates and recipients when it is time.
  template <class OnSignal>
  [[nodiscard]] bool wait(const Bell& bell, OnSignal on_signal);

  const std::string& config_path_;
  const System& system_;
  shard::OptionsSnapshot options_;
  shard::OperatorLog& log_;
  const MakeLoop& make_loop_;
  OwnedDescriptor signals_;
  OwnedDescriptor lock_;
  Bell news_;  // the server has started, wants to end, or has ended
  Instant give_up_at_ = never;
  RecipientFile recipient_file_;
  RecipientFile user_file_;
  std::shared_ptr<const policy::RecipientTable> recipients_;
  Instant look_at_recipients_at_ = never;
  bool disk_failed_ = false;
  Instant next_tick_at_ = never;
  Instant next_ticket_keys_at_ = never;
  TlsFileMarks tls_files_;  // as of the last look
  int stops_ = 0;
  std::unique_ptr<shard::Server> server_;
  LateSource source_;
  std::unique_ptr<admin::AdminServer> admin_;  // last: it asks the server
};

Status Control::clamp_connections() {
  const std::size_t own = descriptors_base + descriptors_per_shard * options_->shards;
  const std::uint64_t in = options_->limits.connections;
  const std::uint64_t out = options_->smtp_client.connections;
  const std::size_t wanted = own + in + out;
  const StatusOr<std::size_t> limit = io::reserve_descriptors(wanted);
  if (!limit.ok()) return limit.status();
  if (*limit >= wanted) return OkStatus();
  // Both get less, by the same factor.
  const std::uint64_t left = *limit > own ? *limit - own : 0;
  const auto share = [&](std::uint64_t connections) {
    return static_cast<std::uint32_t>(std::max<std::uint64_t>(left * connections / (in + out), 1));
  };
  log_.say(Severity::warning, "limits.connections is " + std::to_string(in) + " and smtp_client.connections " +
                                  std::to_string(out) + ", but " + std::to_string(*limit) +
                                  " descriptors are enough for " + std::to_string(share(in)) + " and " +
                                  std::to_string(share(out)) + " only; raise LimitNOFILE= (systemd) or ulimit -n");
  auto clamped = std::make_shared<shard::Options>(*options_);
  clamped->limits.connections = share(in);
  clamped->smtp_client.connections = share(out);
  options_ = std::move(clamped);
  return OkStatus();
}

// Everything that needs privileges or one thread.
Status Control::prepare() {
  POSTERN_RETURN_IF_ERROR(io::probe_uring());
  const StatusOr<User> user = find_user(options_->user);
  if (!user.ok()) return user.status();
  POSTERN_RETURN_IF_ERROR(check_addresses_free(*options_));
  if (!options_->admin.address.empty()) {
    StatusOr<std::unique_ptr<admin::AdminServer>> admin = admin::AdminServer::bind(options_->admin.address);
    if (!admin.ok()) return error(admin.status().code(), "admin.listen: " + std::string(message_of(admin.status())));
    admin_ = *std::move(admin);
  }
  StatusOr<OwnedDescriptor> lock = open_data_dir(options_->data_dir, *user);
  if (!lock.ok()) return lock.status();
  lock_ = *std::move(lock);
  POSTERN_RETURN_IF_ERROR(clamp_connections());
  const bool low_ports = std::ranges::any_of(options_->listeners, [](const shard::ListenerOptions& listener) {
    return listener.address.is_ip() && listener.address.port() < 1024;
  });
  POSTERN_RETURN_IF_ERROR(become(*user, low_ports));
  POSTERN_RETURN_IF_ERROR(load_recipients());  // as the user who will read it again
  if (admin_) POSTERN_RETURN_IF_ERROR(admin_->serve(source_));
  return OkStatus();
}

template <class OnSignal>
bool Control::wait(const Bell& bell, OnSignal on_signal) {
  for (;;) {
    const Instant now = monotonic_now();
    if (give_up_at_ <= now) return false;
    if (next_tick_at_ <= now) on_tick();
    if (look_at_recipients_at_ <= now) check_recipients();
    const Instant until = std::min({give_up_at_, next_tick_at_, look_at_recipients_at_});
    const auto left = [&] { return std::chrono::ceil<std::chrono::milliseconds>(until - monotonic_now()).count(); };
    const int timeout_ms = until == never ? -1 : static_cast<int>(std::max<std::int64_t>(left(), 0));
    pollfd waits[] = {{.fd = signals_.get(), .events = POLLIN, .revents = 0},
                      {.fd = bell.descriptor(), .events = POLLIN, .revents = 0}};
    (void)poll(waits, 2, timeout_ms);  // whatever it says, both are non-blocking and looked at
    signalfd_siginfo signal{};
    if (read(signals_.get(), &signal, sizeof signal) == sizeof signal) on_signal(static_cast<int>(signal.ssi_signo));
    if (bell.take()) return true;
  }
}

int Control::run() {
  const sigset_t handled = handled_signals();
  signals_ = OwnedDescriptor(signalfd(-1, &handled, SFD_CLOEXEC | SFD_NONBLOCK));
  if (const Status status = prepare(); !status.ok()) {
    log_.say(Severity::error, message_of(status));
    const bool of_configuration =
        absl::IsNotFound(status) || absl::IsInvalidArgument(status) || absl::IsDataLoss(status);
    return of_configuration ? exit_config : exit_system;
  }
  if (const Status status = start(); !status.ok()) {
    log_.say(Severity::error, message_of(status));
    return absl::IsDataLoss(status) ? exit_disk : exit_system;
  }
  return serve();
}

Status Control::start() {
  const Instant began_at = monotonic_now();
  if (options_->spool.durability == shard::Durability::page_cache) {
    log_.say(
        Severity::warning,
        "spool.durability is page_cache: mail that was answered 250 survives a crash of this process, but not of the "
        "machine; \"synced\" answers when it is on stable storage");
  }
  StatusOr<std::unique_ptr<shard::Server>> server = error(StatusCode::kInternal, "not started");
  std::thread starter([&] {
    server = shard::Server::start(
        {.options = options_, .recipients = recipients_, .log = log_, .make_loop = make_loop_, .on_failure = [this] {
           news_.ring();
         }});
    news_.ring();
  });
  // Recovery may take its time. Whoever stops us meanwhile need not wait for it: nothing was accepted yet.
  while (!wait(news_, [](int signal) {
    if (signal != SIGHUP) std::_Exit(exit_ok);
  })) {
  }
  starter.join();
  if (!server.ok()) return server.status();
  server_ = *std::move(server);
  source_.set(server_.get());
  std::string places;
  for (const shard::ListenerOptions& listener : options_->listeners) places.append(" ").append(listener.text);
  log_.say(Severity::info, "Postern " POSTERN_VERSION " is ready after " + format_duration(monotonic_now() - began_at) +
                               ": shards " + std::to_string(options_->shards) + ", memory " +
                               format_size(options_->memory_bytes) + ", durability " +
                               (options_->spool.durability == shard::Durability::synced ? "synced" : "page_cache") +
                               ", listening on" + places);
  return OkStatus();
}

int Control::serve() {
  if (watches_files()) next_tick_at_ = monotonic_now() + files_looked_at_every;
  next_ticket_keys_at_ = monotonic_now() + ticket_keys_last;
  if (!options_->recipients.file.empty()) {
    look_at_recipients_at_ = monotonic_now() + options_->recipients.check_interval;
  }
  std::thread waiter([this] {
    server_->wait();
    news_.ring();
  });
  while (!server_->stopped()) {
    if (server_->exit_code() != 0 && !disk_failed_) {
      disk_failed_ = true;
      log_.say(Severity::error, "a disk failed: stopping; start again to recover from what it holds");
      give_up_at_ = std::min(give_up_at_, monotonic_now() + disk_failed_grace + stop_slack);
      server_->request_stop(disk_failed_grace);
    }
    if (!wait(news_, [this](int signal) { on_signal(signal); })) {
      log_.say(Severity::error, "the stop took too long; what was in flight is in the spool");
      std::_Exit(server_->exit_code());
    }
  }
  waiter.join();
  admin_.reset();
  const int code = server_->exit_code();
  server_.reset();
  log_.say(Severity::info, "stopped");
  return code;
}

void Control::on_signal(int signal) {
  if (signal == SIGHUP) {
    if (stops_ == 0) reload();
    return;
  }
  ++stops_;
  const Duration grace = stops_ == 1 ? options_->shutdown_grace : Duration::zero();
  log_.say(Severity::info, stops_ == 1 ? "stopping, within " + format_duration(grace) : "stopping at once");
  give_up_at_ = monotonic_now() + grace + stop_slack;
  server_->request_stop(grace);
}

// Those of options_.
Status Control::load_recipients() {
  // Watched first: a change while it is being read is noticed.
  recipient_file_.watch(options_->recipients.file);
  StatusOr<std::shared_ptr<const policy::RecipientTable>> table =
      daemon::load_recipients(options_->recipients, config_path_);
  if (!table.ok()) return table.status();
  if (!recipient_file_.unchanged()) {
    return error(StatusCode::kUnavailable,
                 options_->recipients.file + ": was written to while it was read; write another file and rename it");
  }
  recipients_ = *std::move(table);
  if (recipients_) {
    log_.say(Severity::info, "recipients: " + std::to_string(recipients_->size()) + " addresses, of them " +
                                 std::to_string(recipients_->aliases()) + " aliases" +
                                 (options_->recipients.file.empty() ? "" : ", with " + options_->recipients.file));
  }
  return OkStatus();
}

void Control::check_recipients() {
  look_at_recipients_at_ = never;
  if (stops_ > 0 || options_->recipients.file.empty()) return;
  if (recipient_file_.changed()) {
    Status status = load_recipients();
    if (status.ok()) status = server_->set_recipients(recipients_);
    if (!status.ok()) {
      log_.say(Severity::error, message_of(status));
      log_.say(Severity::error, "recipients: not read again, going on with those known before");
    }
  }
  look_at_recipients_at_ = monotonic_now() + options_->recipients.check_interval;
}

void Control::reload() {
  watch_users();
  const LoadedConfig loaded = load_config(config_path_, system_);
  if (!loaded.options) {
    for (const std::string& text : loaded.errors) log_.say(Severity::error, text);
    log_.say(Severity::error, "not reloaded: going on with the configuration as it was");
    return;
  }
  for (const std::string& key : needs_restart(*options_, *loaded.options)) {
    log_.say(Severity::warning, key + " has changed; restart to apply that");
  }
  const shard::OptionsSnapshot before = std::exchange(options_, merge_for_reload(*options_, *loaded.options));
  const auto recipients_before = recipients_;
  Status status = load_recipients();
  if (status.ok()) status = server_->reload(options_, recipients_);
  if (!status.ok()) {
    options_ = before;
    recipients_ = recipients_before;
    recipient_file_.watch(options_->recipients.file);
    log_.say(Severity::error, "not reloaded: " + std::string(message_of(status)));
    return;
  }
  tls_files_ = mark_tls_files(*options_);
  if (options_->auth.users_file != before->auth.users_file) watch_users();
  next_tick_at_ = watches_files() ? monotonic_now() + files_looked_at_every : never;
  for (const std::string& text : loaded.warnings) log_.say(Severity::warning, text);
  look_at_recipients_at_ =
      options_->recipients.file.empty() ? never : monotonic_now() + options_->recipients.check_interval;
  log_.say(Severity::info, "reloaded " + config_path_);
}

void Control::on_tick() {
  const Instant now = monotonic_now();
  next_tick_at_ = now + files_looked_at_every;
  if (now >= next_ticket_keys_at_) {
    next_ticket_keys_at_ = now + ticket_keys_last;
    rotate_ticket_keys();
  }
  if (stops_ == 0 && user_file_.changed()) reload_users();
  TlsFileMarks marks = mark_tls_files(*options_);
  if (stops_ > 0 || marks == tls_files_) return;
  // Chain and key are two files: while they do not fit together yet, the next look may find that they do.
  tls_files_ = std::move(marks);
  reload_certificates();
}

void Control::reload_certificates() {
  auto fresh = std::make_shared<shard::Options>(*options_);
  bool good = true;
  load_tls(*fresh, [&](const TlsTrouble& trouble) {
    std::string text = config_path_ + ":" + std::to_string(trouble.line) + ": " + trouble.key + ": " + trouble.what;
    if (trouble.fatal) text.append("; ").append(trouble.cure);
    log_.say(trouble.fatal ? Severity::error : Severity::warning, text);
    good = good && !trouble.fatal;
  });
  Status status = good ? server_->reload(fresh, recipients_) : error(StatusCode::kInvalidArgument, "see above");
  if (!status.ok()) {
    log_.say(Severity::error, "certificates not reloaded: going on with those of before");
    return;
  }
  options_ = std::move(fresh);
  log_.say(Severity::info, "reloaded certificates");
}

// Before the file is read: what changes meanwhile is noticed.
void Control::watch_users() {
  user_file_.watch(options_->auth.users_file);
}

void Control::reload_users() {
  auto fresh = std::make_shared<shard::Options>(*options_);
  bool good = true;
  load_users(*fresh, [&](const TlsTrouble& trouble) {
    log_.say(trouble.fatal ? Severity::error : Severity::warning, trouble.what);
    good = good && !trouble.fatal;
  });
  Status status = good ? server_->reload(fresh, recipients_) : error(StatusCode::kInvalidArgument, "see above");
  if (!status.ok()) {
    log_.say(Severity::error, "users not read again, going on with those known before");
    return;
  }
  options_ = std::move(fresh);
  log_.say(Severity::info,
           "users: " + std::to_string(options_->auth.users->size()) + ", with " + options_->auth.users_file);
}

}  // namespace

void block_signals() {
  const sigset_t handled = handled_signals();
  pthread_sigmask(SIG_BLOCK, &handled, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

StatusOr<std::unique_ptr<io::Loop>> make_usual_loop() {
  return io::make_uring_loop();
}

int run(const std::string& config_path, const System& system, shard::OptionsSnapshot options, shard::OperatorLog& log,
        const MakeLoop& make_loop) {
  return Control(config_path, system, std::move(options), log, make_loop).run();
}

}  // namespace postern::daemon
