// What does the dialogue cost? CPU per command, per transaction with 1 KiB of content, and per byte of DATA, with the
// driver's verdicts given at once and nothing kept.
// Expected: a command ≤ 150 ns, a whole transaction of 1 KiB (MAIL, RCPT, DATA, content) ≤ 1.5 µs, DATA in 16 KiB reads
// at the scanner's speed. Surroundings: one thread, everything in the first cache levels.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <benchmark/benchmark.h>

#include <postern/base/bytes.h>
#include <postern/base/time.h>
#include <postern/mail/envelope.h>
#include <postern/mail/queue_id.h>
#include <postern/smtp/command.h>
#include <postern/smtp/path.h>
#include <postern/smtp/received_field.h>
#include <postern/smtp/server_options.h>
#include <postern/smtp/server_session.h>

namespace postern::smtp {
namespace {

class Dialogue {
 public:
  Dialogue() : session_(options(), {"192.0.2.1", true}, Instant{}) {
    say({});
    say("EHLO client.example\r\n");
  }

  // One write of the client, then all replies leave.
  void say(std::string_view text) {
    while (true) {
      switch (session_.wait()) {
        case Wait::connect_verdict:
          session_.on_connect_verdict(Verdict::accept());
          break;
        case Wait::hello_verdict:
          session_.on_hello_verdict(Verdict::accept());
          break;
        case Wait::mail_verdict:
          session_.on_mail_verdict(Verdict::accept());
          break;
        case Wait::recipient_verdict:
          session_.on_recipient_verdict(Verdict::accept());
          break;
        case Wait::data_verdict:
          session_.on_data_verdict(Verdict::accept());
          break;
        case Wait::content_verdict:
          session_.on_content_durable(session_.take_transaction(envelope_).slot, mail::QueueId::from_parts(1, 1, 1));
          break;
        case Wait::wake_verdict:  // not offered here, nor are the next three
        case Wait::auth_credentials:
        case Wait::auth_verdict:
        case Wait::identity_verdict:
        case Wait::bytes:
          if (!text.empty()) {
            text.remove_prefix(session_.on_bytes(as_bytes(text), Instant{}));
            benchmark::DoNotOptimize(session_.take_content());
            break;
          }
          [[fallthrough]];
        case Wait::tls_verdict:
        case Wait::tls:
        case Wait::reply_slot:
        case Wait::output:
        case Wait::close:
          session_.on_output_taken(session_.output().size());
          session_.on_output_sent(session_.output_total());
          return;
      }
    }
  }

  [[nodiscard]] bool open() const { return session_.wait() == Wait::bytes; }

 private:
  static std::shared_ptr<const ServerOptions> options() {
    auto options = std::make_shared<ServerOptions>();
    options->hostname = "mx.example.test";
    options->junk_max = UINT32_MAX;
    options->message_bytes_max = 0;
    return options;
  }

  ServerSession session_;
  mail::Envelope envelope_;
};

void command_noop(benchmark::State& state) {
  Dialogue dialogue;
  for (auto _ : state) dialogue.say("NOOP\r\n");
  if (!dialogue.open()) state.SkipWithError("closed");
}
BENCHMARK(command_noop);

void command_mail_and_rset(benchmark::State& state) {
  Dialogue dialogue;
  for (auto _ : state) dialogue.say("MAIL FROM:<somebody@sender.example.org> SIZE=1024\r\nRSET\r\n");
  if (!dialogue.open()) state.SkipWithError("closed");
}
BENCHMARK(command_mail_and_rset);

void parse_recipient(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(parse_recipient_arguments("TO:<somebody@receiver.example.org>", {}));
}
BENCHMARK(parse_recipient);

std::string text_of(std::size_t size) {
  std::string text;
  while (text.size() < size) text += "The quick brown fox jumps over the lazy dog, and over again, until dusk.\r\n";
  return text;
}

void transaction_1_kib(benchmark::State& state) {
  Dialogue dialogue;
  const std::string content = "Subject: x\r\n\r\n" + text_of(1010) + ".\r\n";
  for (auto _ : state) {
    dialogue.say("MAIL FROM:<somebody@sender.example.org> SIZE=1024\r\n");
    dialogue.say("RCPT TO:<somebody@receiver.example.test>\r\n");
    dialogue.say("DATA\r\n");
    dialogue.say(content);
  }
  if (!dialogue.open()) state.SkipWithError("closed");
}
BENCHMARK(transaction_1_kib);

void data_in_16_kib_reads(benchmark::State& state) {
  Dialogue dialogue;
  dialogue.say("MAIL FROM:<>\r\n");
  dialogue.say("RCPT TO:<somebody@receiver.example.test>\r\n");
  dialogue.say("DATA\r\n");
  dialogue.say("Subject: x\r\n\r\n");
  const std::string text = text_of(16 * 1024).substr(0, 16 * 1024);
  for (auto _ : state) dialogue.say(text);
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * text.size()));
}
BENCHMARK(data_in_16_kib_reads)->Iterations(20'000);

void received_field(benchmark::State& state) {
  ReceivedField field;
  field.hello_name = "client.example";
  field.peer_address_literal = "[192.0.2.1]";
  field.hostname = "mx.example.test";
  field.only_recipient = "somebody@receiver.example.test";
  std::string out;
  for (auto _ : state) {
    out.clear();
    append_received_field(out, field);
    benchmark::DoNotOptimize(out.data());
  }
}
BENCHMARK(received_field);

}  // namespace
}  // namespace postern::smtp
