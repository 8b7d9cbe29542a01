#include "spooltool/text.h"

#include <array>
#include <cstdio>

#include <postern/base/date.h>
#include <postern/mail/outcome.h>

namespace postern::spooltool {

std::string to_line(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string bytes_text(std::uint64_t bytes) {
  if (bytes < 1024) return count_text(bytes, "byte", "bytes");
  constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < units.size(); ++unit) value /= 1024;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f %s", value, units[unit]);
  return text.data();
}

std::string count_text(std::uint64_t count, std::string_view one, std::string_view many) {
  std::string text = std::to_string(count);
  text += ' ';
  text += count == 1 ? one : many;
  return text;
}

std::string time_text(WallTime at) {
  return format_rfc3339(at);
}

std::string_view protocol_text(mail::Protocol protocol) {
  switch (protocol) {
    case mail::Protocol::smtp:
      return "SMTP";
    case mail::Protocol::esmtp:
      return "ESMTP";
    case mail::Protocol::esmtps:
      return "ESMTPS";
    case mail::Protocol::esmtpa:
      return "ESMTPA";
    case mail::Protocol::esmtpsa:
      return "ESMTPSA";
    case mail::Protocol::lmtp:
      return "LMTP";
    case mail::Protocol::lmtps:
      return "LMTPS";
    case mail::Protocol::local:
      return "local";
  }
  return "?";
}

std::string_view form_text(mail::ContentForm form) {
  switch (form) {
    case mail::ContentForm::dot_stuffed:
      return "dot_stuffed";
    case mail::ContentForm::plain:
      return "plain";
    case mail::ContentForm::binary:
      return "binary";
  }
  return "?";
}

std::string kind_text(const spool::RecordHeader& header) {
  switch (header.kind) {
    case spool::RecordKind::message:
      return "message";
    case spool::RecordKind::chunk:
      return "chunk";
    case spool::RecordKind::settled:
      return "settled";
    case spool::RecordKind::retry_state:
      return "retry";
  }
  return "kind " + std::to_string(static_cast<unsigned>(header.kind));
}

std::string outcome_text(std::uint8_t outcome) {
  if (outcome > static_cast<std::uint8_t>(mail::Outcome::failed)) return "outcome " + std::to_string(outcome);
  return std::string(mail::to_text(static_cast<mail::Outcome>(outcome)));
}

std::string_view to_text(RecipientState state) {
  switch (state) {
    case RecipientState::waiting:
      return "waiting";
    case RecipientState::settled:
      return "settled";
    case RecipientState::unknown:
      return "unknown";
  }
  return "?";
}

namespace {

std::string notify_text(mail::Notify notify) {
  std::string text;
  const auto add = [&](std::uint8_t bit, std::string_view name) {
    if ((notify.bits & bit) == 0) return;
    if (!text.empty()) text += ',';
    text += name;
  };
  add(mail::Notify::never, "NEVER");
  add(mail::Notify::success, "SUCCESS");
  add(mail::Notify::failure, "FAILURE");
  add(mail::Notify::delay, "DELAY");
  return text;
}

std::string_view body_text(mail::BodyType body) {
  switch (body) {
    case mail::BodyType::seven_bit:
      return "7BIT";
    case mail::BodyType::eight_bit_mime:
      return "8BITMIME";
    case mail::BodyType::binary_mime:
      return "BINARYMIME";
  }
  return "?";
}

// As in BY [RFC 2852 §4].
std::string_view deliver_by_mode(const mail::EnvelopeHead& head) {
  if (head.deliver_by_returns) return head.deliver_by_trace ? "RT" : "R";
  return head.deliver_by_trace ? "NT" : "N";
}

}  // namespace

std::string wishes_text(const mail::EnvelopeHead& head) {
  std::string text;
  const auto add = [&text](std::string_view wish) {
    if (!text.empty()) text += ", ";
    text += wish;
  };
  if (head.require_tls) add("REQUIRETLS");
  if (head.deliver_by != WallTime{}) {
    add("delivery by " + time_text(head.deliver_by) + " (" + std::string(deliver_by_mode(head)) + ")");
  }
  if (head.hold_until != WallTime{}) add("nothing before " + time_text(head.hold_until));
  if (head.priority != 0) add("priority " + std::to_string(head.priority));
  return text;
}

void add_envelope(Json& json, const mail::Envelope& envelope, const std::vector<RecipientFacts>& facts) {
  const mail::EnvelopeHead& head = envelope.head;
  json["received_at"] = time_text(head.received_at);
  json["reverse_path"] = envelope.reverse_path().text;
  json["protocol"] = protocol_text(head.protocol);
  json["helo"] = envelope.helo_name();
  json["client"] = envelope.client_address();
  json["body"] = body_text(head.body);
  json["smtputf8"] = head.smtp_utf8;
  // What the sender asked for and most do not ask for.
  if (head.require_tls) json["require_tls"] = true;
  if (head.declared_size != 0) json["declared_size"] = head.declared_size;
  if (head.dsn_return != mail::DsnReturn::unspecified) {
    json["ret"] = head.dsn_return == mail::DsnReturn::full ? "FULL" : "HDRS";
  }
  if (!envelope.dsn_envelope_id().empty()) json["envid"] = envelope.dsn_envelope_id();
  if (head.priority != 0) json["priority"] = head.priority;
  if (head.tenant != 0) json["tenant"] = head.tenant;
  if (head.hold_until != WallTime{}) json["hold_until"] = time_text(head.hold_until);
  if (head.deliver_by != WallTime{}) {
    json["deliver_by"] = time_text(head.deliver_by);
    json["deliver_by_mode"] = deliver_by_mode(head);
  }

  Json recipients = Json::array();
  for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
    const mail::RecipientView recipient = envelope.recipient(i);
    const RecipientFacts known = i < facts.size() ? facts[i] : RecipientFacts{};
    Json entry;
    entry["index"] = i;
    entry["forward_path"] = recipient.forward_path.text;
    entry["state"] = to_text(known.state);
    if (recipient.notify.bits != 0) entry["notify"] = notify_text(recipient.notify);
    if (!recipient.original_recipient.empty()) entry["orcpt"] = recipient.original_recipient;
    if (known.state == RecipientState::waiting) entry["attempts"] = known.tried ? known.retry.attempts : 0;
    if (known.tried) {
      entry["next_due"] = time_text(known.retry.due);
      entry["last_reply"] = known.retry.last_reply.to_log_text();
      entry["warned"] = known.retry.warned;
    }
    recipients.push_back(std::move(entry));
  }
  json["recipients"] = std::move(recipients);
}

}  // namespace postern::spooltool
