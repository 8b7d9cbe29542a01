// Does a server session answer the same however its input is cut, and accept nothing that was not ended?
//
// An input that begins with byte 0x02 is for an LMTP listener, which answers each content once for each recipient it
// has accepted; one without is for SMTP. A '~' then has bare LFs normalized. What follows is a sequence of writes,
// separated by byte 0x01, where the client has received all replies so far. A leading '!' keeps reply slots open until
// the next such border, where they are answered last first.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/base/check.h>
#include <postern/mail/content.h>
#include <postern/sasl/mechanism.h>
#include <postern/smtp/extension.h>
#include <postern/smtp/server_options.h>
#include <postern/smtp/server_session.h>

#include "tests/smtp/server_driver.h"

namespace postern::smtp {
namespace {

constexpr char write_border = '\x01';
constexpr char normalizing = '~';
constexpr char lmtp_mode = '\x02';
constexpr std::uint64_t message_bytes_max = 4096;

std::shared_ptr<const ServerOptions> small_options(Dialect dialect, bool normalize) {
  auto options = std::make_shared<ServerOptions>();
  options->dialect = dialect;
  set_offers(*options, {});
  options->hostname = "mx.example.test";
  options->normalize_bare_lf = normalize;
  options->message_bytes_max = message_bytes_max;
  options->swallow_bytes_max = 8192;
  options->recipients_max = 3;
  options->received_max = 4;
  options->text_line_bytes_max = 1000;
  options->reply_slots_max = 2;
  options->tiny_chunks_max = 20;
  options->auth_without_tls = true;
  for (const sasl::Mechanism mechanism : sasl::all_mechanisms) options->auth_mechanisms.add(mechanism);
  return options;
}

struct Outcome {
  std::vector<std::string> received;  // for each write
  std::vector<std::string> contents;
  std::vector<mail::ContentForm> forms;
  std::vector<std::size_t> recipients;
  Wait wait = Wait::bytes;

  friend bool operator==(const Outcome&, const Outcome&) = default;
};

// Cuts each write into pieces of `first` bytes, then `step`, and so on in turn.
Outcome replay(std::string_view input, std::size_t first, std::size_t step) {
  static const std::array options = {small_options(Dialect::smtp, false), small_options(Dialect::smtp, true),
                                     small_options(Dialect::lmtp, false), small_options(Dialect::lmtp, true)};
  const bool lmtp = input.starts_with(lmtp_mode);
  if (lmtp) input.remove_prefix(1);
  const bool normalize = input.starts_with(normalizing);
  if (normalize) input.remove_prefix(1);
  ServerDriver driver(options[(lmtp ? 2 : 0) + (normalize ? 1 : 0)], {"192.0.2.1", true});
  const bool hold = input.starts_with('!');
  if (hold) {
    driver.hold_slots();
    input.remove_prefix(1);
  }
  Outcome outcome;
  std::size_t answered = 0;
  while (true) {
    const std::size_t border = std::min(input.find(write_border), input.size());
    std::string_view write = input.substr(0, border);
    for (bool odd = true; !write.empty(); odd = !odd) {
      const std::size_t size = std::min(odd ? first : step, write.size());
      driver.feed(write.substr(0, size));
      write.remove_prefix(size);
    }
    outcome.received.push_back(driver.take_received());
    // Answering lets waiting input go on, which may open further slots.
    while (hold && answered < driver.finished().size()) {
      const std::size_t end = driver.finished().size();
      for (std::size_t i = end; i > answered; --i) driver.answer_durable(i - 1);
      answered = end;
    }
    outcome.received.back() += driver.take_received();
    driver.report_sent();
    if (border == input.size()) break;
    input.remove_prefix(border + 1);
  }
  for (const ServerDriver::Finished& finished : driver.finished()) {
    outcome.contents.push_back(finished.content);
    outcome.forms.push_back(finished.facts.form);
    outcome.recipients.push_back(finished.envelope.recipient_count());
  }
  outcome.wait = driver.session().wait();
  return outcome;
}

void check_reply_lines(std::string_view received) {
  while (!received.empty()) {
    const std::size_t end = received.find("\r\n");
    const std::string_view line = received.substr(0, end);
    // A challenge holds what the client said, and may be as long as its own lines [RFC 4954 §4].
    const std::size_t bytes_max = line.starts_with("334 ") ? auth_line_bytes_max : reply_line_max;
    POSTERN_CHECK(end != std::string_view::npos && end + 2 <= bytes_max, "a reply line ends, within its bound");
    POSTERN_CHECK(line.size() >= 4 && line[0] >= '2' && line[0] <= '5' && (line[3] == ' ' || line[3] == '-'), "a code");
    const bool has_status = line.size() > 5 && line[5] == '.' && line[4] >= '2' && line[4] <= '5';
    POSTERN_CHECK(!has_status || line[4] == line[0], "the status has the code's class");
    POSTERN_CHECK(std::all_of(line.begin(), line.end(), [](char c) { return c >= 0x20 && c < 0x7F; }), "text");
    received.remove_prefix(end + 2);
  }
}

void check_content(const std::string& content, mail::ContentForm form, std::string_view all_input, bool normalized) {
  POSTERN_CHECK(content.size() <= message_bytes_max, "within the limit");
  for (std::size_t i = 0; i < content.size(); ++i) {
    POSTERN_CHECK(content[i] != '\0', "no NUL");
    if (content[i] == '\n') POSTERN_CHECK(i > 0 && content[i - 1] == '\r', "no bare LF");
    if (content[i] == '\r') POSTERN_CHECK(i + 1 < content.size() && content[i + 1] == '\n', "no bare CR");
  }
  if (form != mail::ContentForm::dot_stuffed) return;
  POSTERN_CHECK(content.find("\r\n.\r\n") == std::string::npos && !content.starts_with(".\r\n"),
                "ends at the first end");
  if (normalized) return;
  POSTERN_CHECK(all_input.find(content + ".\r\n") != std::string_view::npos, "was ended by the client");
}

// Each accepted content is answered with its queue id, in LMTP once for each recipient that it was accepted for; where
// the session ends early, the last answers may be missing.
void check_final_replies(const Outcome& outcome, bool lmtp) {
  std::string all;
  for (const std::string& received : outcome.received) all += received;
  for (std::size_t i = 0; i < outcome.contents.size(); ++i) {
    const std::string answer = "queued as " + ServerDriver::id_of(i).to_string() + "\r\n";
    std::size_t count = 0;
    for (std::size_t at = all.find(answer); at != std::string::npos; at = all.find(answer, at + 1)) ++count;
    // No recipient is expanded here, so that each RCPT that was accepted is one of the envelope.
    const std::size_t wanted = lmtp ? outcome.recipients[i] : 1;
    POSTERN_CHECK(wanted > 0 && (count == wanted || (count == 0 && outcome.wait == Wait::close)),
                  "one final reply for each recipient");
  }
}

}  // namespace
}  // namespace postern::smtp

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace postern::smtp;
  if (size > 32 * 1024) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const Outcome whole = replay(input, size + 1, 1);
  POSTERN_CHECK(whole == replay(input, 1, 1), "byte by byte as in one piece");
  POSTERN_CHECK(whole == replay(input, 1 + size % 7, 1 + size % 11), "in pieces as in one");
  POSTERN_CHECK(whole == replay(input, 1 + size / 3, 2), "cut in the middle as in one");

  const bool lmtp = input.starts_with(lmtp_mode);
  const bool normalized = input.substr(lmtp ? 1 : 0).starts_with(normalizing);
  check_final_replies(whole, lmtp);

  std::string all_input(input);
  std::erase(all_input, write_border);
  for (const std::string& received : whole.received) check_reply_lines(received);
  for (std::size_t i = 0; i < whole.contents.size(); ++i) {
    check_content(whole.contents[i], whole.forms[i], all_input, normalized);
  }
  return 0;
}
