#include <algorithm>
#include <array>

#include <fmt/format.h>

#include <postern/base/check.h>
#include <postern/base/date.h>
#include <postern/base/planted.h>
#include <postern/base/text.h>
#include <postern/dsn/composer.h>
#include <postern/mail/xtext.h>

namespace postern::dsn {
namespace {

constexpr std::size_t line_bytes_max = 998;     // [RFC 5322 §2.1.1], without CRLF
constexpr std::size_t address_bytes_max = 400;  // of an address as shown: 256 of a path, and room for escapes
constexpr std::size_t host_bytes_max = 255;
constexpr std::size_t reply_bytes_max = 512;
// Of a notification without what it says of recipients and returns: fixed words, our name a few times, an envelope id.
constexpr std::size_t own_bytes_max = 6144;
static_assert(std::string_view("    The next hop ").size() + host_bytes_max + reply_bytes_max + 20 < line_bytes_max);

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; });
}

// What xtext stands for; nullopt when it is none, or when what it hides is not printable ASCII.
std::optional<std::string> decode_printable(std::string_view xtext) {
  std::optional<std::string> text = mail::decode_xtext(xtext);
  if (text && !std::ranges::all_of(*text, [](char c) { return c >= 0x20 && c < 0x7F; })) text.reset();
  return text;
}

// utf-8-addr-xtext [RFC 6533 §3]: all that is not a QCHAR as \x{HEX} of its code point.
std::string utf8_address_xtext(std::string_view address) {
  std::string out;
  for (std::size_t i = 0; i < address.size();) {
    const auto byte = static_cast<unsigned char>(address[i]);
    if (byte > 0x20 && byte < 0x7F && byte != '+' && byte != '=' && byte != '\\') {
      out.push_back(address[i++]);
      continue;
    }
    const std::size_t size = byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
    std::uint32_t point = 0xFFFD;
    if (size <= address.size() - i && is_utf8(address.substr(i, size))) {
      point = size == 1 ? byte : byte & (0x7Fu >> size);
      for (std::size_t k = 1; k < size; ++k) point = point << 6 | (static_cast<unsigned char>(address[i + k]) & 0x3Fu);
      i += size;
    } else {
      ++i;
    }
    out += fmt::format("\\x{{{:X}}}", point);
  }
  return out.substr(0, line_bytes_max - 100);
}

// "rfc822; user@example.test", as in Final-Recipient.
std::string typed_address(std::string_view address) {
  return is_ascii(address) ? "rfc822; " + log_escaped(address, address_bytes_max)
                           : "utf-8; " + utf8_address_xtext(address);
}

// Status of a failed recipient: 5.x.x, or 4.4.7 of one whose time ran out [RFC 3463 §3.5], 5.4.7 where it was the
// sender who gave that time; 4.x.x of one that waits, 4.4.7 beyond such a time [RFC 2852 §4.1.3]; 2.x.x of the others.
mail::EnhancedStatus status_of(const ReportedRecipient& reported, const mail::EnvelopeHead& head, WallTime now) {
  const bool late = head.deliver_by != WallTime{} && head.deliver_by <= now;
  if (reported.expired) return {late && head.deliver_by_returns ? std::uint8_t{5} : std::uint8_t{4}, 4, 7};
  if (reported.action == Action::delayed && late && !head.deliver_by_returns) return {4, 4, 7};
  const std::uint8_t class_digit = reported.action == Action::failed ? 5 : reported.action == Action::delayed ? 4 : 2;
  if (reported.reply.status.class_digit == class_digit) return reported.reply.status;
  return {class_digit, 0, 0};
}

std::string_view to_text(Action action) {
  switch (action) {
    case Action::failed:
      return "failed";
    case Action::delivered:
      return "delivered";
    case Action::relayed:
      return "relayed";
    case Action::delayed:
      return "delayed";
  }
  return "failed";
}

std::string shown_reply(const mail::Reply& reply) {
  return reply.to_log_text(reply_bytes_max);
}

void append_recipient_text(std::string& out, std::string_view address, const ReportedRecipient& reported) {
  out += fmt::format("<{}>\r\n", log_escaped(address, address_bytes_max));
  if (reported.action == Action::delivered || reported.action == Action::relayed) {
    out += reported.action == Action::delivered
               ? "    It was delivered.\r\n"
               : fmt::format("    It was passed on to {}, which may not tell you more.\r\n",
                             reported.remote_mta.empty() ? "the next system"
                                                         : log_escaped(reported.remote_mta, host_bytes_max));
    out += "\r\n";
    return;
  }
  if (reported.expired) out += "    The time allowed for delivery ran out.\r\n";
  const std::string reply = shown_reply(reported.reply);
  if (reply.empty()) {
    if (reported.action == Action::delayed) {
      out += "    It has not been delivered yet.\r\n";
    } else if (!reported.expired) {
      out += "    It cannot be delivered.\r\n";
    }
  } else if (reported.reply.code == 0) {
    out += fmt::format("    {}\r\n", reply);
  } else if (reported.remote_mta.empty()) {
    out += fmt::format("    The answer was: {}\r\n", reply);
  } else {
    out += fmt::format("    The next hop {} said: {}\r\n", log_escaped(reported.remote_mta, host_bytes_max), reply);
  }
  out += "\r\n";
}

void append_recipient_fields(std::string& out, const mail::RecipientView& recipient, const ReportedRecipient& reported,
                             mail::EnhancedStatus status) {
  out += "\r\n";
  const std::size_t semicolon = recipient.original_recipient.find(';');
  if (semicolon != std::string_view::npos) {
    const std::string_view type = recipient.original_recipient.substr(0, semicolon);
    const std::string_view xtext = recipient.original_recipient.substr(semicolon + 1);
    // utf-8 addresses stay in their own encoding [RFC 6533 §3]; what does not decode stays as it was given.
    const auto decoded = equal_ignoring_case(type, "utf-8") ? std::nullopt : decode_printable(xtext);
    out += fmt::format("Original-Recipient: {}; {}\r\n", log_escaped(type, 64),
                       log_escaped(decoded ? *decoded : xtext, reply_bytes_max));
  }
  out += fmt::format("Final-Recipient: {}\r\nAction: {}\r\nStatus: {}\r\n", typed_address(recipient.forward_path.text),
                     to_text(reported.action), status.to_string());
  if (!reported.remote_mta.empty()) {
    out += fmt::format("Remote-MTA: dns; {}\r\n", log_escaped(reported.remote_mta, host_bytes_max));
  }
  if (reported.reply.code != 0) out += fmt::format("Diagnostic-Code: smtp; {}\r\n", shown_reply(reported.reply));
  if (reported.last_attempt_at != WallTime{}) {
    out += fmt::format("Last-Attempt-Date: {}\r\n", format_rfc5322_date(reported.last_attempt_at));
  }
  if (reported.action == Action::delayed && reported.retried_until != WallTime{}) {
    out += fmt::format("Will-Retry-Until: {}\r\n", format_rfc5322_date(reported.retried_until));
  }
}

// Appends `text` in plain form, with CRLF at every line's end. In a line bytes that must not stand there (CR, LF, NUL)
// become spaces; what exceeds a line's length continues folded on the next.
void append_lines(std::string& out, std::string_view text, bool dot_stuffed) {
  while (!text.empty()) {
    const std::size_t end = text.find("\r\n");
    std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 2);
    if (dot_stuffed && line.starts_with('.')) line.remove_prefix(1);
    std::size_t room = line_bytes_max;
    for (;;) {
      const std::size_t start = out.size();
      out.append(line.substr(0, room));
      std::replace_if(
          out.begin() + static_cast<std::ptrdiff_t>(start), out.end(),
          [](char c) { return c == '\r' || c == '\n' || c == '\0'; }, ' ');
      if (line.size() <= room) break;
      line.remove_prefix(room);
      out += "\r\n ";
      room = line_bytes_max - 1;
    }
    out += "\r\n";
  }
}

// The header section of the original, cut behind a whole line to what may be returned.
std::string_view bounded_header(const Original& original, std::size_t bytes_max) {
  std::string_view header = original.content.substr(
      0, static_cast<std::size_t>(std::min<std::uint64_t>(original.facts.header_bytes, original.content.size())));
  if (header.size() <= bytes_max) return header;
  const std::size_t end = header.substr(0, bytes_max).rfind("\r\n");
  return header.substr(0, end == std::string_view::npos ? bytes_max : end + 2);
}

std::string random_hex(Random& random) {
  return fmt::format("{:016x}", random());
}

// One that stands nowhere in `parts` [RFC 2046 §5.1.1]; the chance that even the first does is one in 2^100 or so.
std::string choose_boundary(const std::array<std::string_view, 3>& parts, Random& random) {
  for (;;) {
    std::string boundary = "=_" + random_hex(random) + random_hex(random);
    const auto holds = [&](std::string_view part) { return part.find(boundary) != std::string_view::npos; };
    if (std::none_of(parts.begin(), parts.end(), holds)) return boundary;
  }
}

mail::ContentFacts facts_of(std::string_view content) {
  mail::ContentFacts facts{.form = mail::ContentForm::plain, .ends_with_crlf = content.ends_with("\r\n")};
  facts.size = content.size();
  facts.header_bytes = content.find("\r\n\r\n") + 2;
  facts.has_eight_bit = !is_ascii(content);
  for (std::size_t start = 0; start < content.size();) {
    const std::size_t end = content.find("\r\n", start);
    facts.line_starts_with_dot = facts.line_starts_with_dot || content[start] == '.';
    facts.longest_line = std::max<std::uint64_t>(facts.longest_line, end - start);
    start = end + 2;
  }
  return facts;
}

// The words of the first part: what failed, what waits, what did neither.
std::string told(std::string_view failed, std::string_view delayed, std::string_view passed, std::size_t left_out) {
  std::string text;
  if (!failed.empty()) {
    text +=
        "Your message could not be delivered to the recipients below, and no further\r\nattempt will be made.\r\n\r\n";
    text += failed;
  }
  if (!delayed.empty()) {
    text +=
        "Your message has not reached the recipients below yet. It will be tried again; you need\r\n"
        "not send it again.\r\n\r\n";
    text += delayed;
  }
  if (!passed.empty()) {
    text += "You asked to be told of this: your message has gone its way to the recipients below.\r\n\r\n";
    text += passed;
  }
  if (left_out > 0) text += fmt::format("and {} recipients more.\r\n\r\n", left_out);
  return text;
}

}  // namespace

bool wants_report(const mail::RecipientView& recipient, Action action) {
  const std::uint8_t notify = recipient.notify.bits;
  switch (action) {
    case Action::failed:
      return notify == 0 || (notify & mail::Notify::failure) != 0;
    case Action::delayed:
      return notify == 0 || (notify & mail::Notify::delay) != 0;
    case Action::delivered:
    case Action::relayed:
      break;
  }
  return (notify & mail::Notify::success) != 0;
}

bool deadline_wants_report(const mail::Envelope& envelope, const mail::RecipientView& recipient, Action action) {
  const mail::EnvelopeHead& head = envelope.head;
  if (head.deliver_by == WallTime{} || (recipient.notify.bits & mail::Notify::never) != 0) return false;
  if (action == Action::delayed) return !head.deliver_by_returns;
  return action == Action::relayed && (head.deliver_by_trace || !head.deliver_by_returns);
}

bool returns_content(const mail::Envelope& envelope, const mail::ContentFacts& facts, const Options& options) {
  // As if RET=HDRS was said, with REQUIRETLS [RFC 8689 §5].
  return envelope.head.dsn_return != mail::DsnReturn::headers && !envelope.head.require_tls &&
         facts.size <= options.returned_content_max && facts.form != mail::ContentForm::binary && !facts.has_bare_cr &&
         !facts.has_bare_lf && !facts.has_nul && facts.longest_line <= line_bytes_max;
}

std::optional<Notification> compose(const mail::Envelope& envelope, const Original& original,
                                    std::span<const ReportedRecipient> recipients, const Options& options, WallTime now,
                                    Random& random) {
  mail::PathView sender = envelope.reverse_path();
#ifdef POSTERN_PLANTED_BUGS
  static std::string postmaster;
  if (POSTERN_PLANTED(dsn_for_dsn) && sender.null() && !recipients.empty()) {
    postmaster = "postmaster@";
    postmaster.append(envelope.recipient(recipients.front().index).forward_path.domain());
    sender = {.text = postmaster, .domain_offset = 11};
  }
#endif
  if (sender.null()) return std::nullopt;

  std::string failed_text;
  std::string delayed_text;
  std::string passed_text;
  std::string fields;
  std::size_t reported = 0;
  std::size_t failed = 0;   // of them
  std::size_t delayed = 0;  // of them
  std::size_t left_out = 0;
  for (const ReportedRecipient& one : recipients) {
    POSTERN_CHECK(one.index < envelope.recipient_count());
    const mail::RecipientView recipient = envelope.recipient(one.index);
    if (!wants_report(recipient, one.action) && !deadline_wants_report(envelope, recipient, one.action)) continue;
    std::string& text = one.action == Action::failed    ? failed_text
                        : one.action == Action::delayed ? delayed_text
                                                        : passed_text;
    failed += one.action == Action::failed ? 1 : 0;
    delayed += one.action == Action::delayed ? 1 : 0;
    // Half of the room is for them, however long the next hops' words are; the first is always told of.
    const std::size_t text_before = text.size();
    const std::size_t fields_before = fields.size();
    append_recipient_text(text, recipient.forward_path.text, one);
    append_recipient_fields(fields, recipient, one, status_of(one, envelope.head, now));
    const std::size_t words = failed_text.size() + delayed_text.size() + passed_text.size();
    const bool too_much = reported > 0 && words + fields.size() > options.bytes_max / 2;
    if (reported == options.recipients_max || too_much) {
      text.resize(text_before);
      fields.resize(fields_before);
      ++left_out;
      continue;
    }
    ++reported;
  }
  if (reported == 0) return std::nullopt;
  const std::string text = told(failed_text, delayed_text, passed_text, left_out);

  // For the original there is what the parts before leave; folding makes a line longer by 3 bytes in 998.
  const std::size_t taken = own_bytes_max + text.size() + fields.size() + original.added_fields.size();
  const std::size_t room = options.bytes_max > taken ? (options.bytes_max - taken) / 64 * 63 : 0;
  const bool whole = failed > 0 && returns_content(envelope, original.facts, options) &&
                     original.content.size() == original.facts.size && original.content.size() <= room;
  std::string returned;
  append_lines(returned, original.added_fields, false);
  append_lines(returned,
               whole ? original.content : bounded_header(original, std::min(options.returned_header_max, room)),
               original.facts.form == mail::ContentForm::dot_stuffed);
  const bool eight_bit = !is_ascii(returned);
  const bool global = eight_bit && envelope.head.smtp_utf8;  // [RFC 6533 §5]

  const std::string queue_id = original.queue_id.to_string();
  const std::string hostname = log_escaped(options.hostname, host_bytes_max);
  std::string status = fmt::format("Reporting-MTA: dns; {}\r\n", hostname);
  if (const auto id = decode_printable(envelope.dsn_envelope_id()); id && !id->empty()) {
    status += fmt::format("Original-Envelope-Id: {}\r\n", log_escaped(*id, reply_bytes_max));
  }
  status += fmt::format("X-Postern-Queue-ID: {}\r\nArrival-Date: {}\r\n", queue_id,
                        format_rfc5322_date(envelope.head.received_at));
  if (envelope.head.deliver_by != WallTime{}) {
    status += fmt::format("Deliver-By-Date: {}\r\n", format_rfc5322_date(envelope.head.deliver_by));
  }
  status += fields;

  const std::string boundary = choose_boundary({text, status, returned}, random);
  Notification notification;
  std::string& out = notification.content;
  out.reserve(text.size() + status.size() + returned.size() + 2048);
  // The address stands in its own field as the client wrote it, UTF-8 included; a session takes no control bytes in it,
  // and what was read from a disk is not trusted to have none.
  std::string to(sender.text.substr(0, address_bytes_max));
  std::replace_if(to.begin(), to.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7F; }, '?');
  const std::string subject = failed > 0 ? fmt::format("Undelivered mail: {} of your recipients did not get it", failed)
                              : delayed > 0
                                  ? fmt::format("Delayed mail: {} of your recipients did not get it yet", delayed)
                                  : fmt::format("Delivered mail: {} of your recipients", reported + left_out);
  // [RFC 3834 §5]: "auto-replied", for it answers one message.
  out += fmt::format(
      "From: Mail Delivery System <MAILER-DAEMON@{0}>\r\n"
      "To: <{1}>\r\n"
      "Subject: {2}\r\n"
      "Date: {3}\r\n"
      "Message-ID: <{4}.{5}@{0}>\r\n"
      "Auto-Submitted: auto-replied\r\n"
      "MIME-Version: 1.0\r\n"
      "Content-Type: multipart/report; report-type=delivery-status;\r\n"
      "\tboundary=\"{6}\"\r\n",
      hostname, to, subject, format_rfc5322_date(now), random_hex(random), queue_id, boundary);
  if (eight_bit) out += "Content-Transfer-Encoding: 8bit\r\n";
  out += fmt::format(
      "\r\n"
      "--{0}\r\n"
      "Content-Description: Notification\r\n"
      "Content-Type: text/plain; charset=us-ascii\r\n"
      "\r\n"
      "This is the mail system at {1}.\r\n"
      "\r\n"
      "{3}"
      "{2}\r\n"
      "\r\n"
      "Our name for your message is {4}.\r\n"
      "\r\n"
      "--{0}\r\n"
      "Content-Description: Delivery report\r\n"
      "Content-Type: message/delivery-status\r\n"
      "\r\n"
      "{5}"
      "\r\n"
      "--{0}\r\n"
      "Content-Description: {6}\r\n"
      "Content-Type: {7}\r\n"
      "{8}"
      "\r\n",
      boundary, hostname, whole ? "The message is attached." : "Its header is attached.", text, queue_id, status,
      whole        ? "Undelivered message"
      : failed > 0 ? "Header of the undelivered message"
                   : "Header of the message",
      whole ? (global ? "message/global" : "message/rfc822")
            : (global ? "message/global-headers" : "text/rfc822-headers"),
      eight_bit ? "Content-Transfer-Encoding: 8bit\r\n" : "");
  out += returned;
  out += fmt::format("\r\n--{}--\r\n", boundary);

  notification.facts = facts_of(out);
  mail::Envelope& own = notification.envelope;
  own.head.received_at = now;
  own.head.declared_size = out.size();
  own.head.body = notification.facts.has_eight_bit ? mail::BodyType::eight_bit_mime : mail::BodyType::seven_bit;
  own.head.smtp_utf8 = global || !is_ascii(sender.text);
  own.head.require_tls = envelope.head.require_tls;  // [RFC 8689 §5]
  own.head.protocol = mail::Protocol::local;
  own.head.tenant = envelope.head.tenant;
  own.head.priority = envelope.head.priority;  // [RFC 6710 §4.4]
  own.set_reverse_path("", 0);
  own.set_client(options.hostname, "");
  own.add_recipient({.forward_path = sender, .notify = {mail::Notify::never}, .original_recipient = {}});
  return notification;
}

}  // namespace postern::dsn
