// Does reading a command line keep its promises, whatever the line: views inside the line, bounds kept, paths that
// parse again to themselves?
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include <postern/base/check.h>
#include <postern/mail/envelope.h>
#include <postern/mail/xtext.h>
#include <postern/smtp/command.h>
#include <postern/smtp/path.h>

namespace postern::smtp {
namespace {

void check_inside(std::string_view part, std::string_view line) {
  const std::less_equal<> not_behind;
  POSTERN_CHECK(part.empty() || (not_behind(line.data(), part.data()) &&
                                 not_behind(part.data() + part.size(), line.data() + line.size())),
                "a view into the line");
}

void check_path(const mail::PathView& path, std::string_view line, bool utf8) {
  check_inside(path.text, line);
  POSTERN_CHECK(path.text.size() <= mailbox_bytes_max, "within 256 octets");
  POSTERN_CHECK(
      path.text.find_first_of("\r\n") == std::string_view::npos && path.text.find('\0') == std::string_view::npos,
      "one line");
  if (path.null()) return;
  if (path.domain().empty()) {
    POSTERN_CHECK(path.local_part() == path.text, "postmaster");
    return;
  }
  POSTERN_CHECK(is_domain(path.domain(), utf8) || is_address_literal(path.domain()), "a domain");
  POSTERN_CHECK(path.text[path.domain_offset - 1u] == '@', "behind the at");
  const std::string bracketed = "<" + std::string(path.text) + ">";
  const std::optional<Path> again = parse_path(bracketed);
  POSTERN_CHECK(again && again->mailbox.text == path.text && again->mailbox.domain_offset == path.domain_offset,
                "the same again");
  POSTERN_CHECK(utf8 || !again->has_eight_bit, "8-bit only where asked for");
  const std::optional<Path> bare = parse_mailbox(path.text);
  POSTERN_CHECK(bare && bare->mailbox.text == path.text, "a mailbox");
}

}  // namespace
}  // namespace postern::smtp

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace postern;
  using namespace postern::smtp;
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  const Command command = parse_command(line);
  check_inside(command.arguments, line);
  for (const bool offered : {false, true}) {
    const OfferedParameters all_or_none{.size = offered,
                                        .eight_bit_mime = offered,
                                        .binary_mime = offered,
                                        .smtp_utf8 = offered,
                                        .dsn = offered,
                                        .mt_priority = offered,
                                        .future_release = offered,
                                        .deliver_by = offered,
                                        .require_tls = offered};
    const MailArguments mail = parse_mail_arguments(command.arguments, all_or_none);
    if (mail.error == ArgumentError::none) {
      check_path(mail.reverse_path, line, mail.smtp_utf8);
      check_inside(mail.envelope_id, line);
      POSTERN_CHECK(mail.priority >= -9 && mail.priority <= 9, "MT-PRIORITY");
      POSTERN_CHECK(!mail.hold_for || mail.hold_until == WallTime{}, "one hold");
      if (mail.deliver_by) {
        POSTERN_CHECK(mail.deliver_by->seconds >= (mail.deliver_by->returns ? 1 : -999'999'999), "BY");
        POSTERN_CHECK(mail.deliver_by->seconds <= 999'999'999, "BY");
      }
      POSTERN_CHECK(mail.envelope_id.empty() || mail::is_envelope_id(mail.envelope_id), "ENVID");
    }
    const RecipientArguments recipient = parse_recipient_arguments(command.arguments, all_or_none);
    if (recipient.error == ArgumentError::none) {
      POSTERN_CHECK(!recipient.forward_path.null(), "a recipient has a name");
      check_path(recipient.forward_path, line, offered);
      const std::string_view original = recipient.original_recipient;
      check_inside(original, line);
      POSTERN_CHECK(original.empty() || mail::is_original_recipient(original, offered), "ORCPT");
      const std::uint8_t notify = recipient.notify.bits;
      POSTERN_CHECK((notify & mail::Notify::never) == 0 || notify == mail::Notify::never, "NEVER stands alone");
    }
  }
  if (const std::optional<std::string> decoded = mail::decode_xtext(command.arguments)) {
    std::string again;
    mail::append_xtext(again, *decoded);
    POSTERN_CHECK(mail::decode_xtext(again) == decoded, "decode(encode(x)) = x");
  }
  if (parse_chunk_arguments(command.arguments).valid) POSTERN_CHECK(!command.arguments.empty(), "a size");
  if (const std::optional<Path> path = parse_mailbox(command.arguments)) check_path(path->mailbox, line, true);
  if (is_hello_name(command.arguments))
    POSTERN_CHECK(command.arguments.find(' ') == std::string_view::npos, "one word");
  return 0;
}
