// One shard: a thread with one loop and one of everything. It owns the parts, carries outputs of one into inputs of
// another, and knows neither mail nor bytes.
//
// One turn: completions, letters, timers; then work() until nothing moves any more; then the logs' writes, and sleep.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <postern/queue/owner_queue.h>
#include <postern/queue/owner_slots.h>
#include <postern/queue/slot_broker.h>

#include "egress/egress.h"
#include "ingress/ingress.h"
#include "net/connection.h"
#include "net/dispatcher.h"
#include "resolver/resolver.h"
#include "shard/alarm_limit.h"
#include "shard/callouts.h"
#include "shard/intake.h"
#include "shard/logs.h"
#include "shard/mailbox.h"
#include "shard/message_store.h"
#include "shard/metrics.h"
#include "shard/owner.h"
#include "shard/piece_server.h"
#include "shard/process.h"
#include "shard/router.h"
#include "shard/snapshot.h"
#include "shard/waiting_starts.h"

namespace postern::shard {

class Shard final : private io::Sink,
                    private LogUser,
                    private IntakeUser,
                    private OwnerUser,
                    private CalloutUser,
                    private egress::EgressUser,
                    private ingress::Observer,
                    private resolver::Notifier {
 public:
  struct Setup {
    queue::ShardIndex index = 0;
    Process& process;
    std::unique_ptr<io::Loop> loop;
    SnapshotPtr snapshot;
    std::vector<std::uint16_t> logs;  // ids; the first takes new mail
    // Per listener: a listening socket to use (this shard's own name for it), or -1 to bind one.
    std::vector<io::Descriptor> listening;
    std::array<std::uint64_t, 4> seed{};
  };
  // How the start went: once, from the shard's thread. With OK the listeners are open.
  using Started = std::function<void(const Status&)>;

  explicit Shard(Setup setup);
  ~Shard();

  // The thread's body: returns when the stop is complete. The same as begin(), and step() until done().
  void run(Started started);
  void begin(Started started);
  // One turn; waits in the loop until turn_due() at the latest.
  void step();
  [[nodiscard]] Instant turn_due() { return next_deadline(); }
  [[nodiscard]] bool done() const { return phase_ == Phase::done; }

  // Behind run(): nothing is pending in the kernel that refers to this shard. Else it must outlive its loop: leak it,
  // the process ends.
  [[nodiscard]] bool clean() const { return clean_; }

  // --- from any thread
  void request_stop(Duration grace);
  void reload(SnapshotPtr snapshot);
  [[nodiscard]] const Metrics& metrics() const { return metrics_; }
  [[nodiscard]] std::vector<io::Address> addresses() const { return addresses_; }  // once started

 private:
  enum class Phase : std::uint8_t { recovering, opening, running, stopping, flushing, done };

  // --- the turn
  void on_completion(const io::Completion& completion) override;
  void turn(bool more_is_coming);
  void work();
  [[nodiscard]] Instant next_deadline();
  // The queue's, while what comes due can be taken.
  [[nodiscard]] Instant queue_deadline() const { return owner_.congested() ? never : queue_.next_deadline(); }
  void end_gathering();
  void advance_start();
  void advance_stop(Instant now);
  [[nodiscard]] bool quiet() const;
  void open();
  void take_orders();
  void on_second(Instant now);
  void set_gauges();
  void receive(Letter&& letter);
  void carry(const queue::OwnerSlots::Output& output);
  void carry(queue::SlotBroker::Action action);
  // Begins the delivery, or lets it wait until its message may be read back, there is place for its connection, and its
  // outcome can be written.
  void start_or_wait(const WaitingStart& start);
  void start_now(const WaitingStart& start);
  [[nodiscard]] bool start_question(const WaitingStart& start);
  // What is ready for `site`, mail and questions.
  [[nodiscard]] std::uint32_t ready(mail::SiteId site) const { return queue_.ready(site) + callouts_.ready(site); }
  // A delivery of this shard's has come back, or a question.
  void take_back(egress::Delivery& delivery);
  void on_site_failed(mail::SiteId site, const mail::Reply& reply);
  [[nodiscard]] bool must_wait(const WaitingStart& start);
  [[nodiscard]] bool may_start() const { return owner_.may_load() && !owner_.congested(); }
  void send_pull_answer(mail::SiteId site, queue::ShardIndex home, egress::Delivery* delivery);
  void fail_start(const Status& status);
  void say(Severity severity, const std::string& text);
  void tell_rest(Instant now);

  // --- LogUser
  void on_log_ready(LogDriver& driver) override;
  void on_log_unusable(LogDriver& driver, const Status& status) override;
  void on_durable(LogDriver& driver, spool::Ticket ticket) override;
  void on_undone(LogDriver& driver, spool::Ticket ticket) override;
  void on_moved(LogDriver& driver, const spool::Moved& moved) override;
  void on_replayed(LogDriver& driver, const spool::ReplayedMessage& message) override;
  void on_replay_done(LogDriver& driver) override;
  void on_log_failed(LogDriver& driver, const Status& status) override;
  void on_log_alarm(LogDriver& driver, std::string_view text) override;
  void on_log_room(LogDriver& driver) override;

  // --- IntakeUser
  bool on_wake(const std::string& domain) override;
  void on_message_durable(std::unique_ptr<mail::Message> message) override;
  void on_submission_accepted(const ingress::Submission& submission, mail::QueueId id) override;
  void on_submission_refused(const ingress::Submission& submission, const mail::Reply& reply) override;

  // --- OwnerUser
  void on_lent(egress::Delivery& delivery) override;
  void on_not_lent(mail::SiteId site, queue::ShardIndex executor, bool pulled) override;
  void on_record_lost(mail::QueueId id, const Status& status) override;
  void on_unreadable(mail::QueueId id, const Status& status) override;

  // --- CalloutUser
  void on_recipient_answered(const ingress::Asker& asker, const mail::Reply* refusal) override;

  // --- egress::EgressUser
  void on_outcomes(egress::Delivery& delivery) override;
  void on_slot_free(mail::SiteId site, queue::ShardIndex owner, bool kept) override;
  void on_idle_closed(mail::SiteId site) override;
  void on_connection_opened() override;
  void on_connection_failed() override;
  void on_peer_secured(std::string_view site, std::string_view peer, const net::TlsFacts& facts) override;
  void on_peer_tls_failed(std::string_view site, std::string_view peer, std::string_view why, bool plain) override;
  void on_peer_authenticated(const egress::HopAuthentication& authentication) override;

  // --- ingress::Observer
  void on_connected(const io::Address& peer) override;
  void on_disconnected(const io::Address& peer, std::uint32_t messages) override;
  void on_turned_away(const io::Address& peer, std::string_view line) override;
  void on_stress(bool begins, std::uint32_t count) override;
  void on_secured(const io::Address& peer, const net::TlsFacts& facts) override;
  void on_tls_failed(const io::Address& peer, const Status& status) override;
  void on_tls_refused(const io::Address& peer, std::string_view line) override;
  void on_authenticated(const io::Address& peer, std::string_view user, std::string_view mechanism) override;
  void on_auth_failed(const io::Address& peer, std::string_view user, std::string_view mechanism,
                      const mail::Reply& reply) override;
  void on_rejected(const io::Address& peer, const mail::Envelope* envelope, std::string_view recipient,
                   const mail::Reply& reply) override;

  // --- resolver::Notifier
  void notify(std::uint16_t shard, const dns::Question& question) override;

  // The resolver's and the logs' completions.
  struct ResolverSink;
  struct LogSink;

  const queue::ShardIndex index_;
  Process& process_;
  std::unique_ptr<io::Loop> loop_;
  SnapshotPtr snapshot_;
  Metrics metrics_;
  EventBuffer& events_;
  Random random_;
  MailboxEnd mailbox_;
  net::Dispatcher dispatcher_;
  TimerWheel timers_;
  net::ConnectionTable connections_;
  dns::Cache::Reader dns_reader_;
  std::unique_ptr<ResolverSink> resolver_sink_;
  std::unique_ptr<resolver::Resolver> resolver_;
  std::unique_ptr<LogSink> log_sink_;
  Logs logs_;
  MessageStore store_;
  queue::OwnerQueue queue_;
  queue::OwnerSlots slots_;
  WaitingStarts waiting_starts_;
  queue::SlotBroker broker_;
  Router router_;
  Callouts callouts_;
  Intake intake_;
  Owner owner_;
  PieceServer pieces_;
  egress::Egress egress_;
  ingress::Ingress ingress_;

  Phase phase_ = Phase::recovering;
  Started started_;
  std::size_t logs_ready_ = 0;
  std::size_t replays_ = 0;  // logs whose mail of before the start is not all in the queue yet
  Instant next_progress_{};  // when the operator is told how far they are
  Instant gather_until_ = never;
  bool counted_recovered_ = false;
  bool counted_quiet_ = false;
  bool clean_ = false;
  Instant stop_deadline_ = never;
  Instant flush_deadline_ = never;
  Instant next_second_{};
  unsigned seconds_ = 0;
  AlarmLimit unreadable_;    // messages
  AlarmLimit lost_records_;  // settlements and retry states
  std::uint64_t system_calls_seen_ = 0;
  std::uint64_t dns_queries_seen_ = 0;
  std::uint64_t dns_hits_seen_ = 0;
  std::uint64_t dns_misses_seen_ = 0;
  bool letters_left_ = false;
  bool work_left_ = false;
  std::vector<io::Descriptor> listening_;
  std::vector<io::Address> addresses_;

  // Orders from other threads.
  std::atomic<std::int64_t> stop_grace_ns_{-1};
  std::atomic<std::shared_ptr<const Snapshot>> new_snapshot_;
};

}  // namespace postern::shard
