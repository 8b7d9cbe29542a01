// The door for new mail: numbers it, puts the trace field in front, writes it to the log, and when it is durable tells
// the client's connection and hands it to the queue. DSNs of our own pass here too.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <absl/container/flat_hash_map.h>

#include <postern/base/slot_map.h>
#include <postern/mail/message.h>
#include <postern/spool/types.h>

#include "ingress/door.h"
#include "io/loop.h"
#include "shard/callouts.h"
#include "shard/event_log.h"
#include "shard/logs.h"
#include "shard/message_store.h"
#include "shard/metrics.h"
#include "shard/router.h"
#include "shard/snapshot.h"

namespace postern::shard {

// Who takes durable mail over (shard/owner.h), and who tells the clients (ingress).
class IntakeUser {
 public:
  // Mail for `domain` is to be tried now, whichever shard has it. False: there is none.
  [[nodiscard]] virtual bool on_wake(const std::string& domain) = 0;
  virtual void on_message_durable(std::unique_ptr<mail::Message> message) = 0;
  virtual void on_submission_accepted(const ingress::Submission& submission, mail::QueueId id) = 0;
  virtual void on_submission_refused(const ingress::Submission& submission, const mail::Reply& reply) = 0;

 protected:
  ~IntakeUser() = default;
};

class Intake final : public ingress::Door {
 public:
  struct Setup {
    io::Loop& loop;
    Logs& logs;
    MessageStore& store;
    Router& router;
    Metrics& metrics;
    EventBuffer& events;
    IntakeUser& user;
    Callouts& callouts;
    std::uint32_t pending_max = 65'536;  // messages between end of data and stable storage
  };
  explicit Intake(const Setup& setup);
  ~Intake();

  void set_snapshot(SnapshotPtr snapshot) { snapshot_ = std::move(snapshot); }
  // Mail is taken only once every log of every shard is recovered.
  void open() { open_ = true; }
  // 421 is ingress's to say; this refuses transactions that begin none the less.
  void close() { open_ = false; }

  // --- ingress::Door
  [[nodiscard]] const mail::Reply* refuse_mail(const mail::Envelope& envelope) override;
  [[nodiscard]] const mail::Reply* refuse_recipient(const mail::PathView& forward_path) override;
  [[nodiscard]] bool asks_next_hops() const override;
  [[nodiscard]] HopAnswer ask_next_hop(const mail::PathView& forward_path, const ingress::Asker& asker,
                                       Instant since) override;
  [[nodiscard]] Woken wake(std::string_view domain) override;
  [[nodiscard]] std::unique_ptr<mail::Message> new_message() override;
  [[nodiscard]] bool take_memory(mail::Message& message, std::uint64_t bytes) override;
  void give_memory(mail::Message& message, std::uint64_t bytes) override;
  void discard_message(std::unique_ptr<mail::Message> message) override;
  [[nodiscard]] spool::ContentId begin_content() override;
  [[nodiscard]] Status append_chunk(spool::ContentId content, Bytes bytes) override;
  void abandon_content(spool::ContentId content) override;
  void submit(std::unique_ptr<mail::Message> message, spool::ContentId streamed,
              const ingress::Submission& submission) override;

  // --- from the logs
  void on_durable(spool::Ticket ticket);
  void on_undone(spool::Ticket ticket);
  void on_room();

  // Names a message of our own (a DSN) that its caller appends; on_message_durable() comes when it is durable.
  // Only while can_expect().
  [[nodiscard]] spool::Ticket expect(std::unique_ptr<mail::Message> message);
  [[nodiscard]] bool can_expect() const { return !pending_.full(); }

  [[nodiscard]] bool idle() const { return pending_.size() == 0 && waiting_.empty(); }

 private:
  struct Pending {
    std::unique_ptr<mail::Message> message;
    std::optional<ingress::Submission> submission;  // none: ours
    Instant submitted_at{};
    bool streamed = false;
  };
  struct Waiting {  // for room in the batches
    std::unique_ptr<mail::Message> message;
    spool::ContentId streamed;
    ingress::Submission submission;
    Instant submitted_at{};
  };
  // A domain is woken once in so long a time by each shard, and so many domains are in it: more wait.
  static constexpr Duration wake_interval = std::chrono::seconds(30);
  static constexpr std::size_t woken_max = 1024;

  // False: no room now, and `waiting` is as it was.
  [[nodiscard]] bool try_submit(Waiting& waiting);
  void refuse(Waiting& waiting, const mail::Reply& reply);

  io::Loop& loop_;
  Logs& logs_;
  MessageStore& store_;
  Router& router_;
  Metrics& metrics_;
  EventBuffer& events_;
  IntakeUser& user_;
  Callouts& callouts_;
  SnapshotPtr snapshot_;
  bool open_ = false;
  SlotMap<Pending> pending_;
  std::deque<Waiting> waiting_;  // bounded by reply slots × connections
  std::string envelope_bytes_;
  mail::Reply reply_;
  absl::flat_hash_map<std::string, Instant> woken_;  // domains, and until when they are not woken again
};

}  // namespace postern::shard
