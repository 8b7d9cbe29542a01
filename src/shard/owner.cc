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
  queue_.add({.queue_id = message.id,
              .location = message.location,
              // Time in which nothing may be tried does not count.
              .give_up_at = std::max(envelope.head.received_at, envelope.head.hold_until) +
                            snapshot_->options->retry.give_up_after,
              .hold_until = envelope.head.hold_until,
              .sender_hash = static_cast<std::uint32_t>(hash_bytes(as_bytes(envelope.reverse_path().text))),
              .tenant = envelope.head.tenant,
              .priority = envelope.head.priority,
              .null_sender = envelope.reverse_path().null()},
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
                          .retry = std::nullopt});
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
                                  .retry = std::nullopt};
    if (!unsettled.state.empty()) {
      const StatusOr<queue::RetryState> state = queue::decode_retry_state(unsettled.state);
      // A state that cannot be read costs an early attempt, nothing else.
      if (state.ok()) recipient.retry = queue::RetryPoint{state->attempts, state->due};
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
  for (const auto& report : reports_) {
    if (report->id == moved.id) report->location = moved.to;
  }
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
  for (const auto& report : reports_) {
    if (report->id != id || !report->asked || report->message != nullptr) continue;
    report->asked = false;
    if (message != nullptr) {
      attach(*report, *message);
    } else {
      report->unreadable = status;
    }
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
  for (const auto& report : reports_) {
    if (report->id.value != cookie) continue;
    report->asked = false;
    report->header_read = true;
    if (chunk.ok()) report->header = as_text(*chunk);
  }
}

void Owner::on_state_read(std::uint64_t cookie, const StatusOr<Bytes>& state) {
  for (const auto& report : reports_) {
    if (report->id.value != cookie) continue;
    report->asked = false;
    dsn::ReportedRecipient& recipient = report->recipients[report->states_read++];
    if (!state.ok()) continue;  // it was never tried, or the words are lost: the report does without
    StatusOr<queue::RetryState> decoded = queue::decode_retry_state(*state);
    if (decoded.ok()) recipient.reply = std::move(decoded->last_reply);
  }
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
  if (!reports_stuck_) {
    for (std::size_t i = 0; i < reports_.size();) {
      if (advance(*reports_[i])) {
        end_report(*reports_[i]);
        reports_.erase(reports_.begin() + static_cast<std::ptrdiff_t>(i));
        any = true;
      } else {
        ++i;
      }
    }
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
  }
  events_.record(event);
  if (kind == EventKind::relayed && event.elapsed) metrics_.delivery_seconds.observe(*event.elapsed);
}

void Owner::settle(queue::Settlement& settlement, const egress::Delivery* delivery) {
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
  metrics_.recipients_deferred.add();
  record(EventKind::deferred, update.queue_id, update.recipient, update.state.last_reply, delivery);
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
  // A next hop that offers DSN has the request and tells the rest [RFC 3461 §5.2.2].
  if (delivery->work.queue_id != settlement.queue_id || delivery->keeps_dsn) return std::nullopt;
  const dsn::Action action = to_a_mailbox ? dsn::Action::delivered : dsn::Action::relayed;
  if (!dsn::wants_report(delivery->message->envelope.recipient(settlement.recipient), action)) return std::nullopt;
  return action;
}

void Owner::tell_sender(queue::Settlement& settlement, dsn::Action action, const egress::Delivery* delivery) {
  Report* report = nullptr;
  for (const auto& known : reports_) {
    // One DSN tells of all recipients that came to their end together; one being read for may still take more.
    if (known->id == settlement.queue_id) report = known.get();
  }
  if (report == nullptr) {
    reports_.push_back(std::make_unique<Report>());
    report = reports_.back().get();
    report->id = settlement.queue_id;
    report->location = settlement.location;
    if (mail::Message* message = store_.find(settlement.queue_id)) attach(*report, *message);
  }
  dsn::ReportedRecipient& recipient = report->recipients.emplace_back();
  recipient.index = settlement.recipient;
  recipient.action = action;
  recipient.expired = settlement.outcome == queue::SettledAs::expired;
  recipient.reply = std::move(settlement.reply);
  if (delivery != nullptr && delivery->work.queue_id == settlement.queue_id) {
    // A mailbox has no MTA of its own to name. A store behind a unix socket is a part of this host; its path would tell
    // the world nothing but our insides.
    const bool local = delivery->next_hop.starts_with("unix:");
    if (local || action != dsn::Action::delivered) {
      report->texts.emplace_back(local ? std::string_view(snapshot_->options->hostname) : host_of(delivery->next_hop));
      recipient.remote_mta = report->texts.back();
    }
    recipient.last_attempt_at = loop_.clocks().wall;
  }
  report->last_of_message |= settlement.last_of_message;
}

void Owner::attach(Report& report, mail::Message& message) {
  store_.lease(message);
  report.message = &message;
  if (!message.spooled.empty()) report.pin = logs_.find(message.location.log)->log().pin(message.location);
}

bool Owner::advance(Report& report) {
  LogDriver& driver = *logs_.find(report.location.log);
  if (driver.log().failed()) return true;
  if (report.asked) return false;
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
    if (!recipient.expired || recipient.reply.code != 0) continue;
    report.asked = true;
    driver.read_state(report.location, report.id, recipient.index, *this, report.id.value);
    return false;
  }
  while (!report.recipients.empty()) {
    if (!write_report(report)) return false;
  }
  return true;
}

// Nobody can be told. What failed stays in the spool, unsettled, for people or for the next start; what was relayed
// must not be relayed again.
void Owner::settle_unreported(Report& report) {
  for (const dsn::ReportedRecipient& recipient : report.recipients) {
    if (recipient.action == dsn::Action::failed) continue;
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
  const std::size_t count = std::min(report.recipients.size(), recipients_per_dsn);
  const std::span<const dsn::ReportedRecipient> told = std::span(report.recipients).first(count);
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
  std::size_t bytes = told.size() * spool::Log::settlement_bytes(0);
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
  for (const dsn::ReportedRecipient& recipient : told) {
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
  report.states_read -= count;
  return true;
}

void Owner::end_report(Report& report) {
  if (report.message != nullptr) {
    logs_.find(report.location.log)->log().unpin(report.pin);
    store_.release(*report.message);
  }
  if (report.last_of_message) store_.drop(report.id);
}

}  // namespace postern::shard
