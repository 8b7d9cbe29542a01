// Replays the dialogues in transcripts/server: whole, byte by byte, and with one border at every byte; and under TLS,
// with borders in the cipher text.
//
//   # comment
//   @options message_bytes_max=1000 …   before anything else; the test's options with these changed; lmtp=1
//   @listed                             the same: the peer may say XCLIENT and XFORWARD
//   C: EHLO client.example              a line of the client, with CRLF
//   c: raw bytes                        the same without CRLF
//   S: 250 2.0.0 Ok                     a line of the server
//
// Consecutive C: and c: lines are one write. Consecutive S: lines are all that the client receives for it, and then all
// replies count as sent. Escapes in C:, c: and @content: \r \n \t \0 \\ \xNN, and \{N*text} for N times `text` (no
// escapes). $1 in an S: line is the first transaction's queue id.
//
//   @refuse WAIT CODE STATUS TEXT       the next verdict (connect, hello, mail, recipient, data); refuse! disconnects
//   @expand PATH PATH …                the next recipient becomes these
//   @fail-content CODE STATUS TEXT      the next piece of content cannot be kept
//   @fail-finished CODE STATUS TEXT     the next finished content is refused at once
//   @hold                               slots stay open until
//   @durable N / @refused N CODE STATUS TEXT
//   @secured                            the handshake behind STARTTLS is complete
//   @shutdown / @after SECONDS          the session is told to end; time passes
//   @open / @close                      the session now waits for bytes; wants to be closed
//   @finished N                         so many transactions were accepted
//   @from PATH / @to PATH PATH …        envelope of the last one
//   @original ORCPT …                   its original recipients; -: none
//   @dsn RET ENVID                      what it asks of reports: FULL or HDRS, xtext; -: nothing
//   @priority N / @held DATE-TIME       of the last one; @by DATE-TIME MODE, @requires-tls 0|1 too
//   @trusted                            from now on the peer may relay
//   @user NAME                          whom the client has shown that it is; nothing: nobody
//   @protocol NAME                      by which the last one came, as Received has it
//   @notify NOTIFY ORCPT                the same of its first recipient, by the next such line of the next one …
//   @content TEXT                       its content; several lines are one text
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/date.h>
#include <postern/base/time.h>
#include <postern/mail/reply.h>
#include <postern/smtp/received_field.h>
#include <postern/smtp/server_options.h>
#include <postern/smtp/server_session.h>

#include "tests/smtp/server_driver.h"
#include "tests/smtp/tls_channel.h"

namespace postern::smtp {
namespace {

struct Step {
  enum class Kind : std::uint8_t { client, server, directive };
  Kind kind = Kind::client;
  std::size_t line = 0;
  std::string text;  // client: bytes; server: lines with CRLF; directive: without '@'
};

struct Transcript {
  std::shared_ptr<ServerOptions> options = std::make_shared<ServerOptions>();
  ServerFacts facts{.peer_address = "192.0.2.1"};
  std::vector<Step> steps;
  std::size_t client_bytes = 0;
};

std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 1 == text.size()) {
      out += text[i];
      continue;
    }
    switch (text[++i]) {
      case 'r':
        out += '\r';
        break;
      case 'n':
        out += '\n';
        break;
      case 't':
        out += '\t';
        break;
      case '0':
        out += '\0';
        break;
      case 'x':
        out += static_cast<char>(std::stoi(std::string(text.substr(i + 1, 2)), nullptr, 16));
        i += 2;
        break;
      case '{': {
        const std::size_t star = text.find('*', i);
        const std::size_t end = text.find('}', i);
        const int count = std::stoi(std::string(text.substr(i + 1, star - i - 1)));
        for (int n = 0; n < count; ++n) out += text.substr(star + 1, end - star - 1);
        i = end;
        break;
      }
      default:
        out += text[i];
        break;
    }
  }
  return out;
}

std::string with_queue_ids(std::string text) {
  for (std::size_t at = text.find('$'); at != std::string::npos; at = text.find('$', at + 1)) {
    const auto number = static_cast<std::size_t>(text[at + 1] - '1');
    text.replace(at, 2, ServerDriver::id_of(number).to_string());
  }
  return text;
}

void set_options(ServerOptions& options, std::istringstream& words) {
  const std::map<std::string, std::uint64_t*> wide = {{"message_bytes_max", &options.message_bytes_max},
                                                      {"text_line_bytes_max", &options.text_line_bytes_max},
                                                      {"swallow_bytes_max", &options.swallow_bytes_max},
                                                      {"data_window_bytes", &options.data_window_bytes}};
  const std::map<std::string, std::uint32_t*> narrow = {
      {"recipients_max", &options.recipients_max},   {"received_max", &options.received_max},
      {"reply_slots_max", &options.reply_slots_max}, {"errors_max", &options.errors_max},
      {"refusals_max", &options.refusals_max},       {"junk_max", &options.junk_max},
      {"tiny_chunks_max", &options.tiny_chunks_max}};
  const std::map<std::string, bool*> flags = {{"offer_eight_bit_mime", &options.offer_eight_bit_mime},
                                              {"offer_chunking", &options.offer_chunking},
                                              {"offer_smtp_utf8", &options.offer_smtp_utf8},
                                              {"offer_pipelining", &options.offer_pipelining},
                                              {"offer_size", &options.offer_size},
                                              {"offer_enhanced_status_codes", &options.offer_enhanced_status_codes},
                                              {"offer_dsn", &options.offer_dsn},
                                              {"offer_binary_mime", &options.offer_binary_mime},
                                              {"offer_limits", &options.offer_limits},
                                              {"offer_mt_priority", &options.offer_mt_priority},
                                              {"offer_future_release", &options.offer_future_release},
                                              {"offer_etrn", &options.offer_etrn},
                                              {"offer_deliver_by", &options.offer_deliver_by},
                                              {"offer_require_tls", &options.offer_require_tls},
                                              {"normalize_bare_lf", &options.normalize_bare_lf}};
  for (std::string word; words >> word;) {
    const std::string name = word.substr(0, word.find('='));
    const unsigned long long value = std::stoull(word.substr(name.size() + 1));
    if (name == "lmtp") {
      options.dialect = value != 0 ? Dialect::lmtp : Dialect::smtp;
    } else if (wide.contains(name)) {
      *wide.at(name) = value;
    } else if (narrow.contains(name)) {
      *narrow.at(name) = static_cast<std::uint32_t>(value);
    } else if (name == "tls") {
      options.tls = static_cast<TlsUse>(value);  // 0 none, 1 opportunistic, 2 required
    } else if (name == "auth") {
      for (const sasl::Mechanism mechanism : sasl::all_mechanisms) options.auth_mechanisms.add(mechanism);
      options.auth_required = value == 2;  // 1 offered, 2 required
    } else if (name == "auth_without_tls") {
      options.auth_without_tls = value != 0;
    } else if (name == "hold_max_seconds") {
      options.hold_max = std::chrono::seconds(value);
    } else if (name == "deliver_by_min_seconds") {
      options.deliver_by_min = std::chrono::seconds(value);
    } else {
      *flags.at(name) = value != 0;
    }
  }
}

Transcript read_transcript(const std::filesystem::path& path) {
  Transcript transcript;
  transcript.options->hostname = "mx.example.test";
  std::ifstream file(path);
  std::size_t number = 0;
  const auto append = [&](Step::Kind kind, std::string text) {
    std::vector<Step>& steps = transcript.steps;
    if (kind == Step::Kind::directive || steps.empty() || steps.back().kind != kind) {
      steps.push_back({kind, number, {}});
    }
    steps.back().text += text;
  };
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.empty() || line.front() == '#') continue;
    const std::string rest = line.size() > 3 ? line.substr(3) : std::string();
    if (line.starts_with("C:") || line.starts_with("c:")) {
      const std::string bytes = unescape(rest) + (line.front() == 'C' ? "\r\n" : "");
      transcript.client_bytes += bytes.size();
      append(Step::Kind::client, bytes);
    } else if (line.starts_with("S:")) {
      append(Step::Kind::server, with_queue_ids(rest) + "\r\n");
    } else if (line.starts_with("@options ")) {
      std::istringstream words(line.substr(9));
      set_options(*transcript.options, words);
    } else if (line == "@listed") {
      transcript.facts.may_xclient = transcript.facts.may_xforward = true;
    } else if (line.starts_with("@content") && !transcript.steps.empty() &&
               transcript.steps.back().text.starts_with("content")) {
      transcript.steps.back().text += unescape(std::string_view(line).substr(std::min<std::size_t>(line.size(), 9)));
    } else if (line.starts_with("@content")) {
      append(Step::Kind::directive,
             "content " + unescape(std::string_view(line).substr(std::min<std::size_t>(line.size(), 9))));
    } else if (line.front() == '@') {
      append(Step::Kind::directive, line.substr(1));
    } else {
      ADD_FAILURE() << path << ":" << number << ": not a transcript's line: " << line;
    }
  }
  return transcript;
}

mail::Reply parse_reply(std::istringstream& words) {
  mail::Reply reply;
  std::string status;
  words >> reply.code >> status >> std::ws;
  reply.status = mail::EnhancedStatus::parse(status).value_or(mail::EnhancedStatus{});
  std::getline(words, reply.text);
  std::replace(reply.text.begin(), reply.text.end(), '|', '\n');
  return reply;
}

Wait wait_named(std::string_view name) {
  if (name == "connect") return Wait::connect_verdict;
  if (name == "hello") return Wait::hello_verdict;
  if (name == "mail") return Wait::mail_verdict;
  if (name == "recipient") return Wait::recipient_verdict;
  if (name == "tls") return Wait::tls_verdict;
  if (name == "wake") return Wait::wake_verdict;
  if (name == "identity") return Wait::identity_verdict;
  if (name == "auth") return Wait::auth_verdict;
  EXPECT_EQ(name, "data");
  return Wait::data_verdict;
}

// Where the client's bytes are cut: nowhere, at one offset of all of them, or everywhere.
struct Cut {
  std::optional<std::size_t> at = std::nullopt;
  bool everywhere = false;
};

class Replay {
 public:
  // `channel`: what bytes of both sides go through; null: nothing.
  Replay(const Transcript& transcript, Cut cut, TlsChannel* channel = nullptr)
      : transcript_(transcript), cut_(cut), channel_(channel) {}

  void run() {
    driver_ = std::make_unique<ServerDriver>(transcript_.options, transcript_.facts);
    driver_->session().set_clocks({.monotonic = Instant{}, .wall = *parse_rfc3339("2026-07-06T10:00:00Z")});
    for (const Step& step : transcript_.steps) {
      SCOPED_TRACE("line " + std::to_string(step.line));
      switch (step.kind) {
        case Step::Kind::client:
          write(step.text);
          break;
        case Step::Kind::server:
          ASSERT_EQ(take_received(), step.text);
          driver_->report_sent();
          break;
        case Step::Kind::directive:
          direct(step.text);
          break;
      }
      if (testing::Test::HasFatalFailure()) return;
    }
    EXPECT_EQ(take_received(), "") << "at the end";
  }

 private:
  void write(std::string_view bytes) {
    if (cut_.everywhere) {
      for (std::size_t i = 0; i < bytes.size(); ++i) feed(bytes.substr(i, 1));
    } else if (cut_.at && *cut_.at > written_ && *cut_.at < written_ + bytes.size()) {
      feed(bytes.substr(0, *cut_.at - written_));
      feed(bytes.substr(*cut_.at - written_));
    } else {
      feed(bytes);
    }
    written_ += bytes.size();
  }

  void feed(std::string_view bytes) {
    if (channel_ == nullptr) return driver_->feed(bytes);
    channel_->to_server(bytes, [this](std::string_view piece) { driver_->feed(piece); });
  }
  std::string take_received() {
    return channel_ == nullptr ? driver_->take_received() : channel_->to_client(driver_->take_received());
  }

  void direct(const std::string& text) {
    std::istringstream words(text);
    std::string name;
    words >> name;
    if (name == "refuse" || name == "refuse!") {
      std::string wait;
      words >> wait;
      driver_->refuse_next(wait_named(wait), Verdict::refuse(parse_reply(words), name.back() == '!'));
      // The connect verdict is the first of all: such a session begins again.
      if (wait == "connect") FAIL() << "refuse connect is tested in server_session_test.cc";
    } else if (name == "expand") {
      driver_->expand_next(std::vector<std::string>(std::istream_iterator<std::string>(words), {}));
    } else if (name == "fail-content") {
      driver_->fail_next_content(parse_reply(words));
    } else if (name == "fail-finished") {
      driver_->fail_finished_content(parse_reply(words));
    } else if (name == "hold") {
      driver_->hold_slots();
    } else if (name == "durable") {
      std::size_t number = 0;
      words >> number;
      driver_->answer_durable(number - 1);
    } else if (name == "refused") {
      std::size_t number = 0;
      words >> number;
      driver_->answer_refused(number - 1, parse_reply(words));
    } else if (name == "secured") {
      ASSERT_EQ(driver_->session().wait(), Wait::tls);
      driver_->secure();
    } else if (name == "shutdown") {
      driver_->shut_down();
    } else if (name == "after") {
      int seconds = 0;
      words >> seconds;
      driver_->advance(std::chrono::seconds(seconds));
    } else if (name == "open") {
      EXPECT_EQ(driver_->session().wait(), Wait::bytes);
    } else if (name == "close") {
      EXPECT_EQ(driver_->session().wait(), Wait::close);
    } else if (name == "finished") {
      std::size_t number = 0;
      words >> number;
      EXPECT_EQ(driver_->finished().size(), number);
    } else if (name == "content") {
      ASSERT_FALSE(driver_->finished().empty());
      EXPECT_EQ(driver_->finished().back().content, text.substr(8));
    } else if (name == "from") {
      ASSERT_FALSE(driver_->finished().empty());
      std::string path;
      words >> path;
      EXPECT_EQ(driver_->finished().back().envelope.reverse_path().text, path);
    } else if (name == "original") {
      ASSERT_FALSE(driver_->finished().empty());
      const mail::Envelope& envelope = driver_->finished().back().envelope;
      std::vector<std::string> originals;
      for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
        const std::string_view original = envelope.recipient(i).original_recipient;
        originals.emplace_back(original.empty() ? "-" : original);
      }
      EXPECT_EQ(originals, std::vector<std::string>(std::istream_iterator<std::string>(words), {}));
    } else if (name == "to") {
      ASSERT_FALSE(driver_->finished().empty());
      const mail::Envelope& envelope = driver_->finished().back().envelope;
      std::vector<std::string> paths;
      for (std::size_t i = 0; i < envelope.recipient_count(); ++i)
        paths.emplace_back(envelope.recipient(i).forward_path.text);
      EXPECT_EQ(paths, std::vector<std::string>(std::istream_iterator<std::string>(words), {}));
    } else if (name == "trusted") {
      driver_->session().set_trusted(true);
    } else if (name == "priority") {
      ASSERT_FALSE(driver_->finished().empty());
      int priority = 0;
      words >> priority;
      EXPECT_EQ(driver_->finished().back().envelope.head.priority, priority);
    } else if (name == "held") {
      ASSERT_FALSE(driver_->finished().empty());
      std::string until;
      words >> until;
      EXPECT_EQ(driver_->finished().back().envelope.head.hold_until, parse_rfc3339(until));
    } else if (name == "by") {
      ASSERT_FALSE(driver_->finished().empty());
      std::string until, mode;
      words >> until >> mode;
      const mail::EnvelopeHead& head = driver_->finished().back().envelope.head;
      EXPECT_EQ(head.deliver_by, parse_rfc3339(until));
      EXPECT_EQ(head.deliver_by_returns, mode.starts_with("R"));
      EXPECT_EQ(head.deliver_by_trace, mode.ends_with("T"));
    } else if (name == "requires-tls") {
      ASSERT_FALSE(driver_->finished().empty());
      int required = 0;
      words >> required;
      EXPECT_EQ(driver_->finished().back().envelope.head.require_tls, required != 0);
    } else if (name == "user") {
      std::string user;
      words >> user;
      EXPECT_EQ(driver_->session().user(), user);
    } else if (name == "protocol") {
      ASSERT_FALSE(driver_->finished().empty());
      std::string protocol;
      words >> protocol;
      const mail::EnvelopeHead& head = driver_->finished().back().envelope.head;
      EXPECT_EQ(protocol_keyword(head.protocol, head.smtp_utf8), protocol);
    } else if (name == "dsn") {
      ASSERT_FALSE(driver_->finished().empty());
      const mail::Envelope& envelope = driver_->finished().back().envelope;
      std::string returned, id;
      words >> returned >> id;
      const auto wanted = returned == "FULL"   ? mail::DsnReturn::full
                          : returned == "HDRS" ? mail::DsnReturn::headers
                                               : mail::DsnReturn::unspecified;
      EXPECT_EQ(envelope.head.dsn_return, wanted);
      EXPECT_EQ(envelope.dsn_envelope_id(), id == "-" ? "" : id);
      next_notify_ = 0;
    } else if (name == "notify") {
      ASSERT_FALSE(driver_->finished().empty());
      const mail::RecipientView recipient = driver_->finished().back().envelope.recipient(next_notify_++);
      std::string notify, original;
      words >> notify >> original;
      std::uint8_t bits = 0;
      if (notify.find("NEVER") != std::string::npos) bits |= mail::Notify::never;
      if (notify.find("SUCCESS") != std::string::npos) bits |= mail::Notify::success;
      if (notify.find("FAILURE") != std::string::npos) bits |= mail::Notify::failure;
      if (notify.find("DELAY") != std::string::npos) bits |= mail::Notify::delay;
      EXPECT_EQ(recipient.notify.bits, bits);
      EXPECT_EQ(recipient.original_recipient, original == "-" ? "" : original);
    } else {
      FAIL() << "no such directive: @" << text;
    }
  }

  const Transcript& transcript_;
  const Cut cut_;
  TlsChannel* const channel_;
  std::unique_ptr<ServerDriver> driver_;
  std::size_t written_ = 0;
  std::size_t next_notify_ = 0;  // the recipient of the next @notify
};

std::filesystem::path transcripts_folder() {
  const char* root = std::getenv("POSTERN_SOURCE_ROOT");
  return std::filesystem::path(root == nullptr ? "." : root) / "tests/smtp/transcripts/server";
}

std::vector<std::string> transcript_names() {
  std::vector<std::string> names;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(transcripts_folder(), failure)) {
    if (entry.path().extension() == ".txt") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class ServerTranscript : public testing::TestWithParam<std::string> {};

TEST_P(ServerTranscript, ReadsTheSameAtEverySplit) {
  const Transcript transcript = read_transcript(transcripts_folder() / (GetParam() + ".txt"));
  ASSERT_FALSE(transcript.steps.empty());
  {
    SCOPED_TRACE("whole");
    Replay(transcript, {}).run();
  }
  {
    SCOPED_TRACE("byte by byte");
    Replay(transcript, {.everywhere = true}).run();
  }
  // Long transcripts are long by repetition: a prime step still meets every kind of border.
  const std::size_t step = transcript.client_bytes > 8192 ? 211 : 1;
  for (std::size_t at = 1; at < transcript.client_bytes && !HasFailure(); at += step) {
    SCOPED_TRACE("cut at byte " + std::to_string(at));
    Replay(transcript, {.at = at}).run();
  }
}

TEST_P(ServerTranscript, ReadsTheSameUnderTls) {
  const Transcript transcript = read_transcript(transcripts_folder() / (GetParam() + ".txt"));
  ASSERT_FALSE(transcript.steps.empty());
  // One channel after the other for each replay: records of one byte, cipher text that comes byte by byte, and borders
  // in both. Whatever is longer is so by repetition.
  const bool is_long = transcript.client_bytes > 8192;
  for (const std::size_t piece : {std::size_t{1}, std::size_t{23}, std::size_t{1000}, std::size_t{100'000}}) {
    SCOPED_TRACE("received in pieces of " + std::to_string(piece));
    TlsChannel whole(piece);
    Replay(transcript, {}, &whole).run();
    if (HasFatalFailure()) return;
    if (is_long && piece == 1) continue;
    SCOPED_TRACE("a record for each byte");
    TlsChannel bytes(piece);
    Replay(transcript, {.everywhere = true}, &bytes).run();
    if (HasFatalFailure()) return;
  }
  const std::size_t step = is_long ? 997 : std::max<std::size_t>(1, transcript.client_bytes / 40);
  for (std::size_t at = 1; at < transcript.client_bytes && !HasFailure(); at += step) {
    SCOPED_TRACE("records cut at byte " + std::to_string(at));
    TlsChannel channel(100'000);
    Replay(transcript, {.at = at}, &channel).run();
  }
}

INSTANTIATE_TEST_SUITE_P(Files, ServerTranscript, testing::ValuesIn(transcript_names()),
                         [](const testing::TestParamInfo<std::string>& test) { return test.param; });

TEST(ServerTranscripts, AreFound) {
  EXPECT_GE(transcript_names().size(), 10u) << "POSTERN_SOURCE_ROOT must name the checkout";
}

}  // namespace
}  // namespace postern::smtp
