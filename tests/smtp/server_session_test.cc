// What dialogues cannot show: verdicts' views, pieces of content, deadlines, allocation. The dialogues themselves are
// in transcripts/server.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <postern/base/bytes.h>
#include <postern/base/time.h>
#include <postern/mail/content.h>
#include <postern/mail/envelope.h>
#include <postern/mail/queue_id.h>
#include <postern/smtp/server_options.h>
#include <postern/smtp/server_session.h>

#include "tests/smtp/allocation_count.h"
#include "tests/smtp/server_driver.h"

namespace postern::smtp {
namespace {

using std::chrono::minutes;
using std::chrono::seconds;

std::shared_ptr<ServerOptions> test_options() {
  auto options = std::make_shared<ServerOptions>();
  options->hostname = "mx.example.test";
  return options;
}

ServerFacts test_facts() {
  return {"192.0.2.1", true};
}

// Sends `text` with every verdict answered and every reply reported sent before, as a patient client does.
std::string say(ServerDriver& driver, std::string_view text) {
  driver.report_sent();
  driver.feed(text);
  return driver.take_received();
}

TEST(ServerSessionTest, VerdictsSeeWhatTheyJudge) {
  ServerSession session(test_options(), test_facts(), Instant{});
  EXPECT_EQ(session.wait(), Wait::connect_verdict);
  EXPECT_EQ(session.facts().peer_address, "192.0.2.1");
  EXPECT_TRUE(session.output().empty());
  const auto pass_on = [&] {
    session.on_output_taken(session.output().size());
    session.on_output_sent(session.output_total());
  };
  session.on_connect_verdict(Verdict::accept());
  pass_on();
  EXPECT_EQ(session.on_bytes(as_bytes("EHLO one.example\r\n"), Instant{}), 18u);
  EXPECT_EQ(session.wait(), Wait::hello_verdict);
  EXPECT_EQ(session.hello_name(), "one.example");
  session.on_hello_verdict(Verdict::accept());
  pass_on();
  const std::string_view group =
      "MAIL FROM:<a@example.org> SIZE=7 BODY=8BITMIME\r\nRCPT TO:<b@example.test>\r\nDATA\r\n";
  std::size_t at = session.on_bytes(as_bytes(group), Instant{});
  EXPECT_EQ(at, group.find("RCPT"));
  EXPECT_EQ(session.wait(), Wait::mail_verdict);
  ASSERT_NE(session.envelope(), nullptr);
  EXPECT_EQ(session.envelope()->reverse_path().domain(), "example.org");
  EXPECT_EQ(session.envelope()->head.declared_size, 7u);
  EXPECT_EQ(session.envelope()->head.body, mail::BodyType::eight_bit_mime);
  EXPECT_EQ(session.envelope()->head.protocol, mail::Protocol::esmtp);
  session.on_mail_verdict(Verdict::accept());
  at += session.on_bytes(as_bytes(group.substr(at)), Instant{});
  EXPECT_EQ(session.wait(), Wait::recipient_verdict);
  EXPECT_EQ(session.recipient().forward_path.text, "b@example.test");
  EXPECT_EQ(session.recipient().forward_path.domain(), "example.test");
  session.on_recipient_verdict(Verdict::accept());
  at += session.on_bytes(as_bytes(group.substr(at)), Instant{});
  EXPECT_EQ(at, group.size());
  EXPECT_EQ(session.wait(), Wait::data_verdict);
  EXPECT_EQ(session.envelope()->recipient_count(), 1u);
  session.on_data_verdict(Verdict::accept());
  EXPECT_EQ(session.wait(), Wait::bytes);
  pass_on();
  EXPECT_EQ(session.on_bytes(as_bytes(".\r\n"), Instant{}), 3u);
  EXPECT_EQ(session.wait(), Wait::content_verdict);
  mail::Envelope envelope;
  const FinishedTransaction finished = session.take_transaction(envelope);
  EXPECT_EQ(finished.facts.size, 0u);
  EXPECT_EQ(finished.facts.form, mail::ContentForm::dot_stuffed);
  EXPECT_EQ(envelope.recipient(0).forward_path.text, "b@example.test");
  EXPECT_EQ(session.wait(), Wait::bytes);
  EXPECT_EQ(session.open_slots(), 1u);
  EXPECT_TRUE(session.output().empty());
  session.on_content_durable(finished.slot, mail::QueueId::from_parts(1, 1, 1));
  EXPECT_TRUE(as_text(session.output()).starts_with("250 2.0.0 Ok: queued as "));
  EXPECT_EQ(session.open_slots(), 0u);
}

TEST(ServerSessionTest, RepliesToAGroupMayWaitForItsContentsReplyAndNoOthers) {
  ServerSession session(test_options(), test_facts(), Instant{});
  const auto take_all = [&] {
    session.on_output_taken(session.output().size());
    session.on_output_sent(session.output_total());
  };
  // All verdicts are positive; the content is complete in the end.
  const auto feed = [&](std::string_view text) {
    for (;;) {
      if (session.wait() == Wait::mail_verdict) {
        session.on_mail_verdict(Verdict::accept());
      } else if (session.wait() == Wait::recipient_verdict) {
        session.on_recipient_verdict(Verdict::accept());
      } else if (session.wait() == Wait::data_verdict) {
        session.on_data_verdict(Verdict::accept());
      } else if (text.empty() || session.wait() != Wait::bytes) {
        return;
      } else {
        text.remove_prefix(session.on_bytes(as_bytes(text), Instant{}));
      }
    }
  };
  constexpr std::string_view mail = "MAIL FROM:<a@example.org>\r\n", recipient = "RCPT TO:<b@example.test>\r\n",
                             content = "BDAT 3 LAST\r\nx\r\n";
  const std::string group = std::string(mail) + std::string(recipient) + std::string(content);
  mail::Envelope envelope;
  const auto finish = [&] {
    EXPECT_EQ(session.wait(), Wait::content_verdict);
    return session.take_transaction(envelope).slot;
  };
  const auto id = mail::QueueId::from_parts(1, 1, 1);

  session.on_connect_verdict(Verdict::accept());
  take_all();
  (void)session.on_bytes(as_bytes("EHLO client.example\r\n"), Instant{});
  session.on_hello_verdict(Verdict::accept());
  take_all();
  feed(group);
  EXPECT_FALSE(session.output_may_gather()) << "nothing is to come";
  const ReplySlot first = finish();
  EXPECT_TRUE(session.output_may_gather());
  feed(group);
  const ReplySlot second = finish();
  EXPECT_TRUE(session.output_may_gather()) << "what it has answers the first";
  session.on_content_durable(first, id);
  EXPECT_FALSE(session.output_may_gather()) << "a content's reply is among it";
  take_all();
  session.on_content_durable(second, id);
  EXPECT_FALSE(session.output_may_gather());
  take_all();

  feed(std::string(mail) + "RSET\r\n" + group);
  const ReplySlot third = finish();
  EXPECT_TRUE(session.output_may_gather());
  session.on_content_durable(third, id);
  take_all();
  feed("WHAT\r\n" + group);
  const ReplySlot fourth = finish();
  EXPECT_FALSE(session.output_may_gather()) << "unknown commands are answered at once";
  take_all();
  session.on_content_durable(fourth, id);
  take_all();
}

TEST(ServerSessionTest, RefusedConnectIsToldAndClosed) {
  ServerSession session(test_options(), test_facts(), Instant{});
  session.on_connect_verdict(Verdict::refuse({554, {5, 7, 1}, "Not you"}));
  EXPECT_EQ(as_text(session.output()), "554 5.7.1 Not you\r\n");
  EXPECT_EQ(session.wait(), Wait::close);
  EXPECT_EQ(session.next_deadline(), never);
}

TEST(ServerSessionTest, ListenerWithoutEsmtpKnowsNoEhlo) {
  ServerDriver driver(test_options(), {"192.0.2.1", false});
  (void)driver.take_received();
  EXPECT_EQ(say(driver, "EHLO x\r\n"), "500 5.5.2 Command not recognized\r\n");
  EXPECT_EQ(say(driver, "HELO x\r\n"), "250 mx.example.test\r\n");
}

TEST(ServerSessionTest, EarlyInputIsSeenWhileAVerdictIsDue) {
  ServerSession session(test_options(), test_facts(), Instant{});
  EXPECT_EQ(session.on_bytes(as_bytes("EHLO x\r\n"), Instant{}), 0u);
  session.on_connect_verdict(Verdict::accept());
  // Even when the driver reports the greeting before it shows the input again.
  EXPECT_TRUE(as_text(session.output()).ends_with("554 5.5.0 Input came before its turn, closing connection\r\n"));
  EXPECT_EQ(session.wait(), Wait::close);
}

TEST(ServerSessionTest, InputAfterTheReplyWasSentIsNotEarly) {
  ServerDriver driver(test_options(), test_facts());
  EXPECT_TRUE(say(driver, "EHLO x\r\n").starts_with("220 "));
  EXPECT_EQ(say(driver, "NOOP\r\n"), "250 2.0.0 Ok\r\n");
  EXPECT_EQ(say(driver, "NOOP\r\n"), "250 2.0.0 Ok\r\n");
}

TEST(ServerSessionTest, ContentInTheMiddleIsOnePiece) {
  ServerDriver driver(test_options(), test_facts());
  (void)say(driver, "EHLO x\r\n");
  (void)say(driver, "MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n");
  driver.report_sent();
  ServerSession& session = driver.session();
  std::string text;
  while (text.size() < 16 * 1024) text += "..A line of text that begins with dots\r\n";
  text.resize(16 * 1024);
  EXPECT_EQ(session.on_bytes(as_bytes(text), Instant{}), text.size());
  const Bytes piece = session.take_content();
  EXPECT_EQ(piece.data(), as_bytes(text).data()) << "it lies in the driver's buffer";
  EXPECT_EQ(piece.size(), text.size());
  EXPECT_TRUE(session.take_content().empty());
}

TEST(ServerSessionTest, DroppedContentIsToldOnce) {
  ServerDriver driver(test_options(), test_facts());
  (void)say(driver, "EHLO x\r\n");
  (void)say(driver, "MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nBDAT 3\r\nabc");
  driver.report_sent();
  ServerSession& session = driver.session();
  EXPECT_FALSE(session.take_content_dropped());
  EXPECT_EQ(session.on_bytes(as_bytes("RSET\r\nNOOP\r\n"), Instant{}), 6u) << "stops where content was dropped";
  EXPECT_TRUE(session.take_content_dropped());
  EXPECT_FALSE(session.take_content_dropped());
}

TEST(ServerSessionTest, RefusedContentIsNotHandedOutAnyMore) {
  ServerDriver driver(test_options(), test_facts());
  (void)say(driver, "EHLO x\r\n");
  (void)say(driver, "MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nDATA\r\n");
  driver.report_sent();
  ServerSession& session = driver.session();
  EXPECT_EQ(session.on_bytes(as_bytes("good\r\n"), Instant{}), 6u);
  EXPECT_EQ(session.take_content().size(), 6u);
  EXPECT_EQ(session.on_bytes(as_bytes("bad\n"), Instant{}), 4u);
  EXPECT_TRUE(session.take_content_dropped());
  EXPECT_TRUE(session.take_content().empty());
  EXPECT_EQ(session.on_bytes(as_bytes("good again\r\n"), Instant{}), 12u);
  EXPECT_TRUE(session.take_content().empty());
  EXPECT_FALSE(session.take_content_dropped());
}

TEST(ServerSessionTest, OutputIsBounded) {
  auto options = test_options();
  options->junk_max = UINT32_MAX;
  ServerSession session(options, test_facts(), Instant{});
  session.on_connect_verdict(Verdict::accept());
  session.on_output_taken(session.output().size());
  session.on_output_sent(session.output_total());
  std::string helps;
  for (int i = 0; i < 1000; ++i) helps += "HELP\r\n";
  std::size_t used = session.on_bytes(as_bytes(helps), Instant{});
  EXPECT_LT(used, helps.size());
  EXPECT_EQ(session.wait(), Wait::output);
  EXPECT_LE(session.output().size(), output_bytes_max + 512);
  EXPECT_EQ(session.next_deadline(), Instant{} + options->command_idle) << "its time runs: it is the one who waits";
  session.on_output_taken(session.output().size() / 2);
  EXPECT_EQ(session.wait(), Wait::bytes);
}

TEST(ServerSessionTest, RepliesBehindASlotAreBounded) {
  auto options = test_options();
  options->junk_max = UINT32_MAX;
  ServerDriver driver(options, test_facts());
  driver.hold_slots();
  (void)say(driver, "EHLO x\r\n");
  (void)say(driver, "MAIL FROM:<>\r\nRCPT TO:<a@example.test>\r\nBDAT 1 LAST\r\nx");
  std::string resets;
  for (int i = 0; i < 3000; ++i) resets += "RSET\r\n";
  EXPECT_EQ(say(driver, resets), "");
  EXPECT_EQ(driver.session().wait(), Wait::reply_slot);
  driver.answer_durable(0);
  const std::string received = driver.take_received();
  EXPECT_EQ(received.size(), std::string_view("250 2.0.0 Ok: queued as 0123456789ABC\r\n").size() +
                                 3000 * std::string_view("250 2.0.0 Ok\r\n").size());
}

TEST(ServerSessionTest, DeadlinesFollowTheClientsTurn) {
  auto options = test_options();
  ServerSession session(options, test_facts(), Instant{});
  EXPECT_EQ(session.next_deadline(), never) << "a verdict is due";
  session.on_connect_verdict(Verdict::accept(), Instant{} + seconds(30));
  EXPECT_EQ(session.next_deadline(), Instant{} + seconds(30) + minutes(5));
  session.on_output_taken(session.output().size());
  session.on_output_sent(session.output_total());
  (void)session.on_bytes(as_bytes("EHLO x"), Instant{} + seconds(60));
  EXPECT_EQ(session.next_deadline(), Instant{} + seconds(30) + minutes(5)) << "half a command is none";
  (void)session.on_bytes(as_bytes("\r\n"), Instant{} + seconds(61));
  EXPECT_EQ(session.next_deadline(), never);
  session.on_hello_verdict(Verdict::accept(), Instant{} + seconds(62));
  EXPECT_EQ(session.next_deadline(), Instant{} + seconds(62) + minutes(5));
  session.on_deadline(Instant{} + seconds(100));
  EXPECT_EQ(session.wait(), Wait::bytes) << "not yet";
  session.on_deadline(Instant{} + seconds(62) + minutes(5));
  EXPECT_EQ(session.wait(), Wait::close);
}

TEST(ServerSessionTest, NoSessionLastsForEver) {
  auto options = test_options();
  options->session_max = minutes(10);
  ServerDriver driver(options, test_facts());
  (void)driver.take_received();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(say(driver, "NOOP\r\n"), "250 2.0.0 Ok\r\n");
    driver.advance(minutes(3));
  }
  EXPECT_EQ(say(driver, "NOOP\r\n"), "250 2.0.0 Ok\r\n");
  driver.advance(minutes(1));
  EXPECT_EQ(driver.take_received(), "421 4.4.2 mx.example.test Timeout, closing connection\r\n");
}

TEST(ServerSessionTest, FarewellsNameTheirReason) {
  EXPECT_TRUE(
      farewell_line(*test_options(), Farewell::connections_exhausted).starts_with("421 4.3.2 mx.example.test "));
  EXPECT_TRUE(farewell_line(*test_options(), Farewell::too_many_from_peer).starts_with("421 4.7.0 mx.example.test "));
  EXPECT_TRUE(farewell_line(*test_options(), Farewell::shutting_down).starts_with("421 4.3.2 mx.example.test "));
  EXPECT_TRUE(farewell_line(*test_options(), Farewell::too_many_from_peer).ends_with("\r\n"));
}

TEST(ServerSessionTest, SteadyStateAllocatesNothing) {
  if (!allocations_are_counted()) GTEST_SKIP() << "a sanitizer owns the allocator";
  ServerSession session(test_options(), test_facts(), Instant{});
  mail::Envelope envelope;
  const std::string_view dialogue =
      "MAIL FROM:<somebody.with.a.name@sender.example.org> SIZE=1000\r\n"
      "RCPT TO:<first.recipient@receiver.example.test>\r\nRCPT TO:<second.recipient@receiver.example.test>\r\nDATA\r\n";
  const std::string content(1000, 'x');
  const auto run = [&](std::string_view text) {
    while (true) {
      switch (session.wait()) {
        case Wait::connect_verdict:
          session.on_connect_verdict(Verdict::accept());
          break;
        case Wait::hello_verdict:
          session.on_hello_verdict(Verdict::accept());
          break;
        case Wait::mail_verdict:
          session.on_mail_verdict(Verdict::accept());
          break;
        case Wait::recipient_verdict:
          session.on_recipient_verdict(Verdict::accept());
          break;
        case Wait::data_verdict:
          session.on_data_verdict(Verdict::accept());
          break;
        case Wait::content_verdict:
          session.on_content_durable(session.take_transaction(envelope).slot, mail::QueueId::from_parts(1, 1, 1));
          break;
        default:
          if (text.empty() || session.wait() != Wait::bytes) {
            session.on_output_taken(session.output().size());
            session.on_output_sent(session.output_total());
            return;
          }
          text.remove_prefix(session.on_bytes(as_bytes(text), Instant{}));
          (void)session.take_content();
          break;
      }
    }
  };
  run({});
  run("EHLO client.example\r\n");
  std::size_t allocations = 0;
  for (int i = 0; i < 20; ++i) {
    const std::size_t before = allocations_so_far();
    run(dialogue.substr(0, 30));  // a command in two reads
    run(dialogue.substr(30));
    run(content);
    run("\r\n.\r\n");
    run("EHLO client.example\r\n");
    if (i >= 10) allocations += allocations_so_far() - before;
  }
  EXPECT_EQ(session.wait(), Wait::bytes);
  EXPECT_EQ(envelope.recipient_count(), 2u);
  EXPECT_EQ(allocations, 0u);
  EXPECT_LE(sizeof(ServerSession), 2048u);
}

}  // namespace
}  // namespace postern::smtp
