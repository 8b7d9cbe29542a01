#include "shard/intake.h"

#include <string_view>
#include <utility>
#include <vector>

#include <absl/container/inlined_vector.h>

#include <postern/base/check.h>
#include <postern/route/domain.h>
#include <postern/route/maildir.h>
#include <postern/smtp/received_field.h>

namespace postern::shard {
namespace {

const mail::Reply starting{451, {4, 3, 2}, "Starting up, try again soon"};
const mail::Reply space_low{452, {4, 3, 1}, "Insufficient storage, try again later"};
const mail::Reply storage_failed{451, {4, 3, 0}, "Local error in storage"};
const mail::Reply memory_low{452, {4, 3, 1}, "Insufficient memory, try again later"};

spool::Ticket ticket_of(SlotId id) {
  return {std::uint64_t{id.generation} << 32 | id.slot};
}
SlotId slot_of(spool::Ticket ticket) {
  return {static_cast<std::uint32_t>(ticket.value), static_cast<std::uint32_t>(ticket.value >> 32)};
}

// "192.0.2.1:40312" → "[192.0.2.1]"; what stands in Received behind the name. Empty for a peer without an IP address.
std::string address_literal(std::string_view client) {
  const StatusOr<io::Address> address = io::Address::parse(client);
  return address.ok() && address->is_ip() ? address->ip().to_address_literal() : std::string();
}

}  // namespace

Intake::Intake(const Setup& setup)
    : loop_(setup.loop),
      logs_(setup.logs),
      store_(setup.store),
      router_(setup.router),
      metrics_(setup.metrics),
      events_(setup.events),
      user_(setup.user),
      callouts_(setup.callouts),
      pending_(setup.pending_max) {}

Intake::~Intake() {
  pending_.for_each([this](SlotId, Pending& pending) { store_.recycle(std::move(pending.message)); });
  for (Waiting& waiting : waiting_) store_.recycle(std::move(waiting.message));
}

const mail::Reply* Intake::refuse_mail(const mail::Envelope& /*envelope*/) {
  if (!open_ || !logs_.active().ready()) return &starting;
  switch (logs_.active().log().intake()) {
    case spool::Intake::open:
      return store_.has_room_for_intake() ? nullptr : &memory_low;
    case spool::Intake::starting:
      return &starting;
    case spool::Intake::space_low:
      return &space_low;
    case spool::Intake::failed:
      return &storage_failed;
  }
  return nullptr;
}

const mail::Reply* Intake::refuse_recipient(const mail::PathView& forward_path) {
  const StatusOr<std::string> destination = router_.destination_of(forward_path);
  if (!destination.ok()) {
    reply_ = {550, {5, 1, 2}, "No such domain"};
    return &reply_;
  }
  const route::Via& via = router_.via_of(forward_path);
  if (via.kind == route::Via::Kind::reject) {
    reply_ = {550, {5, 7, 1}, via.text};
    return &reply_;
  }
  if (via.kind == route::Via::Kind::maildir && !route::expand_maildir(via.text, forward_path).ok()) {
    reply_ = {550, {5, 1, 1}, "No such mailbox"};
    return &reply_;
  }
  return nullptr;
}

bool Intake::asks_next_hops() const {
  return callouts_.enabled();
}

Intake::HopAnswer Intake::ask_next_hop(const mail::PathView& forward_path, const ingress::Asker& asker, Instant since) {
  return callouts_.ask(forward_path, asker, since);
}

Intake::Woken Intake::wake(std::string_view domain) {
  const StatusOr<std::string> name = route::normalise_domain(domain);
  if (!name.ok()) return Woken::no_domain;
  const Instant now = loop_.now();
  if (woken_.size() >= woken_max) absl::erase_if(woken_, [now](const auto& entry) { return entry.second <= now; });
  const auto known = woken_.find(*name);
  if (known != woken_.end() ? known->second > now : woken_.size() >= woken_max) return Woken::too_soon;
  if (!user_.on_wake(*name)) return Woken::nothing;
  woken_[*name] = now + wake_interval;
  return Woken::waiting;
}

std::unique_ptr<mail::Message> Intake::new_message() {
  return store_.new_message(BudgetClass::intake);
}

bool Intake::take_memory(mail::Message& message, std::uint64_t bytes) {
  return store_.take(message, bytes);
}

void Intake::give_memory(mail::Message& message, std::uint64_t bytes) {
  store_.give(message, bytes);
}

void Intake::discard_message(std::unique_ptr<mail::Message> message) {
  store_.recycle(std::move(message));
}

spool::ContentId Intake::begin_content() {
  return logs_.active().log().begin_content();
}

Status Intake::append_chunk(spool::ContentId content, Bytes bytes) {
  return logs_.active().log().append_chunk(content, bytes);
}

void Intake::abandon_content(spool::ContentId content) {
  logs_.active().log().abandon_content(content);
}

void Intake::submit(std::unique_ptr<mail::Message> message, spool::ContentId streamed,
                    const ingress::Submission& submission) {
  Waiting waiting{std::move(message), streamed, submission, loop_.now()};
  // First come, first served: nobody overtakes those that wait for room.
  if (!waiting_.empty() || !try_submit(waiting)) waiting_.push_back(std::move(waiting));
}

bool Intake::try_submit(Waiting& waiting) {
  spool::Log& log = logs_.active().log();
  if (log.failed()) {
    refuse(waiting, storage_failed);
    return true;
  }
  mail::Message& message = *waiting.message;
  mail::Envelope& envelope = message.envelope;
  envelope.head.received_at = loop_.clocks().wall;
  envelope_bytes_.clear();
  envelope.encode(envelope_bytes_);
  // The trace field's size is known only once it is written, and its queue id is spent only once there is room.
  // Two names of 255 bytes, a path of 256, what protected it in 80, an address, a date, and the words between.
  constexpr std::size_t received_field_max = 1280;
  const std::size_t bytes =
      spool::Log::message_bytes(envelope_bytes_.size(), received_field_max, message.content.size(),
                                waiting.streamed.value == 0 ? 0 : log.extent_count(waiting.streamed));
  if (pending_.full() || !log.has_room(bytes, spool::Use::intake)) return false;

  message.id = log.next_queue_id();
  message.added_fields.clear();
  const std::string literal = address_literal(envelope.client_address());
  smtp::append_received_field(
      message.added_fields,
      {.hello_name = envelope.helo_name(),
       .peer_address_literal = literal,
       .hostname = snapshot_->options->hostname,
       .protocol = envelope.head.protocol,
       .smtp_utf8 = envelope.head.smtp_utf8,
       .tls_version = message.tls_version,
       .tls_cipher = message.tls_cipher,
       .id = message.id,
       .only_recipient = envelope.recipient_count() == 1 ? envelope.recipient(0).forward_path.text : std::string_view{},
       .received_at = envelope.head.received_at});
  POSTERN_CHECK(message.added_fields.size() <= received_field_max);

  absl::InlinedVector<Bytes, 8> pieces;
  for (std::size_t i = 0; i < message.content.chunk_count(); ++i) pieces.push_back(message.content.chunk(i));
  const spool::MessageRecord record{.id = message.id,
                                    .envelope = as_bytes(envelope_bytes_),
                                    .added_fields = as_bytes(message.added_fields),
                                    .content = pieces,
                                    .streamed = waiting.streamed,
                                    .facts = message.facts,
                                    .recipients = static_cast<std::uint16_t>(envelope.recipient_count()),
                                    .use = spool::Use::intake};
  Pending* const pending = pending_.emplace();
  const SlotId name = pending_.id_of(*pending);
  const StatusOr<mail::Location> location = log.append_message(record, ticket_of(name));
  if (!location.ok()) {
    pending_.erase(name);
    if (location.status().code() == StatusCode::kResourceExhausted) return false;
    refuse(waiting, storage_failed);
    return true;
  }
  message.location = *location;
  pending->message = std::move(waiting.message);
  pending->submission = waiting.submission;
  pending->submitted_at = waiting.submitted_at;
  pending->streamed = waiting.streamed.value != 0;
  return true;
}

void Intake::refuse(Waiting& waiting, const mail::Reply& reply) {
  if (waiting.streamed.value != 0) logs_.active().log().abandon_content(waiting.streamed);
  store_.recycle(std::move(waiting.message));
  metrics_.messages_rejected.add();
  user_.on_submission_refused(waiting.submission, reply);
}

void Intake::on_room() {
  while (!waiting_.empty() && try_submit(waiting_.front())) waiting_.pop_front();
}

void Intake::on_durable(spool::Ticket ticket) {
  Pending* const pending = pending_.find(slot_of(ticket));
  POSTERN_CHECK(pending != nullptr, "a ticket came twice");
  std::unique_ptr<mail::Message> message = std::move(pending->message);
  const std::optional<ingress::Submission> submission = pending->submission;
  const bool streamed = pending->streamed;
  if (submission) {
    metrics_.accept_seconds.observe(loop_.now() - pending->submitted_at);
    metrics_.messages_received.add();
    metrics_.message_bytes_received.add(message->facts.size);
    metrics_.recipients_received.add(message->envelope.recipient_count());
    const mail::Envelope& envelope = message->envelope;
    events_.record(
        {.kind = EventKind::received,
         .time = envelope.head.received_at,
         .id = message->id,
         .from = envelope.reverse_path().text,
         .to = envelope.recipient_count() == 1 ? envelope.recipient(0).forward_path.text : std::string_view{},
         .peer = submission->forwarded_client.empty() ? envelope.client_address()
                                                      : std::string_view(submission->forwarded_client),
         .protocol = smtp::protocol_keyword(envelope.head.protocol, envelope.head.smtp_utf8),
         .tls = message->tls_version,
         .user = submission->user,
         .bytes = message->facts.size,
         .count = envelope.recipient_count()});
  }
  pending_.erase(slot_of(ticket));
  const mail::QueueId id = message->id;
  if (submission) user_.on_submission_accepted(*submission, id);
  message->spooled_only = streamed;
  user_.on_message_durable(std::move(message));
}

void Intake::on_undone(spool::Ticket ticket) {
  Pending* const pending = pending_.find(slot_of(ticket));
  POSTERN_CHECK(pending != nullptr, "a ticket came twice");
  std::unique_ptr<mail::Message> message = std::move(pending->message);
  const std::optional<ingress::Submission> submission = pending->submission;
  pending_.erase(slot_of(ticket));
  store_.recycle(std::move(message));
  if (submission) {
    metrics_.messages_rejected.add();
    user_.on_submission_refused(*submission, storage_failed);
  }
}

spool::Ticket Intake::expect(std::unique_ptr<mail::Message> message) {
  Pending* const pending = pending_.emplace();
  POSTERN_CHECK(pending != nullptr, "can_expect() was not asked");
  pending->message = std::move(message);
  return ticket_of(pending_.id_of(*pending));
}

}  // namespace postern::shard
