// Whatever a peer says: does each recipient get exactly one outcome per delivery, does nothing but well-formed commands
// and announced content go out, and is it the same whether the peer's lines come whole or byte by byte?
//
// Input: options and content (1 byte), a mode or none (0x03: LMTP, 0x04: recipients are only asked for, 0x05: both),
// the peer's bytes. In the peer's bytes 0x01 loses the connection and 0x02 lets the deadline pass; where a handshake or
// PBKDF2 is due, 0x02 lets it fail, and all else finds it complete. With both bits of TLS there are credentials, which
// nobody but who knows the password can take by SCRAM. A line's bytes are split, lines are not joined: whether a reply
// came before its command was handed over is a question of time, and equal splits must ask it equally.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include <postern/base/check.h>
#include <postern/smtp/client_session.h>

#include "tests/smtp/client_driver.h"
#include "tests/smtp/content_reference.h"

namespace {

using namespace postern;
using smtp::ClientSession;
using smtp::testing::ClientDriver;

constexpr std::size_t deliveries_max = 4;

// What was said and what came of it.
std::string play(std::string_view script, std::uint8_t bits, bool byte_by_byte) {
  const char mode = !script.empty() && script[0] >= '\x03' && script[0] <= '\x05' ? script[0] : '\0';
  if (mode != '\0') script.remove_prefix(1);
  const smtp::Dialect dialect = mode == '\x03' || mode == '\x05' ? smtp::Dialect::lmtp : smtp::Dialect::smtp;
  smtp::ClientOptions options{.ehlo_name = "relay.example.test"};
  options.use_pipelining = (bits & 1) != 0;
  options.use_chunking = (bits & 2) != 0;
  if ((bits & 4) != 0) options.pipelined_content_bytes_max = 0;
  if ((bits & 8) != 0) options.without_eight_bit_mime = smtp::WithoutEightBitMime::fail;

  smtp::testing::Message message;
  message.reverse_path = "a@example.test";
  message.forward_paths = {"b@example.net", "c@example.net", "not a path"};
  message.only_ask = mode == '\x04' || mode == '\x05';
  message.added = "Received: x\r\n";
  message.content = (bits & 16) != 0 ? "Subject: x\r\n\r\n.a\r\n" : "Subject: \xc3\xbc\r\n\r\na";
  message.facts = smtp::testing::reference_facts(
      message.content, (bits & 16) != 0 ? mail::ContentForm::dot_stuffed : mail::ContentForm::plain);

  const smtp::StartTls start_tls = (bits & 128) != 0  ? smtp::StartTls::always
                                   : (bits & 64) != 0 ? smtp::StartTls::when_offered
                                                      : smtp::StartTls::never;
  static const sasl::Credentials credentials = [] {
    sasl::Credentials made{.user = "user", .password = sasl::Secret("pencil")};
    for (const sasl::Mechanism mechanism : sasl::all_mechanisms) made.mechanisms.add(mechanism);
    return made;
  }();
  const bool authenticates = (bits & 192) == 192;
  ClientDriver driver(options, Instant{}, dialect, start_tls, authenticates ? &credentials : nullptr);
  driver.hold_content = (bits & 32) != 0;
  std::size_t begun = 0;
  std::string piece;
  const auto flush = [&] {
    if (!piece.empty()) driver.on_bytes(piece);
    piece.clear();
  };
  bool line_start = true;
  for (const char c : script) {
    if (line_start && driver.session.want() == ClientSession::Want::handshake) {
      if (c == '\x02') {
        driver.session.on_tls_failed("no", driver.now());
      } else {
        driver.session.on_secured(driver.now());
      }
      driver.turn();
    }
    if (line_start && driver.session.want() == ClientSession::Want::channel) {
      POSTERN_CHECK(driver.wire.find("STARTTLS") != std::string::npos, "AUTH comes behind TLS");
      driver.session.on_channel({.nonce = "clientNONCE", .binding_name = "tls-exporter", .binding = "channel"},
                                driver.now());
      driver.turn();
    } else if (line_start && driver.session.want() == ClientSession::Want::salted_password) {
      if (c == '\x02') {
        driver.session.on_salted_password_failed(driver.now());
      } else {
        driver.session.on_salted_password(sasl::sha256("a secret"), driver.now());
      }
      driver.turn();
    }
    if (line_start && driver.session.want() == ClientSession::Want::delivery && begun < deliveries_max) {
      const auto by = driver.session.authenticated_by();
      POSTERN_CHECK(by.has_value() == authenticates, "no mail without AUTH where there are credentials");
      POSTERN_CHECK(by != sasl::Mechanism::scram_sha_256 && by != sasl::Mechanism::scram_sha_256_plus);
      ++begun;
      driver.begin(message);
    }
    if (c == '\x01' || c == '\x02') {
      flush();
      if (c == '\x01') driver.session.on_connection_lost(driver.now());
      if (c == '\x02' && driver.session.next_deadline() != never)
        driver.session.on_deadline(driver.session.next_deadline());
      driver.turn();
    } else {
      piece += c;
      if (byte_by_byte || c == '\n') flush();
    }
    line_start = c == '\n' || c == '\x01' || c == '\x02';
    POSTERN_CHECK((driver.session.next_deadline() == never) ==
                  (driver.session.want() == ClientSession::Want::delivery ||
                   driver.session.want() == ClientSession::Want::handshake ||
                   driver.session.want() == ClientSession::Want::channel ||
                   driver.session.want() == ClientSession::Want::salted_password ||
                   driver.session.want() == ClientSession::Want::close));
  }
  flush();
  driver.session.on_connection_lost(driver.now());
  driver.turn();

  POSTERN_CHECK(driver.session.want() == ClientSession::Want::close);
  POSTERN_CHECK(driver.results.size() == begun);
  POSTERN_CHECK(driver.sent_as_announced);
  if (message.only_ask) POSTERN_CHECK(driver.wire.find("Subject") == std::string::npos, "nothing is delivered");
  std::string seen = driver.wire;
  for (const auto& result : driver.results) {
    POSTERN_CHECK(result.recipients.size() == message.forward_paths.size());
    seen += std::to_string(static_cast<int>(result.disposition)) + (result.reply_unknown ? "u" : "k");
    for (const auto& recipient : result.recipients) {
      POSTERN_CHECK(recipient.outcome != mail::Outcome::relayed || recipient.reply.code / 100 == 2);
      POSTERN_CHECK(recipient.outcome != mail::Outcome::failed || recipient.reply.permanent() ||
                    recipient.reply.status.class_digit == 5);
      seen += to_text(recipient.outcome);
      seen += recipient.reply.to_log_text() + "\n";
    }
    POSTERN_CHECK(result.recipients[2].outcome == mail::Outcome::failed);
  }
  for (std::size_t i = 0; i < driver.wire.size(); ++i) {
    if (driver.wire[i] == '\n') POSTERN_CHECK(i > 0 && driver.wire[i - 1] == '\r', "bare LF");
    if (driver.wire[i] == '\r') POSTERN_CHECK(i + 1 < driver.wire.size() && driver.wire[i + 1] == '\n', "bare CR");
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  const std::string_view script(reinterpret_cast<const char*>(data) + 1, size - 1);
  POSTERN_CHECK(play(script, data[0], false) == play(script, data[0], true));
  return 0;
}
