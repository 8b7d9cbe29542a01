// ClientSession: dialogues from transcripts at every split, and every failure at each step.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include <postern/smtp/client_session.h>

#include "tests/smtp/allocation_count.h"
#include "tests/smtp/client_driver.h"
#include "tests/smtp/content_reference.h"

namespace postern::smtp {
namespace {

using namespace std::literals;
using mail::Outcome;
using testing::ClientDriver;
using testing::Message;
using testing::TakenResult;
using Disposition = DeliveryResult::Disposition;
using Want = ClientSession::Want;

constexpr Instant start{std::chrono::hours(1)};

const ClientOptions& default_options() {
  static const ClientOptions options{.ehlo_name = "relay.example.test"};
  return options;
}

Message message_of(std::string content, std::vector<std::string> forward_paths = {"b@example.net"},
                   mail::ContentForm form = mail::ContentForm::dot_stuffed) {
  Message message;
  message.reverse_path = "a@example.test";
  message.forward_paths = std::move(forward_paths);
  message.facts = testing::reference_facts(content, form);
  message.content = std::move(content);
  return message;
}

// An LMTP session with a transaction for three recipients, whose content is to be sent by `transfer`.
ClientDriver with_lmtp_content_wanted(const Message& message, bool chunking) {
  ClientDriver driver(default_options(), start, Dialect::lmtp);
  driver.hold_content = true;
  driver.on_bytes("220 store\r\n");
  driver.on_bytes(chunking ? "250-store\r\n250-CHUNKING\r\n250 PIPELINING\r\n" : "250-store\r\n250 PIPELINING\r\n");
  driver.begin(message);
  driver.on_bytes("250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n");
  if (!chunking) driver.on_bytes("354 go\r\n");
  EXPECT_EQ(driver.session.want(), Want::content);
  return driver;
}

// A session greeted by a peer that offers `extensions` (each with its own EHLO line).
ClientDriver greeted(const std::vector<std::string>& extensions, const ClientOptions& options = default_options()) {
  ClientDriver driver(options, start);
  driver.on_bytes("220 mx\r\n");
  std::string reply = "250-mx\r\n";
  for (const std::string& extension : extensions) reply += "250-" + extension + "\r\n";
  driver.on_bytes(reply + "250 HELP\r\n");
  driver.wire.clear();
  EXPECT_EQ(driver.session.want(), Want::delivery);
  return driver;
}

// --- transcripts
// -------------------------------------------------------------------------------------------------------
//
// Lines of tests/smtp/transcripts/client/*.txt; text behind the letter, one space between:
//   S: what the peer sends, with CRLF      C: what must have been handed over since the last C block, with CRLF
//   O: an option: no-pipelining, no-chunking, fail-without-8bitmime, lmtp, tls-when-offered, tls-always
//   O: credentials USER PASSWORD [MECHANISM…]: what to authenticate by; without-tls: also in the clear
//   H: the handshake is complete; with a text: it failed, and that is why
//   N: the channel for AUTH: a nonce, and the name of a binding and what is bound, if any
//   K: PBKDF2 is done; failed: it is not
//   A: how AUTH went: the mechanism's name, or what was the trouble
//   M: a content line, CRLF added; M~ without (the last)
//   B: begin: reverse-path, forward-paths; and form=plain, body=8bitmime, smtputf8, ask, ret=, envid=, priority=, by=,
//   require-tls, tls-suffices, and
//   notify= orcpt= in pairs, one for each forward-path L: connection lost    T: the deadline passes    Q: quit() R: one
//   recipient's result: outcome, code, status ("-": none), beyond-limit     D: disposition, connection's verdict,
//   "rcpt" for an answer to it W: what is wanted: bytes, delivery, content, handshake, close      F: code of failure(),
//   and status and text behind it P: whether it is TLS that failed: yes, no

struct Transcript {
  std::string name;
  std::vector<std::pair<char, std::string>> lines;
};

std::vector<Transcript> transcripts() {
  const char* root = std::getenv("POSTERN_SOURCE_ROOT");
  const std::filesystem::path folder =
      std::filesystem::path(root == nullptr ? "." : root) / "tests/smtp/transcripts/client";
  std::vector<Transcript> all;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    Transcript transcript{entry.path().filename().string(), {}};
    std::ifstream stream(entry.path());
    for (std::string line; std::getline(stream, line);) {
      if (line.empty() || line[0] == '#') continue;
      const bool unterminated = line.size() > 1 && line[1] == '~';
      std::string text = line.size() > 3 ? line.substr(3) : "";
      if ((line[0] == 'S' || line[0] == 'C' || line[0] == 'M') && !unterminated) text += "\r\n";
      // Neighbouring S, C and M lines are one block.
      const bool joins = !transcript.lines.empty() && transcript.lines.back().first == line[0] &&
                         (line[0] == 'S' || line[0] == 'C' || line[0] == 'M');
      if (joins) {
        transcript.lines.back().second += text;
      } else {
        transcript.lines.emplace_back(line[0], text);
      }
    }
    all.push_back(std::move(transcript));
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  return all;
}

std::string_view text_of(Want want) {
  switch (want) {
    case Want::bytes:
      return "bytes";
    case Want::delivery:
      return "delivery";
    case Want::content:
      return "content";
    case Want::handshake:
      return "handshake";
    case Want::channel:
      return "channel";
    case Want::salted_password:
      return "salted_password";
    case Want::close:
      return "close";
  }
  return "?";
}

std::string_view text_of(ClientSession::AuthTrouble trouble) {
  switch (trouble) {
    case ClientSession::AuthTrouble::none:
      return "none";
    case ClientSession::AuthTrouble::unusable:
      return "unusable";
    case ClientSession::AuthTrouble::refused:
      return "refused";
    case ClientSession::AuthTrouble::put_off:
      return "put_off";
    case ClientSession::AuthTrouble::broken:
      return "broken";
  }
  return "?";
}

std::optional<sasl::Credentials> credentials_from(const Transcript& transcript) {
  std::optional<sasl::Credentials> credentials;
  for (const auto& [kind, text] : transcript.lines) {
    if (kind == 'O' && text == "without-tls" && credentials) credentials->without_tls = true;
    if (kind != 'O' || !text.starts_with("credentials ")) continue;
    std::istringstream words(text);
    std::string word, user, password;
    words >> word >> user >> password;
    credentials.emplace().user = user;
    credentials->password = sasl::Secret(password);
    while (words >> word) credentials->mechanisms.add(sasl::mechanism_named(word).value());
    if (!credentials->mechanisms.empty()) continue;
    for (const sasl::Mechanism mechanism : sasl::all_mechanisms) credentials->mechanisms.add(mechanism);
  }
  return credentials;
}

void give_channel(ClientDriver& driver, const std::string& text) {
  ASSERT_EQ(driver.session.want(), Want::channel);
  ASSERT_EQ(driver.session.next_deadline(), never);
  std::istringstream words(text);
  std::string nonce, name, bound;
  words >> nonce >> name >> bound;
  driver.session.on_channel({.nonce = nonce, .binding_name = name, .binding = bound}, driver.now());
  driver.turn();
}

void give_salted_password(ClientDriver& driver, const sasl::Credentials& credentials, bool computed) {
  ASSERT_EQ(driver.session.want(), Want::salted_password);
  ASSERT_EQ(driver.session.next_deadline(), never);
  const sasl::ClientExchange& exchange = driver.session.exchange();
  if (computed) {
    // Of each transcript's hundreds of splits.
    static std::map<std::tuple<std::string, std::string, std::uint32_t>, sasl::Digest> known;
    auto& salted = known[{std::string(credentials.password.view()), exchange.salt(), exchange.iterations()}];
    if (salted == sasl::Digest{}) {
      salted = sasl::pbkdf2_hmac_sha256(credentials.password.view(), exchange.salt(), exchange.iterations());
    }
    driver.session.on_salted_password(salted, driver.now());
  } else {
    driver.session.on_salted_password_failed(driver.now());
  }
  driver.turn();
}

std::string text_of(const mail::RecipientResult& result) {
  std::string text(to_text(result.outcome));
  text += " " + std::to_string(result.reply.code) + " ";
  text += result.reply.status.present() ? result.reply.status.to_string() : "-";
  if (result.beyond_limit) text += " beyond-limit";
  return text;
}

std::string text_of(const TakenResult& result) {
  std::string text = result.disposition == Disposition::settled                     ? "settled"
                     : result.disposition == Disposition::retry_on_fresh_connection ? "retry"
                                                                                    : "lacks";
  text += result.connection == ConnectionVerdict::reusable  ? " reusable"
          : result.connection == ConnectionVerdict::closing ? " closing"
                                                            : " lost";
  if (result.reply_unknown) text += " unknown";
  if (result.rcpt_answered) text += " rcpt";
  return text;
}

mail::Notify parse_notify_of(std::string_view words) {
  const auto has = [words](std::string_view word) { return words.find(word) != std::string_view::npos; };
  return {static_cast<std::uint8_t>(
      (has("never") ? unsigned{mail::Notify::never} : 0u) | (has("success") ? unsigned{mail::Notify::success} : 0u) |
      (has("failure") ? unsigned{mail::Notify::failure} : 0u) | (has("delay") ? unsigned{mail::Notify::delay} : 0u))};
}

Message message_from(const std::string& begin, const std::string& content) {
  Message message;
  mail::ContentForm form = mail::ContentForm::dot_stuffed;
  std::istringstream words(begin);
  bool first = true;
  for (std::string word; words >> word;) {
    if (word == "form=plain") {
      form = mail::ContentForm::plain;
    } else if (word == "body=8bitmime") {
      message.body = mail::BodyType::eight_bit_mime;
    } else if (word == "ask") {
      message.only_ask = true;
    } else if (word == "smtputf8") {
      message.smtp_utf8 = true;
    } else if (word.starts_with("ret=")) {
      message.dsn_return = word == "ret=full" ? mail::DsnReturn::full : mail::DsnReturn::headers;
    } else if (word.starts_with("priority=")) {
      message.priority = static_cast<std::int8_t>(std::stoi(word.substr(9)));
    } else if (word.starts_with("by=")) {
      message.deliver_by = {.seconds = std::stoi(word.substr(3)),
                            .returns = word.find(";R") != std::string::npos,
                            .trace = word.ends_with("T")};
    } else if (word == "require-tls") {
      message.require_tls = true;
    } else if (word == "tls-suffices") {
      message.tls_suffices = true;
    } else if (word.starts_with("envid=")) {
      message.envelope_id = word.substr(6);
    } else if (word.starts_with("notify=")) {
      message.notify.push_back(parse_notify_of(word.substr(7)));
    } else if (word.starts_with("orcpt=")) {
      message.original_recipients.push_back(word.substr(6));
    } else if (word.front() == '<') {
      const std::string path = word.substr(1, word.size() - 2);
      if (first) {
        message.reverse_path = path;
      } else {
        message.forward_paths.push_back(path);
      }
      first = false;
    } else {
      ADD_FAILURE() << "unknown word " << word;
    }
  }
  message.facts = testing::reference_facts(content, form);
  message.content = content;
  message.added = "Received: by relay.example.test; Mon, 6 Jul 2026 10:00:00 +0000\r\n";
  return message;
}

// Plays one transcript; the peer's bytes come in pieces: the n-th of all is split off where `splits_at` says so.
template <class SplitsAt>
void play(const Transcript& transcript, SplitsAt splits_at) {
  ClientOptions options = default_options();
  Dialect dialect = Dialect::smtp;
  StartTls start_tls = StartTls::never;
  for (const auto& [kind, text] : transcript.lines) {
    if (kind != 'O') continue;
    if (text == "tls-when-offered") start_tls = StartTls::when_offered;
    if (text == "tls-always") start_tls = StartTls::always;
    if (text == "lmtp") dialect = Dialect::lmtp;
    if (text == "no-pipelining") options.use_pipelining = false;
    if (text == "no-chunking") options.use_chunking = false;
    if (text == "fail-without-8bitmime") options.without_eight_bit_mime = WithoutEightBitMime::fail;
  }
  const std::optional<sasl::Credentials> credentials = credentials_from(transcript);
  ClientDriver driver(options, start, dialect, start_tls, credentials ? &*credentials : nullptr);
  Message message;
  std::string content;
  std::size_t position = 0;
  std::size_t recipients_seen = 0;
  for (const auto& [kind, text] : transcript.lines) {
    SCOPED_TRACE(std::string(1, kind) + ": " + text);
    switch (kind) {
      case 'O':
        break;
      case 'S': {
        std::string piece;
        for (const char c : text) {
          piece += c;
          if (!splits_at(++position)) continue;
          driver.on_bytes(piece);
          piece.clear();
        }
        driver.on_bytes(piece);
        break;
      }
      case 'C':
        ASSERT_EQ(driver.wire, text);
        driver.wire.clear();
        break;
      case 'M':
        content = text;
        break;
      case 'B':
        message = message_from(text, content);
        recipients_seen = 0;
        driver.begin(message);
        break;
      case 'L':
        driver.session.on_connection_lost(driver.now());
        driver.turn();
        break;
      case 'T':
        ASSERT_NE(driver.session.next_deadline(), never);
        driver.session.on_deadline(driver.session.next_deadline());
        driver.turn();
        break;
      case 'Q':
        driver.session.quit(driver.now());
        driver.turn();
        break;
      case 'R':
        ASSERT_FALSE(driver.results.empty());
        ASSERT_LT(recipients_seen, driver.results.back().recipients.size());
        ASSERT_EQ(text_of(driver.results.back().recipients[recipients_seen++]), text);
        break;
      case 'D':
        ASSERT_FALSE(driver.results.empty());
        ASSERT_EQ(recipients_seen, driver.results.back().recipients.size());
        ASSERT_EQ(text_of(driver.results.back()), text);
        break;
      case 'W':
        ASSERT_EQ(text_of(driver.session.want()), text);
        break;
      case 'H':
        if (text.empty()) {
          driver.session.on_secured(driver.now());
        } else {
          driver.session.on_tls_failed(text, driver.now());
        }
        driver.turn();
        break;
      case 'N':
        ASSERT_NO_FATAL_FAILURE(give_channel(driver, text));
        break;
      case 'K':
        ASSERT_NO_FATAL_FAILURE(give_salted_password(driver, credentials.value(), text != "failed"));
        break;
      case 'A':
        ASSERT_EQ(driver.session.authenticated_by() ? name_of(*driver.session.authenticated_by())
                                                    : text_of(driver.session.auth_trouble()),
                  text);
        break;
      case 'P':
        ASSERT_EQ(driver.session.tls_failed() ? "yes" : "no", text);
        break;
      case 'F': {
        const mail::Reply& failure = driver.session.failure();
        std::string code = std::to_string(failure.code);
        if (text.size() > code.size()) code += " " + failure.status.to_string() + " " + failure.text;
        ASSERT_EQ(code, text);
        break;
      }
      default:
        FAIL() << "unknown line";
    }
  }
  EXPECT_EQ(driver.wire, "");
  EXPECT_TRUE(driver.sent_as_announced);
}

TEST(ClientTranscript, HoldAtEverySplit) {
  const std::vector<Transcript> all = transcripts();
  ASSERT_GE(all.size(), 20U);
  for (const Transcript& transcript : all) {
    SCOPED_TRACE(transcript.name);
    std::size_t bytes = 0;
    for (const auto& [kind, text] : transcript.lines) bytes += kind == 'S' ? text.size() : 0;
    ASSERT_NO_FATAL_FAILURE(play(transcript, [](std::size_t) { return false; }));
    ASSERT_NO_FATAL_FAILURE(play(transcript, [](std::size_t) { return true; }));
    for (std::size_t split = 1; split < bytes; ++split) {
      ASSERT_NO_FATAL_FAILURE(play(transcript, [split](std::size_t at) { return at == split; }))
          << "split at " << split;
    }
  }
}

// --- what transcripts cannot say
// ---------------------------------------------------------------------------------------

TEST(ClientSession, AnEarlyRefusalInLmtpIsTheFirstRecipientsAlone) {
  const Message message = message_of("Subject: x\r\n\r\n", {"b@example.net", "c@example.net", "d@example.net"});
  for (const bool chunking : {false, true}) {
    ClientDriver driver = with_lmtp_content_wanted(message, chunking);
    driver.on_bytes("552 5.2.2 over quota\r\n552 5.2.2 over quota\r\n");
    ASSERT_EQ(driver.results.size(), 1U);
    const TakenResult& result = driver.results.front();
    EXPECT_EQ(result.recipients[0].outcome, Outcome::failed);
    EXPECT_EQ(result.recipients[1].outcome, Outcome::deferred);
    EXPECT_EQ(result.recipients[2].outcome, Outcome::deferred);
    EXPECT_EQ(result.connection, ConnectionVerdict::closing);
    EXPECT_EQ(driver.session.want(), Want::close);
  }
}

TEST(ClientSession, WithoutItsContentALmtpPeersPositiveReplyIsNone) {
  const Message message = message_of("Subject: x\r\n\r\n", {"b@example.net", "c@example.net", "d@example.net"});
  for (const bool chunking : {false, true}) {
    ClientDriver driver = with_lmtp_content_wanted(message, chunking);
    driver.on_bytes("250 ok\r\n250 ok\r\n250 ok\r\n");
    ASSERT_EQ(driver.results.size(), 1U);
    for (const mail::RecipientResult& recipient : driver.results.front().recipients)
      EXPECT_EQ(recipient.outcome, Outcome::deferred);
    EXPECT_EQ(driver.results.front().connection, ConnectionVerdict::lost);
  }
}

TEST(ClientSession, EachLmtpReplyHasItsTime) {
  const Message message = message_of("Subject: x\r\n\r\n", {"b@example.net", "c@example.net", "d@example.net"});
  ClientDriver driver = with_lmtp_content_wanted(message, false);
  driver.send_content();
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + std::chrono::minutes(10));
  driver.advance(std::chrono::minutes(9));
  driver.on_bytes("250 ok\r\n");
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + std::chrono::minutes(10));
}

TEST(ClientSession, KeepsTheTimeoutsOfRfc5321) {
  using std::chrono::minutes;
  ClientOptions options = default_options();
  options.use_pipelining = false;
  ClientDriver driver(options, start);
  EXPECT_EQ(driver.session.next_deadline(), start + minutes(5));
  driver.advance(minutes(1));
  driver.on_bytes("220 mx");
  EXPECT_EQ(driver.session.next_deadline(), start + minutes(5)) << "half a reply extends nothing";
  driver.on_bytes("\r\n");
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + minutes(5));
  driver.on_bytes("250 mx\r\n");
  EXPECT_EQ(driver.session.next_deadline(), never);
  const Message message = message_of("Subject: x\r\n\r\n");
  driver.hold_content = true;
  driver.begin(message);
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + minutes(5));
  driver.on_bytes("250 ok\r\n");
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + minutes(5));
  driver.on_bytes("250 ok\r\n");
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + minutes(2));
  driver.on_bytes("354 go\r\n");
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + minutes(3));
  driver.advance(minutes(2));
  driver.session.on_content_progress(driver.now());
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + minutes(3));
  driver.send_content();
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + minutes(10));
  driver.on_bytes("250 ok\r\n");
  EXPECT_EQ(driver.session.next_deadline(), never);
  driver.session.quit(driver.now());
  EXPECT_EQ(driver.session.next_deadline(), driver.now() + std::chrono::seconds(5));
  driver.session.on_deadline(driver.now());
  EXPECT_EQ(driver.session.want(), Want::bytes) << "not yet";
  driver.advance(std::chrono::seconds(5));
  driver.session.on_deadline(driver.now());
  EXPECT_EQ(driver.session.want(), Want::close);
}

// The replies of one good delivery, and what the peer may do instead of each.
struct Step {
  std::string_view reply;
  bool content_follows;
};
constexpr Step good_steps[] = {
    {"250 ok\r\n", false}, {"250 ok\r\n", false}, {"354 go\r\n", true}, {"250 ok\r\n", false}};

TEST(ClientSession, AConnectionLostAtAnyStepDefers) {
  for (const bool pipelining : {false, true}) {
    for (std::size_t step = 0; step < std::size(good_steps); ++step) {
      for (const bool timed_out : {false, true}) {
        ClientDriver driver = greeted(pipelining ? std::vector<std::string>{"PIPELINING"} : std::vector<std::string>{});
        const Message message = message_of("Subject: x\r\n\r\n");
        driver.begin(message);
        for (std::size_t i = 0; i < step; ++i) driver.on_bytes(good_steps[i].reply);
        driver.on_bytes("25");  // in the middle of a reply
        if (timed_out) {
          driver.session.on_deadline(driver.session.next_deadline());
        } else {
          driver.session.on_connection_lost(driver.now());
        }
        driver.turn();
        ASSERT_EQ(driver.results.size(), 1U);
        EXPECT_EQ(driver.session.want(), Want::close);
        EXPECT_EQ(text_of(driver.results[0]), step == 3 ? "settled lost unknown" : "settled lost");
        EXPECT_EQ(text_of(driver.results[0].recipients[0]), "deferred 0 4.4.2");
        EXPECT_TRUE(
            driver.results[0].recipients[0].reply.text.starts_with(timed_out ? "timed out" : "connection lost"));
      }
    }
  }
}

TEST(ClientSession, A421AtAnyStepDefersAndCloses) {
  for (const bool pipelining : {false, true}) {
    for (std::size_t step = 0; step < std::size(good_steps); ++step) {
      ClientDriver driver = greeted(pipelining ? std::vector<std::string>{"PIPELINING"} : std::vector<std::string>{});
      const Message message = message_of("Subject: x\r\n\r\n");
      driver.begin(message);
      for (std::size_t i = 0; i < step; ++i) driver.on_bytes(good_steps[i].reply);
      driver.on_bytes("421 4.3.2 going down\r\n");
      ASSERT_EQ(driver.results.size(), 1U);
      EXPECT_EQ(text_of(driver.results[0]), "settled closing");
      EXPECT_EQ(text_of(driver.results[0].recipients[0]), "deferred 421 4.3.2");
      EXPECT_EQ(driver.session.want(), Want::close);
    }
  }
}

TEST(ClientSession, WhatIsNoReplyAtAnyStepDefersAndCloses) {
  for (const std::string_view junk :
       {"HTTP/1.1 400 Bad\r\n"sv, "199 no\r\n"sv, "\r\n"sv, "25 x\r\n"sv, "250=ok\r\n"sv}) {
    for (std::size_t step = 0; step < std::size(good_steps); ++step) {
      ClientDriver driver = greeted({});
      const Message message = message_of("Subject: x\r\n\r\n");
      driver.begin(message);
      for (std::size_t i = 0; i < step; ++i) driver.on_bytes(good_steps[i].reply);
      driver.on_bytes(junk);
      ASSERT_EQ(driver.results.size(), 1U) << junk;
      EXPECT_EQ(text_of(driver.results[0]), "settled lost");
      EXPECT_EQ(text_of(driver.results[0].recipients[0]), "deferred 0 4.5.0");
    }
  }
}

TEST(ClientSession, AReplyWhoseCommandWasNotHandedOverIsAProtocolError) {
  // Two replies in one read, where the second's command was only written because of the first.
  ClientDriver driver(default_options(), start);
  driver.on_bytes("220 mx\r\n250 mx\r\n");
  EXPECT_EQ(driver.session.want(), Want::close);
  EXPECT_FALSE(driver.session.greeted());

  ClientDriver second = greeted({});
  const Message message = message_of("Subject: x\r\n\r\n");
  second.begin(message);
  second.on_bytes("250 ok\r\n250 ok\r\n");
  EXPECT_EQ(text_of(second.results.at(0).recipients.at(0)), "deferred 0 4.5.0");
}

TEST(ClientSession, APositiveReplyToContentNotYetSentIsNoDelivery) {
  for (const std::vector<std::string>& extensions :
       {std::vector<std::string>{"PIPELINING"}, std::vector<std::string>{"PIPELINING", "CHUNKING"}}) {
    ClientDriver driver = greeted(extensions);
    const Message message = message_of("Subject: x\r\n\r\n");
    driver.hold_content = true;
    driver.begin(message);
    driver.on_bytes(extensions.size() == 1 ? "250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n"
                                           : "250 ok\r\n250 ok\r\n250 queued\r\n");
    ASSERT_EQ(driver.results.size(), 1U);
    EXPECT_EQ(text_of(driver.results[0].recipients[0]), "deferred 0 4.5.0");
    EXPECT_EQ(driver.session.want(), Want::close);
    driver.session.on_content_sent(driver.now());  // the driver may be late
  }
}

TEST(ClientSession, ARefusalInTheMiddleOfTheContentCountsAndEndsTheConnection) {
  ClientDriver driver = greeted({"PIPELINING"});
  const Message message = message_of("Subject: x\r\n\r\n");
  driver.hold_content = true;
  driver.begin(message);
  driver.on_bytes("250 ok\r\n250 ok\r\n354 go\r\n");
  EXPECT_EQ(driver.session.want(), Want::content);
  driver.on_bytes("552 5.3.4 too large\r\n");
  EXPECT_EQ(text_of(driver.results.at(0)), "settled closing");
  EXPECT_EQ(text_of(driver.results.at(0).recipients.at(0)), "failed 552 5.3.4");
}

TEST(ClientSession, AConnectionLostWhileSendingTheContentIsNotUnknown) {
  ClientDriver driver = greeted({"PIPELINING"});
  const Message message = message_of("Subject: x\r\n\r\n");
  driver.hold_content = true;
  driver.begin(message);
  driver.on_bytes("250 ok\r\n250 ok\r\n354 go\r\n");
  driver.session.on_connection_lost(driver.now());
  driver.turn();
  EXPECT_EQ(text_of(driver.results.at(0)), "settled lost");
}

// A reused connection whose first answers are `replies`; empty: lost.
TakenResult second_delivery(std::string_view replies, bool first_failed) {
  ClientDriver driver = greeted({"PIPELINING"});
  const Message message = message_of("Subject: x\r\n\r\n");
  driver.begin(message);
  driver.on_bytes(first_failed ? "250 ok\r\n550 no\r\n503 no\r\n" : "250 ok\r\n250 ok\r\n354 go\r\n");
  if (!first_failed) driver.on_bytes("250 ok\r\n");
  EXPECT_EQ(driver.session.want(), Want::delivery);
  driver.wire.clear();
  driver.begin(message);
  EXPECT_EQ(driver.wire.starts_with("RSET\r\n"), first_failed) << "RSET only where a transaction is left over";
  if (replies.empty()) {
    driver.session.on_connection_lost(driver.now());
    driver.turn();
  } else {
    driver.on_bytes(replies);
  }
  EXPECT_EQ(driver.results.size(), 2U);
  return driver.results.back();
}

TEST(ClientSession, AReusedConnectionGoneStaleCostsTheMessageNothing) {
  EXPECT_EQ(text_of(second_delivery("", false)), "retry lost");
  EXPECT_EQ(text_of(second_delivery("", true)), "retry lost");
  EXPECT_EQ(text_of(second_delivery("421 4.4.2 idle too long\r\n", false)), "retry closing");
  EXPECT_EQ(text_of(second_delivery("503 what\r\n", true)), "retry closing");
  EXPECT_EQ(text_of(second_delivery("250 ok\r\n421 enough\r\n", true)), "retry closing");
  EXPECT_EQ(text_of(second_delivery("503 nested MAIL\r\n", false)), "retry closing");
  EXPECT_EQ(text_of(second_delivery("250 ok\r\n421 no\r\n", false)), "settled closing") << "MAIL was taken";
  EXPECT_EQ(text_of(second_delivery("550 5.7.1 no\r\n503 no\r\n503 no\r\n", false)), "settled reusable");
}

TEST(ClientSession, ASilentReusedConnectionIsAnAttempt) {
  ClientDriver driver = greeted({"PIPELINING"});
  const Message message = message_of("Subject: x\r\n\r\n");
  driver.begin(message);
  driver.on_bytes("250 ok\r\n250 ok\r\n354 go\r\n");
  driver.on_bytes("250 ok\r\n");
  driver.begin(message);
  driver.session.on_deadline(driver.session.next_deadline());
  driver.turn();
  EXPECT_EQ(text_of(driver.results.at(1)), "settled lost");
}

TEST(ClientSession, BytesBetweenDeliveriesEndTheConnection) {
  ClientDriver driver = greeted({"PIPELINING"});
  driver.on_bytes("4");
  EXPECT_EQ(driver.session.want(), Want::close);
  EXPECT_EQ(driver.session.connection(), ConnectionVerdict::closing);
}

TEST(ClientSession, RepliesOutstandingAreBounded) {
  ClientDriver driver = greeted({"PIPELINING"});
  std::vector<std::string> many;
  for (int i = 0; i < 500; ++i) many.push_back("user" + std::to_string(i) + "@example.net");
  const Message message = message_of("Subject: x\r\n\r\n", many);
  driver.begin(message);
  std::size_t replied = 0;
  const auto commands = [&] {
    return static_cast<std::size_t>(std::count(driver.wire.begin(), driver.wire.end(), '\n'));
  };
  EXPECT_EQ(commands(), ClientSession::replies_outstanding_max);
  while (replied < 501) {
    ASSERT_LE(commands() - replied, ClientSession::replies_outstanding_max);
    driver.on_bytes(replied % 10 == 9 ? "550 5.1.1 no\r\n" : "250 ok\r\n");
    ++replied;
  }
  driver.on_bytes("354 go\r\n");
  driver.on_bytes("250 2.0.0 queued\r\n");
  ASSERT_EQ(driver.results.size(), 1U);
  std::size_t failed = 0;
  for (std::size_t i = 0; i < 500; ++i) {
    const bool refused = (i + 1) % 10 == 9;
    failed += refused ? 1 : 0;
    EXPECT_EQ(text_of(driver.results[0].recipients[i]), refused ? "failed 550 5.1.1" : "relayed 250 2.0.0");
  }
  EXPECT_EQ(failed, 50U);
}

TEST(ClientSession, AFullGroupOfRecipientsRefusedAtMailSendsNoMore) {
  ClientDriver driver = greeted({"PIPELINING"});
  const Message message = message_of("Subject: x\r\n\r\n", std::vector<std::string>(200, "b@example.net"));
  driver.begin(message);
  driver.on_bytes("550 5.7.1 not you\r\n");
  for (std::size_t i = 1; i < ClientSession::replies_outstanding_max; ++i) driver.on_bytes("503 no\r\n");
  ASSERT_EQ(driver.results.size(), 1U);
  EXPECT_EQ(text_of(driver.results[0].recipients[199]), "failed 550 5.7.1");
  EXPECT_EQ(driver.session.want(), Want::delivery);
}

TEST(ClientSession, LargeBdatContentWaitsForAnAcceptedRecipient) {
  ClientOptions options = default_options();
  options.pipelined_content_bytes_max = 10;
  ClientDriver driver = greeted({"PIPELINING", "CHUNKING"}, options);
  const Message message = message_of("Subject: long enough\r\n\r\n");
  driver.begin(message);
  EXPECT_EQ(driver.wire.find("BDAT"), std::string::npos);
  driver.on_bytes("250 ok\r\n");
  EXPECT_EQ(driver.wire.find("BDAT"), std::string::npos);
  driver.on_bytes("250 ok\r\n");
  EXPECT_NE(driver.wire.find("BDAT 24 LAST\r\nSubject"), std::string::npos);
  driver.on_bytes("250 ok\r\n");
  EXPECT_EQ(text_of(driver.results.at(0).recipients.at(0)), "relayed 250 -");
}

TEST(ClientSession, PathsThatAreMoreThanPathsAreNeverSent) {
  for (const std::string_view path :
       {"b@example.net>\r\nRCPT TO:<c@example.net"sv, "b\r@example.net"sv, "b\n@example.net"sv,
        "b@example.net> SIZE=1"sv, "b@ex\0ample.net"sv, "b c@example.net"sv, ""sv, "b\x7f@x.net"sv}) {
    ClientDriver driver = greeted({"PIPELINING"});
    const Message message = message_of("Subject: x\r\n\r\n", {std::string(path), "good@example.net"});
    driver.begin(message);
    EXPECT_EQ(driver.wire, "MAIL FROM:<a@example.test>\r\nRCPT TO:<good@example.net>\r\nDATA\r\n");
    driver.on_bytes("250 ok\r\n250 ok\r\n354 go\r\n");
    driver.on_bytes("250 ok\r\n");
    EXPECT_EQ(text_of(driver.results.at(0).recipients.at(0)), "failed 0 5.1.3");
    EXPECT_EQ(text_of(driver.results.at(0).recipients.at(1)), "relayed 250 -");

    if (path.empty()) continue;
    ClientDriver from = greeted({"PIPELINING"});
    Message bad = message_of("Subject: x\r\n\r\n");
    bad.reverse_path = std::string(path);
    from.begin(bad);
    EXPECT_EQ(from.wire, "");
    EXPECT_EQ(text_of(from.results.at(0).recipients.at(0)), "failed 0 5.1.7");
    EXPECT_EQ(from.session.want(), Want::delivery);
  }
}

TEST(ClientSession, ContentWithBareLineEndsGoesOnlyWhereBinaryMimeIsOffered) {
  const Message binary = message_of("Subject: x\r\n\r\na\nb\r", {"b@example.net"}, mail::ContentForm::binary);
  for (const std::vector<std::string>& extensions :
       {std::vector<std::string>{}, {"CHUNKING", "8BITMIME"}, {"BINARYMIME"}}) {
    ClientDriver driver = greeted(extensions);
    driver.begin(binary);
    EXPECT_EQ(driver.wire, "");
    EXPECT_EQ(text_of(driver.results.at(0)), "lacks reusable");
    EXPECT_EQ(text_of(driver.results.at(0).recipients.at(0)), "failed 0 5.6.3");
  }
  // Text that was declared binary travels as text where it must; a last line without its end is none.
  Message text = message_of("Subject: x\r\n\r\nhello\r\n", {"b@example.net"}, mail::ContentForm::binary);
  text.body = mail::BodyType::binary_mime;
  EXPECT_FALSE(mail::needs_binary_mime(text.facts));
  EXPECT_TRUE(mail::needs_binary_mime(testing::reference_facts("Subject: x\r\n\r\nhello", mail::ContentForm::binary)));
  EXPECT_FALSE(mail::needs_binary_mime(testing::reference_facts("Subject: x\r\n\r\nhello", mail::ContentForm::plain)));
  ClientDriver plain = greeted({"PIPELINING"});
  plain.begin(text);
  EXPECT_EQ(plain.wire.find("BODY="), std::string::npos);
  ClientDriver able = greeted({"PIPELINING", "CHUNKING", "BINARYMIME"});
  able.begin(text);
  EXPECT_NE(able.wire.find("BODY=BINARYMIME\r\n"), std::string::npos);

  ClientDriver driver = greeted({"PIPELINING", "CHUNKING", "BINARYMIME"});
  driver.begin(binary);
  EXPECT_NE(driver.wire.find("BODY=BINARYMIME\r\n"), std::string::npos);
  EXPECT_NE(driver.wire.find("BDAT 18 LAST\r\nSubject: x\r\n\r\na\nb\r"), std::string::npos);
}

TEST(ClientSession, ExtensionsAreReadFromTheEhloReply) {
  const ClientDriver driver =
      greeted({"pipelining", "SIZE 52428800", "LIMITS MAILMAX=20 RCPTMAX=50 RCPTDOMAINMAX=1 X=y", "8BITMIME",
               "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "AUTH=LOGIN", "STARTTLS"});
  const PeerExtensions& extensions = driver.session.extensions();
  EXPECT_TRUE(extensions.esmtp && extensions.pipelining && extensions.size && extensions.eight_bit_mime &&
              extensions.smtp_utf8 && extensions.dsn && extensions.enhanced_status_codes && extensions.starttls);
  EXPECT_FALSE(extensions.chunking || extensions.binary_mime || extensions.require_tls);
  EXPECT_EQ(extensions.size_max, 52428800U);
  EXPECT_EQ(extensions.mail_max, 20U);
  EXPECT_EQ(extensions.rcpt_max, 50U);
  EXPECT_EQ(extensions.domain_max, 1U);
  EXPECT_EQ(driver.session.recipients_max(), 50U);
}

TEST(ClientSession, DeliversWithoutAllocatingOnceWarm) {
  if (!allocations_are_counted()) GTEST_SKIP() << "the sanitizer has the allocator";
  ClientSession session(default_options(), start);
  const auto take_output = [&session] { session.on_output_taken(session.output().size()); };
  const auto answer = [&](std::string_view reply) {
    session.on_bytes(as_bytes(reply), start);
    take_output();
  };
  answer("220 mx\r\n");
  answer("250-mx\r\n250-CHUNKING\r\n250 PIPELINING\r\n");
  const std::string_view paths[] = {"recipient-one@example.net", "recipient-two@example.net"};
  DeliveryRequest request{.reverse_path = "sender@example.test", .forward_paths = paths};
  request.content.size = 1024;
  request.content.ends_with_crlf = true;
  std::size_t before = 0;
  for (int round = 0; round < 10; ++round) {
    if (round == 2) before = allocations_so_far();
    session.begin(request, start);
    take_output();
    session.on_content_sent(start);
    answer("250 2.1.0 Sender ok, go on with the recipients\r\n250 2.1.5 ok\r\n250 2.1.5 ok\r\n");
    answer("250 2.0.0 Ok: queued as 0123456789ABC\r\n");
    const DeliveryResult result = session.take_result();
    EXPECT_EQ(result.recipients[1].outcome, Outcome::relayed);
  }
  EXPECT_EQ(allocations_so_far() - before, 0U);
}

TEST(ClientSession, ANewConnectionKnowsNothingOfTheOldOne) {
  ClientDriver driver = greeted({"PIPELINING", "LIMITS RCPTMAX=1"});
  driver.session.on_connection_lost(driver.now());
  driver.session.reset(driver.now());
  EXPECT_EQ(driver.session.want(), Want::bytes);
  EXPECT_FALSE(driver.session.greeted());
  driver.on_bytes("220 mx\r\n");
  driver.on_bytes("250 mx\r\n");
  EXPECT_FALSE(driver.session.extensions().pipelining);
  EXPECT_EQ(driver.session.recipients_max(), mail::Envelope::recipients_max);
  EXPECT_EQ(driver.session.failure().code, 0);
}

}  // namespace
}  // namespace postern::smtp
