#include "shard/owner.h"

#include <algorithm>
#include <utility>

#include <absl/container/inlined_vector.h>

#include <postern/base/check.h>
#include <postern/base/hash.h>
#include <postern/base/planted.h>
#include <postern/base/text.h>

namespace postern::shard {
namespace {

// No room in its batches now, or its first segment is not there yet: on_room() will tell.
bool waits_for_log(const spool::Log& log, const Status& status) {
  return status.code() == StatusCode::kResourceExhausted ||
         (status.code() == StatusCode::kUnavailable && !log.failed());
}

// "mx.example.net" of "mx.example.net[192.0.2.1]:25", "[192.0.2.1]" of "[192.0.2.1]:25".
std::string_view host_of(std::string_view next_hop) {
  return next_hop.substr(0, next_hop.starts_with('[') ? next_hop.find(']') + 1 : next_hop.find('['));
}

bool wants_warning(const mail::Envelope& envelope, std::size_t index) {
  const mail::RecipientView recipient = envelope.recipient(index);
  return !envelope.reverse_path().null() && (dsn::wants_report(recipient, dsn::Action::delayed) ||
                                             dsn::deadline_wants_report(envelope, recipient, dsn::Action::delayed));
}

}  // namespace

Owner::Owner(const Setup& setup)
    : self_(setup.self),
      loop_(setup.loop),
      queue_(setup.queue),
      store_(setup.store),
      logs_(setup.logs),
      router_(setup.router),
      intake_(setup.intake),
      metrics_(setup.metrics),
      events_(setup.events),
      user_(setup.user),
      random_(setup.random) {}

Owner::~Owner() = default;

// --- mail comes in ---------------------------------------------------------------------------------------------------

std::string Owner::destination_text(const mail::PathView& path) const {
  StatusOr<std::string> destination = router_.destination_of(path);
  if (destination.ok()) return *std::move(destination);
  // Taken under another configuration: its route will say what is wrong with it.
  std::string text(path.domain());
  return text.empty() ? std::string("invalid") : text;
}

void Owner::enqueue(const mail::Message& message, std::span<const queue::NewRecipient> recipients) {
  const mail::Envelope& envelope = message.envelope;
  const RetryOptions& retry = snapshot_->options->retry;
  const WallTime deliver_by = envelope.head.deliver_by;
  const bool timed = deliver_by != WallTime{};
  const bool returns = timed && envelope.head.deliver_by_returns;
  // Time in which nothing may be tried does not count; but the sender's time runs from MAIL on.
  const WallTime released_at = std::max(envelope.head.received_at, envelope.head.hold_until);
  WallTime give_up_at = released_at + retry.give_up_after;
  if (returns) give_up_at = std::min(give_up_at, deliver_by);
  WallTime warn_at = retry.warn_after == Duration::zero() ? WallTime{} : released_at + retry.warn_after;
  // What came too late already was told of by whoever had it when its time ran out.
  if (timed && !returns) warn_at = deliver_by > envelope.head.received_at ? deliver_by : WallTime{};
  queue_.add({.queue_id = message.id,
              .location = message.location,
              .give_up_at = give_up_at,
              .warn_at = warn_at,
              .hold_until = envelope.head.hold_until,
              .sender_hash = static_cast<std::uint32_t>(hash_bytes(as_bytes(envelope.reverse_path().text))),
              .tenant = envelope.head.tenant,
              .priority = envelope.head.priority,
              .null_sender = envelope.reverse_path().null(),
              .strict = returns && give_up_at == deliver_by},
             recipients, loop_.clocks());
}

void Owner::take(std::unique_ptr<mail::Message> message) {
  const mail::Envelope& envelope = message->envelope;
  absl::InlinedVector<std::string, 4> destinations;
  absl::InlinedVector<queue::NewRecipient, 4> recipients;
  destinations.reserve(envelope.recipient_count());
  for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
    const mail::PathView path = envelope.recipient(i).forward_path;
    destinations.push_back(destination_text(path));
    recipients.push_back({.index = static_cast<std::uint16_t>(i),
                          .destination = destinations.back(),
                          .hash = static_cast<std::uint32_t>(hash_bytes(as_bytes(path.text))),
                          .retry = std::nullopt,
                          .warn = wants_warning(envelope, i)});
  }
  enqueue(*message, recipients);
  // Held mail is not wanted for a while: it is read back when it is.
  if (message->spooled_only || envelope.head.hold_until > loop_.clocks().wall) {
    store_.recycle(std::move(message));
  } else {
    store_.keep(std::move(message));
  }
}

void Owner::take_recovered(const spool::ReplayedMessage& replayed) {
  std::unique_ptr<mail::Message> message = store_.new_message(BudgetClass::control);
  message->id = replayed.id;
  message->location = replayed.location;
  Status status = message->envelope.decode(replayed.envelope);
  if (replayed.id.log() != replayed.location.log) status = error(StatusCode::kDataLoss, "its name is another log's");
  if (!status.ok()) {
    note_unreadable(replayed.id, status);
    store_.recycle(std::move(message));
    return;
  }
  std::vector<std::string> destinations;
  std::vector<queue::NewRecipient> recipients;
  destinations.reserve(replayed.unsettled.size());
  for (const spool::ReplayedRecipient& unsettled : replayed.unsettled) {
    if (unsettled.index >= message->envelope.recipient_count()) continue;
    if (POSTERN_PLANTED(retry_forgotten) && !unsettled.state.empty()) continue;
    const mail::PathView path = message->envelope.recipient(unsettled.index).forward_path;
    destinations.push_back(destination_text(path));
    queue::NewRecipient recipient{.index = unsettled.index,
                                  .destination = destinations.back(),
                                  .hash = static_cast<std::uint32_t>(hash_bytes(as_bytes(path.text))),
                                  .retry = std::nullopt,
                                  .warn = wants_warning(message->envelope, unsettled.index)};
    if (!unsettled.state.empty()) {
      const StatusOr<queue::RetryState> state = queue::decode_retry_state(unsettled.state);
      // A state that cannot be read costs an early attempt, nothing else.
      if (state.ok()) {
        recipient.retry = queue::RetryPoint{state->attempts, state->due};
        recipient.warn = recipient.warn && !state->warned;
      }
    }
    recipients.push_back(recipient);
  }
  if (!recipients.empty()) enqueue(*message, recipients);
  store_.recycle(std::move(message));
}

void Owner::on_moved(const spool::Moved& moved) {
  queue_.on_moved(moved.id, moved.to);
  if (mail::Message* message = store_.find(moved.id)) {
    message->location = moved.to;
    // Its chunks may have moved as well: whoever reads the old ones has them pinned, the next one asks for the record.
    if (!message->spooled.empty()) store_.detach(moved.id);
  }
  if (const auto loading = loading_.find(moved.id); loading != loading_.end()) loading->second->location = moved.to;
  if (Report* report = find_report(moved.id.value)) report->location = moved.to;
  for (Backlogged& entry : backlog_) {
    if (entry.id == moved.id) entry.location = moved.to;
  }
}

// --- deliveries ------------------------------------------------------------------------------------------------------

Owner::Lent& Owner::new_delivery() {
  ++lent_count_;
  if (free_deliveries_.empty()) {
    deliveries_.push_back(std::make_unique<Lent>());
    return *deliveries_.back();
  }
  Lent& delivery = *free_deliveries_.back();
  free_deliveries_.pop_back();
  return delivery;
}

void Owner::free_delivery(Lent& delivery) {
  --lent_count_;
  delivery.clear();
  delivery.pin = {};
  free_deliveries_.push_back(&delivery);
}

void Owner::lend(queue::Work work, queue::ShardIndex executor, bool pulled) {
  Lent& delivery = new_delivery();
  delivery.owner = self_;
  delivery.executor = executor;
  delivery.pulled = pulled;
  delivery.route = router_.route_of(work.site);
  delivery.work = std::move(work);
  if (mail::Message* message = store_.find(delivery.work.queue_id)) return hand_over(delivery, *message);
  load(delivery.work.queue_id, delivery.work.location).waiting.push_back(&delivery);
}

// Reads the message back, unless that is under way: on_message_read() will come.
Owner::Loading& Owner::load(mail::QueueId id, mail::Location location) {
  std::unique_ptr<Loading>& loading = loading_[id];
  if (!loading) {
    loading = std::make_unique<Loading>();
    loading->location = location;
    read(id, *loading);
  }
  return *loading;
}

void Owner::read(mail::QueueId id, Loading& loading) {
  LogDriver* const driver = logs_.find(loading.location.log);
  POSTERN_CHECK(driver != nullptr, "a message of another shard's log");
  loading.asked = loading.location;
  driver->read_message(loading.asked, *this, id.value);
}

void Owner::hand_over(Lent& delivery, mail::Message& message) {
  store_.lease(message);
  delivery.message = &message;
  if (!message.spooled.empty()) {
    delivery.pinned_log = message.location.log;
    delivery.pin = logs_.find(message.location.log)->log().pin(message.location);
  }
  user_.on_lent(delivery);
}

StatusOr<std::unique_ptr<mail::Message>> Owner::rebuild(mail::QueueId id, const spool::MessageView& view) {
  std::unique_ptr<mail::Message> message = store_.new_message(BudgetClass::delivery);
  message->id = id;
  message->facts = view.facts;
  message->added_fields = as_text(view.added_fields);
  for (std::size_t i = 0; i < view.extents.size(); ++i) {
    message->spooled.push_back({view.extents[i].position, view.extents[i].bytes});
  }
  Status status = message->envelope.decode(view.envelope);
  if (!status.ok()) {
    store_.recycle(std::move(message));
    return status;
  }
  message->content.expect(view.content.size());
  if (!store_.take(*message, MessageStore::overhead_bytes + message->content.growth_for(view.content.size()))) {
    store_.recycle(std::move(message));
    return error(StatusCode::kResourceExhausted, "no memory to read the message back");
  }
  message->content.append(view.content);
  return message;
}

void Owner::on_message_read(std::uint64_t cookie, const StatusOr<spool::MessageView>& view) {
  const mail::QueueId id{cookie};
  Loading& loading = *loading_.at(id);
  // Compaction was quicker than the read.
  if (!view.ok() && loading.location != loading.asked) return read(id, loading);
  StatusOr<std::unique_ptr<mail::Message>> rebuilt = view.ok() ? rebuild(id, *view) : view.status();
  if (rebuilt.ok()) {
    (*rebuilt)->location = loading.location;
    return end_loading(id, &store_.keep(*std::move(rebuilt)), OkStatus());
  }
  const Status status = rebuilt.status();
  if (status.code() == StatusCode::kResourceExhausted && !stopping_) {
    if (hungry_.empty()) read_again_at_ = loop_.now() + hunger_interval;
    hungry_.push_back(id);
    return;
  }
  if (status.code() != StatusCode::kResourceExhausted) note_unreadable(id, status);
  end_loading(id, nullptr, status);
}

// `message`: what was read back; nullptr: `status` says why it was not.
void Owner::end_loading(mail::QueueId id, mail::Message* message, const Status& status) {
  const auto found = loading_.find(id);
  const std::unique_ptr<Loading> loading = std::move(found->second);
  loading_.erase(found);
  // A delivery that ends at once (no descriptor for its connection) must not take the message from those behind it.
  if (message != nullptr) store_.lease(*message);
  for (Lent* delivery : loading->waiting) {
    if (message != nullptr) {
      hand_over(*delivery, *message);
    } else {
      not_lent(*delivery, status);
    }
  }
  if (Report* report = find_report(id.value); report != nullptr && report->asked && report->message == nullptr) {
    if (message != nullptr) {
      attach(*report, *message);
    } else {
      report->unreadable = status;
    }
    go_on(*report);
  }
  if (message != nullptr) store_.release(*message);
}

// Want of memory is no attempt; what cannot be read is tried again later, as disks and their controllers do err.
void Owner::not_lent(Lent& delivery, const Status& status) {
  if (status.code() != StatusCode::kResourceExhausted) {
    const mail::Reply reply{0, {4, 3, 0}, "the message cannot be read back: " + std::string(message_of(status))};
    for (const std::uint16_t recipient : delivery.work.recipients) {
      delivery.outcomes.push_back({.recipient = recipient, .result = {mail::Outcome::deferred, reply}});
    }
  }
  const mail::SiteId site = delivery.work.site;
  const queue::ShardIndex executor = delivery.executor;
  const bool pulled = delivery.pulled;
  take_back(delivery);
  user_.on_not_lent(site, executor, pulled);
}

void Owner::note_unreadable(mail::QueueId id, const Status& status) {
  if (unreadable_.size() >= unreadable_max) unreadable_.clear();
  if (!unreadable_.insert(id).second) return;
  metrics_.spool_messages_quarantined.add();
  user_.on_unreadable(id, status);
}

void Owner::stop_waiting() {
  stopping_ = true;
  for (const mail::QueueId id : std::exchange(hungry_, {})) {
    end_loading(id, nullptr, error(StatusCode::kResourceExhausted, "no memory to read the message back"));
  }
}

void Owner::on_chunk_read(std::uint64_t cookie, const StatusOr<Bytes>& chunk) {
  Report& report = *find_report(cookie);
  report.header_read = true;
  if (chunk.ok()) report.header = as_text(*chunk);
  go_on(report);
}

void Owner::on_state_read(std::uint64_t cookie, const StatusOr<Bytes>& state) {
  Report& report = *find_report(cookie);
  const Aside& aside = report.asides[report.states_read];
  dsn::ReportedRecipient& recipient = report.recipients[report.states_read++];
  go_on(report);
  if (!aside.wants_state) return;  // it has been tried since
  if (!state.ok()) return;         // it was never tried, or the words are lost: the report does without
  StatusOr<queue::RetryState> decoded = queue::decode_retry_state(*state);
  if (decoded.ok()) recipient.reply = std::move(decoded->last_reply);
}

void Owner::take_back(egress::Delivery& lent) {
  auto& delivery = static_cast<Lent&>(lent);
  const bool known = queue_.on_results(delivery.work.delivery, delivery.outcomes, loop_.clocks());
  POSTERN_CHECK(known, "a delivery came back twice");
  drain(&delivery);
  if (delivery.message != nullptr) {
    mail::Message& message = const_cast<mail::Message&>(*delivery.message);  // ours, lent as read-only
    if (delivery.pin.sequence != 0) logs_.find(delivery.pinned_log)->log().unpin(delivery.pin);
    store_.release(message);
  }
  free_delivery(delivery);
}

void Owner::defer_site(mail::SiteId site, const mail::Reply& reply) {
  queue_.defer_site(site, reply, loop_.clocks());
  drain(nullptr);
}

// --- outcomes --------------------------------------------------------------------------------------------------------

bool Owner::work() {
  bool any = false;
  drain(nullptr);
  if (!hungry_.empty() && loop_.now() >= read_again_at_) {
    for (const mail::QueueId id : std::exchange(hungry_, {})) read(id, *loading_.at(id));
  }
  for (std::size_t left = reports_to_advance_.size(); left > 0 && !reports_stuck_; --left) {
    const mail::QueueId id = reports_to_advance_.front();
    Report& report = *reports_.at(id);
    const bool done = advance(report);
    if (!done && !report.asked) break;  // for want of room
    reports_to_advance_.pop_front();
    if (!done) continue;
    end_report(report);
    reports_.erase(id);
    any = true;
  }
  return any;
}

void Owner::drain(const egress::Delivery* delivery) {
  while (std::optional<queue::Settlement> settlement = queue_.take_settlement()) settle(*settlement, delivery);
  while (const std::optional<queue::RetryUpdate> update = queue_.take_retry_update()) retry(*update, delivery);
}

void Owner::record(EventKind kind, mail::QueueId id, std::uint16_t recipient, const mail::Reply& reply,
                   const egress::Delivery* delivery) {
  const bool this_one = delivery != nullptr && delivery->work.queue_id == id;
  const mail::Message* message = this_one && delivery->message != nullptr ? delivery->message : store_.find(id);
  const ClockPair now = loop_.clocks();
  scratch_ = reply.to_log_text();
  Event event{.kind = kind, .time = now.wall, .id = id, .reply = scratch_};
  if (message != nullptr) {
    event.from = message->envelope.reverse_path().text;
    event.to = message->envelope.recipient(recipient).forward_path.text;
    event.elapsed = now.wall - message->envelope.head.received_at;
  }
  if (this_one) {
    if (delivery->route) event.site = delivery->route->site_key;
    event.peer = delivery->next_hop;
    if (!delivery->tls_version.empty()) {
      event.tls = delivery->tls_version;
      event.cipher = delivery->tls_cipher;
      event.verified = delivery->tls_verified;
    }
  }
  events_.record(event);
  if (kind == EventKind::relayed && event.elapsed) metrics_.delivery_seconds.observe(*event.elapsed);
}

void Owner::settle(queue::Settlement& settlement, const egress::Delivery* delivery) {
  if (const auto untold = find_untold(settlement.queue_id, settlement.recipient)) untold->aside.withdrawn = true;
  switch (settlement.outcome) {
    case queue::SettledAs::relayed:
      metrics_.recipients_relayed.add();
      record(EventKind::relayed, settlement.queue_id, settlement.recipient, settlement.reply, delivery);
      if (const std::optional<dsn::Action> action = success_to_report(settlement, delivery)) {
        return tell_sender(settlement, *action, delivery);
      }
      break;
    case queue::SettledAs::failed:
    case queue::SettledAs::expired:
      metrics_.recipients_failed.add();
      record(settlement.outcome == queue::SettledAs::expired ? EventKind::expired : EventKind::failed,
             settlement.queue_id, settlement.recipient, settlement.reply, delivery);
      if (!settlement.null_sender || POSTERN_PLANTED(dsn_for_dsn)) {
        return tell_sender(settlement, dsn::Action::failed, delivery);
      }
      break;
  }
  write_or_wait(
      {.settled = true,
       .id = settlement.queue_id,
       .location = settlement.location,
       .recipient = settlement.recipient,
       .outcome = settlement.outcome == queue::SettledAs::relayed ? mail::Outcome::relayed : mail::Outcome::failed,
       .state = {}});
  if (settlement.last_of_message) store_.drop(settlement.queue_id);
}

void Owner::retry(const queue::RetryUpdate& update, const egress::Delivery* delivery) {
  if (update.attempted) {
    metrics_.recipients_deferred.add();
    record(EventKind::deferred, update.queue_id, update.recipient, update.state.last_reply, delivery);
  }
  if (update.warn) return tell_of_delay(update, delivery);
  if (const auto untold = find_untold(update.queue_id, update.recipient)) {
    untold->recipient.reply = update.state.last_reply;
    untold->recipient.last_attempt_at = loop_.clocks().wall;
    untold->aside = {.attempts = update.state.attempts, .due = update.state.due};
    return;
  }
  Backlogged entry{.settled = false,
                   .id = update.queue_id,
                   .location = update.location,
                   .recipient = update.recipient,
                   .outcome = mail::Outcome::deferred,
                   .state = {}};
  queue::encode_retry_state(update.state, entry.state);
  write_or_wait(std::move(entry));
  store_.drop(update.queue_id);  // it is not wanted for a while
}

bool Owner::write(const Backlogged& entry) {
  LogDriver* const driver = logs_.find(entry.location.log);
  POSTERN_CHECK(driver != nullptr, "a settlement for another shard's log");
  const Status status =
      entry.settled
          ? driver->log().append_settlement(entry.location, entry.id, entry.recipient, entry.outcome, {})
          : driver->log().append_retry_state(entry.location, entry.id, entry.recipient, as_bytes(entry.state));
  if (waits_for_log(driver->log(), status)) return false;
  // A failed log takes nothing any more: what is lost with it is a duplicate after the restart, never mail.
  if (!status.ok() && !driver->log().failed()) user_.on_record_lost(entry.id, status);
  return true;
}

void Owner::write_or_wait(Backlogged entry) {
  if (!backlog_.empty() || !write(entry)) backlog_.push_back(std::move(entry));
}

void Owner::on_room() {
  reports_stuck_ = false;
  while (!backlog_.empty() && write(backlog_.front())) backlog_.pop_front();
}

// --- what senders are told -------------------------------------------------------------------------------------------

std::optional<dsn::Action> Owner::success_to_report(const queue::Settlement& settlement,
                                                    const egress::Delivery* delivery) const {
  // Nothing is relayed but by a delivery, which has the message.
  if (settlement.null_sender || delivery == nullptr || delivery->message == nullptr) return std::nullopt;
  const bool to_a_mailbox = delivery->route->transport != mail::Transport::smtp;
  if (delivery->work.queue_id != settlement.queue_id) return std::nullopt;
  const dsn::Action action = to_a_mailbox ? dsn::Action::delivered : dsn::Action::relayed;
  const mail::Envelope& envelope = delivery->message->envelope;
  const mail::RecipientView recipient = envelope.recipient(settlement.recipient);
  // A next hop that offers DSN has the request and tells the rest [RFC 3461 §5.2.2]; the same of DELIVERBY.
  const bool asked = dsn::wants_report(recipient, action) && !delivery->keeps_dsn;
  const bool timed = dsn::deadline_wants_report(envelope, recipient, action) &&
                     (!delivery->keeps_deadline || envelope.head.deliver_by_trace);
  if (!asked && !timed) return std::nullopt;
  return action;
}

// One DSN tells of all recipients that came to their end together; one being read for may still take more.
Owner::Report& Owner::report_of(mail::QueueId id, mail::Location location) {
  if (Report* const known = find_report(id.value)) return *known;
  Report& report = *(reports_[id] = std::make_unique<Report>());
  reports_to_advance_.push_back(id);
  report.id = id;
  report.location = location;
  if (mail::Message* message = store_.find(id)) attach(report, *message);
  return report;
}

void Owner::name_next_hop(Report& report, dsn::ReportedRecipient& recipient, const egress::Delivery* delivery) {
  if (delivery == nullptr || delivery->work.queue_id != report.id) return;
  // A mailbox has no MTA of its own to name. A store behind a unix socket is a part of this host; its path would tell
  // the world nothing but our insides.
  const bool local = delivery->next_hop.starts_with("unix:");
  if (local || recipient.action != dsn::Action::delivered) {
    report.texts.emplace_back(local ? std::string_view(snapshot_->options->hostname) : host_of(delivery->next_hop));
    recipient.remote_mta = report.texts.back();
  }
  recipient.last_attempt_at = loop_.clocks().wall;
}

void Owner::tell_sender(queue::Settlement& settlement, dsn::Action action, const egress::Delivery* delivery) {
  Report& report = report_of(settlement.queue_id, settlement.location);
  dsn::ReportedRecipient& recipient = report.recipients.emplace_back();
  recipient.index = settlement.recipient;
  recipient.action = action;
  recipient.expired = settlement.outcome == queue::SettledAs::expired;
  recipient.reply = std::move(settlement.reply);
  report.asides.push_back({.wants_state = recipient.expired && recipient.reply.code == 0});
  name_next_hop(report, recipient, delivery);
  report.not_wanted_soon |= settlement.last_of_message;
}

void Owner::tell_of_delay(const queue::RetryUpdate& update, const egress::Delivery* delivery) {
  Report& report = report_of(update.queue_id, update.location);
  dsn::ReportedRecipient& recipient = report.recipients.emplace_back();
  recipient.index = update.recipient;
  recipient.action = dsn::Action::delayed;
  recipient.reply = update.state.last_reply;
  recipient.retried_until = update.give_up_at;
  report.asides.push_back(
      {.wants_state = !update.attempted, .attempts = update.state.attempts, .due = update.state.due});
  name_next_hop(report, recipient, delivery);
  report.not_wanted_soon |= update.attempted;
  record(EventKind::delayed, update.queue_id, update.recipient, update.state.last_reply, delivery);
}

std::optional<Owner::Untold> Owner::find_untold(mail::QueueId id, std::uint16_t recipient) {
  Report* const report = reports_.empty() ? nullptr : find_report(id.value);
  if (report == nullptr) return std::nullopt;
  for (std::size_t i = 0; i < report->recipients.size(); ++i) {
    const dsn::ReportedRecipient& told = report->recipients[i];
    if (told.index == recipient && told.action == dsn::Action::delayed && !report->asides[i].withdrawn) {
      return Untold{report->recipients[i], report->asides[i]};
    }
  }
  return std::nullopt;
}

std::string Owner::delayed_state(const dsn::ReportedRecipient& recipient, const Aside& aside, bool warned) {
  std::string state;
  queue::encode_retry_state(
      {.attempts = aside.attempts, .due = aside.due, .last_reply = recipient.reply, .warned = warned}, state);
  return state;
}

void Owner::attach(Report& report, mail::Message& message) {
  store_.lease(message);
  report.message = &message;
  if (!message.spooled.empty()) report.pin = logs_.find(message.location.log)->log().pin(message.location);
}

Owner::Report* Owner::find_report(std::uint64_t id) {
  const auto found = reports_.find(mail::QueueId{id});
  return found == reports_.end() ? nullptr : found->second.get();
}

void Owner::go_on(Report& report) {
  report.asked = false;
  reports_to_advance_.push_back(report.id);
}

bool Owner::advance(Report& report) {
  LogDriver& driver = *logs_.find(report.location.log);
  if (driver.log().failed()) return true;
  if (!report.unreadable.ok()) {
    settle_unreported(report);
    return true;
  }
  if (report.message == nullptr) {
    if (mail::Message* message = store_.find(report.id)) {
      attach(report, *message);
    } else {
      report.asked = true;
      (void)load(report.id, report.location);
      return false;
    }
  }
  if (!report.message->spooled.empty() && !report.header_read) {
    const mail::SpooledPiece& first = report.message->spooled.front();
    report.asked = true;
    driver.read_chunk({.position = first.position, .bytes = first.bytes}, 0, *this, report.id.value);
    return false;
  }
  for (; report.states_read < report.recipients.size(); ++report.states_read) {
    const dsn::ReportedRecipient& recipient = report.recipients[report.states_read];
    if (!report.asides[report.states_read].wants_state) continue;
    report.asked = true;
    driver.read_state(report.location, report.id, recipient.index, *this, report.id.value);
    return false;
  }
  // Nothing is being read that counts their places.
  for (std::size_t i = report.recipients.size(); i-- > 0;) {
    if (!report.asides[i].withdrawn) continue;
    report.recipients.erase(report.recipients.begin() + static_cast<std::ptrdiff_t>(i));
    report.asides.erase(report.asides.begin() + static_cast<std::ptrdiff_t>(i));
  }
  report.states_read = report.recipients.size();
  while (!report.recipients.empty()) {
    if (!write_report(report)) return false;
  }
  return true;
}

// Nobody can be told. What failed stays in the spool, unsettled, for people or for the next start; what was relayed
// must not be relayed again; what waits keeps its time.
void Owner::settle_unreported(Report& report) {
  for (std::size_t i = 0; i < report.recipients.size(); ++i) {
    const dsn::ReportedRecipient& recipient = report.recipients[i];
    if (recipient.action == dsn::Action::failed || report.asides[i].withdrawn) continue;
    if (recipient.action == dsn::Action::delayed) {
      write_or_wait({.settled = false,
                     .id = report.id,
                     .location = report.location,
                     .recipient = recipient.index,
                     .outcome = mail::Outcome::deferred,
                     .state = delayed_state(recipient, report.asides[i], false)});
      continue;
    }
    write_or_wait({.settled = true,
                   .id = report.id,
                   .location = report.location,
                   .recipient = recipient.index,
                   .outcome = mail::Outcome::relayed,
                   .state = {}});
  }
}

// Settlements and DSN in one atomic batch: an end is known together with its report, or not at all. Takes the
// first recipients, as many as one batch holds beside their DSN. False: no room now.
bool Owner::write_report(Report& report) {
  LogDriver& driver = *logs_.find(report.location.log);
  spool::Log& log = driver.log();
  const mail::Message& message = *report.message;
  // A state from before must not come behind the one that is written here.
  if (std::ranges::any_of(backlog_, [&report](const Backlogged& entry) { return entry.id == report.id; })) {
    reports_stuck_ = true;
    return false;
  }
  const std::size_t count = std::min(report.recipients.size(), recipients_per_dsn);
  const std::span<const dsn::ReportedRecipient> told = std::span(report.recipients).first(count);
  absl::InlinedVector<std::string, 2> states;  // of the delayed ones
  for (std::size_t i = 0; i < count; ++i) {
    if (told[i].action == dsn::Action::delayed) states.push_back(delayed_state(told[i], report.asides[i], true));
  }
  std::string returned = std::move(report.header);
  if (message.spooled.empty()) {
    returned.resize(std::min<std::uint64_t>(
        message.content.size(),
        std::max<std::uint64_t>(snapshot_->dsn.returned_content_max, message.facts.header_bytes)));
    message.content.copy_to(std::as_writable_bytes(std::span(returned)));
  }
  std::optional<dsn::Notification> notification = dsn::compose(
      message.envelope,
      {.queue_id = message.id, .added_fields = message.added_fields, .content = returned, .facts = message.facts}, told,
      snapshot_->dsn, loop_.clocks().wall, random_);
  report.header = std::move(returned);
  if (POSTERN_PLANTED(failure_without_dsn) && told.size() > 1) notification.reset();
  if (notification && !intake_.can_expect()) {
    reports_stuck_ = true;
    return false;
  }
  std::string envelope;
  std::unique_ptr<mail::Message> dsn;
  std::size_t bytes = (told.size() - states.size()) * spool::Log::settlement_bytes(0);
  for (const std::string& state : states) bytes += spool::Log::retry_state_bytes(state.size());
  if (notification) {
    dsn = store_.new_message(BudgetClass::control);
    dsn->envelope = std::move(notification->envelope);
    dsn->envelope.head.received_at = loop_.clocks().wall;
    dsn->envelope.head.protocol = mail::Protocol::local;
    dsn->facts = notification->facts;
    dsn->envelope.encode(envelope);
    bytes += spool::Log::message_bytes(envelope.size(), 0, notification->content.size());
  }
  if (const Status begun = log.begin_group(bytes, spool::Use::internal); !begun.ok()) {
    POSTERN_CHECK(begun.code() != StatusCode::kInvalidArgument, "a DSN and its settlements are more than a batch");
    if (dsn) store_.recycle(std::move(dsn));
    reports_stuck_ = waits_for_log(log, begun);
    return false;
  }
  const std::string* state = states.data();
  for (const dsn::ReportedRecipient& recipient : told) {
    if (recipient.action == dsn::Action::delayed) {
      (void)log.append_retry_state(report.location, report.id, recipient.index, as_bytes(*state++));
      continue;
    }
    const bool failed = recipient.action == dsn::Action::failed;
    (void)log.append_settlement(report.location, report.id, recipient.index,
                                failed ? mail::Outcome::failed : mail::Outcome::relayed, {});
  }
  if (dsn) {
    dsn->id = log.next_queue_id();
    const Bytes content = as_bytes(notification->content);
    dsn->content.expect(content.size());
    // The budget's control reserve is for this; should even that be gone, the DSN is read back from the spool.
    if (store_.take(*dsn, MessageStore::overhead_bytes + dsn->content.growth_for(content.size()))) {
      dsn->content.append(content);
    } else {
      dsn->spooled_only = true;
    }
    events_.record({.kind = EventKind::dsn,
                    .time = dsn->envelope.head.received_at,
                    .id = dsn->id,
                    .from = std::string_view{},
                    .to = dsn->envelope.recipient(0).forward_path.text,
                    .reply = report.id.to_string()});
    metrics_.dsns_made.add();
    mail::Message& made = *dsn;
    const spool::Ticket ticket = intake_.expect(std::move(dsn));  // can_expect() said so
    const StatusOr<mail::Location> location = log.append_message({.id = made.id,
                                                                  .envelope = as_bytes(envelope),
                                                                  .added_fields = {},
                                                                  .content = std::span(&content, 1),
                                                                  .streamed = {},
                                                                  .facts = made.facts,
                                                                  .recipients = 1,
                                                                  .use = spool::Use::internal},
                                                                 ticket);
    POSTERN_CHECK(location.ok(), "a group's room was not enough for its DSN");
    made.location = *location;
  }
  log.end_group();
  report.recipients.erase(report.recipients.begin(), report.recipients.begin() + static_cast<std::ptrdiff_t>(count));
  report.asides.erase(report.asides.begin(), report.asides.begin() + static_cast<std::ptrdiff_t>(count));
  report.states_read -= count;
  return true;
}

void Owner::end_report(Report& report) {
  if (report.message != nullptr) {
    logs_.find(report.location.log)->log().unpin(report.pin);
    store_.release(*report.message);
  }
  if (report.not_wanted_soon) store_.drop(report.id);
}

}  // namespace postern::shard
