// What the accepting shard does with its messages until they are settled: lends them to deliveries, takes outcomes
// back, and writes settlements, retry states and DSNs to the log.
//
//   OwnerQueue says what is due ── lend() ──▶ executing shard ── take_back() ──▶ OwnerQueue decides ──▶ settle
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <postern/dsn/composer.h>
#include <postern/queue/owner_queue.h>

#include "egress/delivery.h"
#include "shard/event_log.h"
#include "shard/intake.h"
#include "shard/logs.h"
#include "shard/message_store.h"
#include "shard/metrics.h"
#include "shard/router.h"
#include "shard/snapshot.h"

namespace postern::shard {

class OwnerUser {
 public:
  // A delivery is ready to be carried out by delivery.executor.
  virtual void on_lent(egress::Delivery& delivery) = 0;
  // Nothing could be lent after all (the message cannot be read): `site`'s slot, or the pull of `executor`, is free.
  virtual void on_not_lent(mail::SiteId site, queue::ShardIndex executor, bool pulled) = 0;
  // The log would not take a settlement or a retry state: an alarm, as the recipient may be tried again after a
  // restart.
  virtual void on_record_lost(mail::QueueId id, const Status& status) = 0;
  // The spool holds a message that cannot be read: an alarm, once per message. It is tried again until it expires;
  // then it stays in the spool unsettled, for people, as nobody can tell its sender.
  virtual void on_unreadable(mail::QueueId id, const Status& status) = 0;

 protected:
  ~OwnerUser() = default;
};

class Owner final : private ReadUser {
 public:
  struct Setup {
    queue::ShardIndex self = 0;
    io::Loop& loop;
    queue::OwnerQueue& queue;
    MessageStore& store;
    Logs& logs;
    Router& router;
    Intake& intake;
    Metrics& metrics;
    EventBuffer& events;
    OwnerUser& user;
    Random random;
  };
  explicit Owner(const Setup& setup);
  ~Owner();

  void set_snapshot(SnapshotPtr snapshot) { snapshot_ = std::move(snapshot); }

  // Durable mail, new or recovered, enters the queue.
  void take(std::unique_ptr<mail::Message> message);
  void take_recovered(const spool::ReplayedMessage& message);
  void on_moved(const spool::Moved& moved);

  // Lends `work` to `executor`: on_lent() follows, now or when the message has been read, or on_not_lent().
  void lend(queue::Work work, queue::ShardIndex executor, bool pulled);
  // Whether lend() may be asked for a message that must be read back; not, while `loads_max` of them are being read.
  [[nodiscard]] bool may_load() const { return loading_.size() < loads_max; }
  // lend() reads nothing for it: it is in memory, or being read already.
  [[nodiscard]] bool at_hand(mail::QueueId id) const { return store_.find(id) != nullptr || loading_.contains(id); }
  // What has come to its end is more than the logs take at the moment: until they have caught up, nothing new should
  // come to an end (timers, routes, deliveries). What is on its way already is still taken: so the bounds of what waits
  // here are backlog_max and reports_max, and the recipients in flight and one turn's expired ones on top.
  [[nodiscard]] bool congested() const { return backlog_.size() >= backlog_max || reports_.size() >= reports_max; }
  // The delivery has its outcomes, or was not attempted.
  void take_back(egress::Delivery& delivery);
  // No next hop of `site` can be reached.
  void defer_site(mail::SiteId site, const mail::Reply& reply);

  // Settles what the queue has decided; true when anything was done. Once per turn at least.
  bool work();
  // The logs have room again.
  void on_room();
  // When work() is due though nothing happened: mail that waits for memory is read again.
  [[nodiscard]] Instant next_deadline() const { return hungry_.empty() ? never : read_again_at_; }
  // From now on nothing waits for memory: what does is given back, and is in the spool for the next start.
  void stop_waiting();

  // Everything decided is in the logs' batches.
  [[nodiscard]] bool idle() const { return backlog_.empty() && reports_.empty(); }
  [[nodiscard]] std::size_t lent() const { return lent_count_; }

 private:
  struct Lent : egress::Delivery {
    spool::Log::Pin pin;
    std::uint16_t pinned_log = 0;
  };
  // What goes with a recipient of a report.
  struct Aside {
    bool wants_state = false;    // what the last next hop said of it is in the spool
    bool withdrawn = false;      // delayed: and has come to its end before that was told
    std::uint16_t attempts = 0;  // delayed: its retry state, which is written together with the DSN, and not before
    WallTime due{};
  };
  // A message with recipients that came to an end, or to a delay, which its sender is to be told, in a DSN that is to
  // be written.
  struct Report {
    mail::QueueId id;
    mail::Location location;
    std::vector<dsn::ReportedRecipient> recipients;
    std::vector<Aside> asides;      // as many as recipients
    std::size_t states_read = 0;    // of `recipients`, where they are wanted
    std::deque<std::string> texts;  // what the views of `recipients` look at
    bool not_wanted_soon = false;   // the message, behind this
    bool asked = false;             // for the message, its first chunk or a state
    bool header_read = false;
    std::string header;                // of a message whose content is spooled: its first chunk
    Status unreadable;                 // why the message cannot be loaded
    mail::Message* message = nullptr;  // under a lease
    spool::Log::Pin pin;               // of its chunks
  };
  struct Backlogged {  // for room in the batches
    bool settled = false;
    mail::QueueId id;
    mail::Location location;
    std::uint16_t recipient = 0;
    mail::Outcome outcome = mail::Outcome::relayed;
    std::string state;
  };
  // A message being read back, for deliveries, for its report, or for both.
  struct Loading {
    mail::Location location;  // where it is now
    mail::Location asked;     // where it is being read
    std::vector<Lent*> waiting;
  };
  // Some for the disk to choose from, and few enough that what they take is no matter: content comes under the budget
  // of memory only when it has been read.
  static constexpr std::size_t loads_max = 256;
  static constexpr std::size_t backlog_max = 4096;
  static constexpr std::size_t reports_max = 256;  // as loads: most are being read for
  static constexpr Duration hunger_interval = std::chrono::milliseconds(100);
  // So many have room in one DSN (dsn::Options::bytes_max) unless the next hop was talkative, when those beyond are
  // counted in its text; and their settlements beside it in one batch.
  static constexpr std::size_t recipients_per_dsn = 100;
  static constexpr std::size_t unreadable_max = 4096;  // told of once; beyond, perhaps again

  void on_message_read(std::uint64_t cookie, const StatusOr<spool::MessageView>& view) override;
  void on_chunk_read(std::uint64_t cookie, const StatusOr<Bytes>& chunk) override;
  void on_state_read(std::uint64_t cookie, const StatusOr<Bytes>& state) override;

  [[nodiscard]] Lent& new_delivery();
  void hand_over(Lent& delivery, mail::Message& message);
  void free_delivery(Lent& delivery);
  [[nodiscard]] Loading& load(mail::QueueId id, mail::Location location);
  void read(mail::QueueId id, Loading& loading);
  void end_loading(mail::QueueId id, mail::Message* message, const Status& status);
  void not_lent(Lent& delivery, const Status& status);
  void note_unreadable(mail::QueueId id, const Status& status);
  void attach(Report& report, mail::Message& message);
  [[nodiscard]] StatusOr<std::unique_ptr<mail::Message>> rebuild(mail::QueueId id, const spool::MessageView& view);
  void enqueue(const mail::Message& message, std::span<const queue::NewRecipient> recipients);
  [[nodiscard]] std::string destination_text(const mail::PathView& path) const;

  void settle(queue::Settlement& settlement, const egress::Delivery* delivery);
  void retry(const queue::RetryUpdate& update, const egress::Delivery* delivery);
  void drain(const egress::Delivery* delivery);
  [[nodiscard]] bool write(const Backlogged& entry);
  void write_or_wait(Backlogged entry);
  void record(EventKind kind, mail::QueueId id, std::uint16_t recipient, const mail::Reply& reply,
              const egress::Delivery* delivery);
  // The action that the sender asked to be told of; nullopt: none.
  [[nodiscard]] std::optional<dsn::Action> success_to_report(const queue::Settlement& settlement,
                                                             const egress::Delivery* delivery) const;
  void tell_sender(queue::Settlement& settlement, dsn::Action action, const egress::Delivery* delivery);
  void tell_of_delay(const queue::RetryUpdate& update, const egress::Delivery* delivery);
  [[nodiscard]] Report& report_of(mail::QueueId id, mail::Location location);
  void name_next_hop(Report& report, dsn::ReportedRecipient& recipient, const egress::Delivery* delivery);
  // Where in a report a delay of the recipient stands that has not been told yet; nullptr: nowhere.
  struct Untold {
    dsn::ReportedRecipient& recipient;
    Aside& aside;
  };
  [[nodiscard]] std::optional<Untold> find_untold(mail::QueueId id, std::uint16_t recipient);
  [[nodiscard]] static std::string delayed_state(const dsn::ReportedRecipient& recipient, const Aside& aside,
                                                 bool warned);
  // True when the report is done with.
  [[nodiscard]] bool advance(Report& report);
  [[nodiscard]] Report* find_report(std::uint64_t id);
  // What it asked for has come.
  void go_on(Report& report);
  [[nodiscard]] bool write_report(Report& report);
  void settle_unreported(Report& report);
  void end_report(Report& report);

  queue::ShardIndex self_;
  io::Loop& loop_;
  queue::OwnerQueue& queue_;
  MessageStore& store_;
  Logs& logs_;
  Router& router_;
  Intake& intake_;
  Metrics& metrics_;
  EventBuffer& events_;
  OwnerUser& user_;
  Random random_;
  SnapshotPtr snapshot_;

  std::vector<std::unique_ptr<Lent>> deliveries_;  // all ever made
  std::vector<Lent*> free_deliveries_;
  std::size_t lent_count_ = 0;
  absl::flat_hash_map<mail::QueueId, std::unique_ptr<Loading>> loading_;
  std::vector<mail::QueueId> hungry_;  // of loading_: there was no memory to read them back
  Instant read_again_at_ = never;
  bool stopping_ = false;
  absl::flat_hash_set<mail::QueueId> unreadable_;  // those told of
  std::deque<Backlogged> backlog_;
  absl::flat_hash_map<mail::QueueId, std::unique_ptr<Report>> reports_;
  std::deque<mail::QueueId> reports_to_advance_;  // those of reports_ that ask for nothing, in the order of the answers
  bool reports_stuck_ = false;                    // for room; until on_room()
  std::string scratch_;
};

}  // namespace postern::shard
