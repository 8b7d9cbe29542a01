#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <postern/base/date.h>
#include <postern/dsn/composer.h>

namespace postern::dsn {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr WallTime arrival{std::chrono::seconds(1'795'300'000)};
constexpr WallTime now = arrival + std::chrono::hours(96);

std::uint16_t domain_offset_of(std::string_view path) {
  return static_cast<std::uint16_t>(path.empty() ? 0 : path.rfind('@') + 1);
}

struct Case {
  mail::Envelope envelope;
  Original original;
  std::vector<ReportedRecipient> failed;
  Options options{.hostname = "mx1.example.net"};
  std::uint64_t seed = 1;
  std::string text;  // what original.content is a view of

  explicit Case(std::string_view sender = "sender@example.org") {
    envelope.head.received_at = arrival;
    envelope.set_reverse_path(sender, domain_offset_of(sender));
    original.queue_id = mail::QueueId::from_parts(1, 2, 3);
    original.added_fields = "Received: from client by mx1.example.net with ESMTP id X; date\r\n";
    set_content("Subject: hello\r\nFrom: a@example.org\r\n\r\nBody line\r\n..stuffed\r\n");
  }
  void set_content(std::string_view content) {
    text = content;
    original.content = text;
    const std::size_t end = content.find("\r\n\r\n");
    original.facts.header_bytes = end == std::string_view::npos ? content.size() : end + 2;
    original.facts.size = content.size();
  }
  void add(std::string_view recipient, mail::Notify notify = {}, std::string_view orcpt = {}) {
    failed.push_back({.index = static_cast<std::uint16_t>(envelope.recipient_count()),
                      .reply = {.code = 550, .status = {5, 1, 1}, .text = "No such user"},
                      .remote_mta = "mx.example.test",
                      .last_attempt_at = now});
    envelope.add_recipient({.forward_path = {.text = recipient, .domain_offset = domain_offset_of(recipient)},
                            .notify = notify,
                            .original_recipient = orcpt});
  }
  std::optional<Notification> compose() {
    Random random(seed);
    return dsn::compose(envelope, original, failed, options, now, random);
  }
};

// What every notification must keep, whatever went into it.
void expect_well_formed(const Notification& dsn) {
  const std::string& content = dsn.content;
  EXPECT_TRUE(dsn.envelope.reverse_path().null());
  EXPECT_EQ(dsn.envelope.recipient_count(), 1u);
  EXPECT_TRUE(content.ends_with("--\r\n"));
  std::size_t longest = 0;
  bool dot = false;
  bool eight_bit = false;
  for (std::size_t start = 0; start < content.size();) {
    const std::size_t end = content.find("\r\n", start);
    ASSERT_NE(end, std::string::npos);
    const std::string_view line = std::string_view(content).substr(start, end - start);
    EXPECT_EQ(line.find_first_of(std::string_view("\r\n\0", 3)), std::string_view::npos) << "line at " << start;
    longest = std::max(longest, line.size());
    dot = dot || line.starts_with('.');
    for (const char c : line) eight_bit = eight_bit || static_cast<unsigned char>(c) >= 0x80;
    start = end + 2;
  }
  EXPECT_LE(longest, 998u);
  EXPECT_EQ(dsn.facts.form, mail::ContentForm::plain);
  EXPECT_EQ(dsn.facts.longest_line, longest);
  EXPECT_EQ(dsn.facts.line_starts_with_dot, dot);
  EXPECT_EQ(dsn.facts.has_eight_bit, eight_bit);
  EXPECT_EQ(dsn.facts.size, content.size());
  EXPECT_TRUE(dsn.facts.ends_with_crlf);
  EXPECT_EQ(content.substr(static_cast<std::size_t>(dsn.facts.header_bytes), 2), "\r\n");
  EXPECT_EQ(dsn.envelope.head.body == mail::BodyType::eight_bit_mime, eight_bit);
  // The boundary occurs three times as a delimiter, once to close and once in the header: nowhere else.
  const std::size_t at = content.find("boundary=\"") + 10;
  const std::string boundary = content.substr(at, content.find('"', at) - at);
  std::size_t count = 0;
  for (std::size_t i = content.find(boundary); i != std::string::npos; i = content.find(boundary, i + 1)) ++count;
  EXPECT_EQ(count, 5u);
}

TEST(Composer, SaysWhatRfc3464AsksFor) {
  Case c;
  c.add("user@example.test", {}, "rfc822;us+2Ber@example.test");
  c.envelope.set_dsn_envelope_id("id+2B1");
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_EQ(dsn->envelope.recipient(0).forward_path.text, "sender@example.org");
  EXPECT_EQ(dsn->envelope.recipient(0).forward_path.domain(), "example.org");
  EXPECT_THAT(dsn->content,
              AllOf(HasSubstr("From: Mail Delivery System <MAILER-DAEMON@mx1.example.net>\r\n"),
                    HasSubstr("\r\nTo: <sender@example.org>\r\n"), HasSubstr("\r\nAuto-Submitted: auto-replied\r\n"),
                    HasSubstr("multipart/report; report-type=delivery-status;"), HasSubstr("\r\nMessage-ID: <"),
                    HasSubstr("." + c.original.queue_id.to_string() + "@mx1.example.net>\r\n"), HasSubstr("\r\nDate: "),
                    HasSubstr("Reporting-MTA: dns; mx1.example.net\r\n"),
                    HasSubstr("X-Postern-Queue-ID: " + c.original.queue_id.to_string() + "\r\n")));
  EXPECT_THAT(dsn->content, HasSubstr("Original-Envelope-Id: id+1\r\n"));
  EXPECT_THAT(dsn->content, HasSubstr("\r\n\r\n"
                                      "Original-Recipient: rfc822; us+er@example.test\r\n"
                                      "Final-Recipient: rfc822; user@example.test\r\n"
                                      "Action: failed\r\n"
                                      "Status: 5.1.1\r\n"
                                      "Remote-MTA: dns; mx.example.test\r\n"
                                      "Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n"
                                      "Last-Attempt-Date: "));
}

TEST(Composer, NeverAboutANullReversePath) {
  Case c("");
  c.add("user@example.test");
  EXPECT_FALSE(c.compose());
}

TEST(Composer, RespectsNotify) {
  Case c;
  c.add("never@example.test", {mail::Notify::never});
  c.add("success@example.test", {mail::Notify::success | mail::Notify::delay});
  EXPECT_FALSE(c.compose());
  c.add("failure@example.test", {mail::Notify::failure | mail::Notify::delay});
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  EXPECT_THAT(dsn->content, AllOf(HasSubstr("failure@example.test"), Not(HasSubstr("never@example.test")),
                                  Not(HasSubstr("success@example.test"))));
}

TEST(Composer, TellsOfSuccessWhereItWasAskedFor) {
  Case c;
  c.envelope.head.dsn_return = mail::DsnReturn::full;
  c.add("quiet@example.test");
  c.add("relayed@example.test", {mail::Notify::success}, "rfc822;list@example.test");
  c.add("mailbox@example.test", {mail::Notify::success | mail::Notify::failure});
  for (ReportedRecipient& recipient : c.failed) {
    recipient.action = Action::relayed;
    recipient.reply = {.code = 250, .status = {2, 6, 0}, .text = "queued"};
  }
  c.failed[2].action = Action::delivered;
  c.failed[2].remote_mta = {};
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_THAT(dsn->content,
              AllOf(HasSubstr("Subject: Delivered mail: 2 of your recipients\r\n"),
                    HasSubstr("Original-Recipient: rfc822; list@example.test\r\n"
                              "Final-Recipient: rfc822; relayed@example.test\r\nAction: relayed\r\nStatus: 2.6.0\r\n"
                              "Remote-MTA: dns; mx.example.test\r\nDiagnostic-Code: smtp; 250 2.6.0 queued\r\n"),
                    HasSubstr("Final-Recipient: rfc822; mailbox@example.test\r\nAction: delivered\r\nStatus: 2.6.0\r\n"
                              "Diagnostic-Code"),
                    Not(HasSubstr("quiet@example.test")), Not(HasSubstr("could not be delivered"))));
  // Without a failure RET=FULL returns the header alone.
  EXPECT_THAT(dsn->content, AllOf(HasSubstr("Content-Type: text/rfc822-headers\r\n"), Not(HasSubstr("Body line"))));
}

TEST(Composer, TellsOfADelayUnlessNotifyLacksIt) {
  Case c;
  c.envelope.head.dsn_return = mail::DsnReturn::full;
  c.add("waits@example.test");
  c.add("asked@example.test", {mail::Notify::delay});
  c.add("lacks@example.test", {mail::Notify::failure | mail::Notify::success});
  c.add("never@example.test", {mail::Notify::never});
  for (ReportedRecipient& recipient : c.failed) {
    recipient.action = Action::delayed;
    recipient.reply = {.code = 450, .status = {4, 2, 2}, .text = "Mailbox full"};
    recipient.retried_until = arrival + std::chrono::hours(120);
  }
  c.failed[1].reply = {.code = 0, .status = {}, .text = ""};
  c.failed[1].remote_mta = {};
  c.failed[1].last_attempt_at = {};
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  const std::string until = "Will-Retry-Until: " + format_rfc5322_date(arrival + std::chrono::hours(120)) + "\r\n";
  EXPECT_THAT(
      dsn->content,
      AllOf(HasSubstr("Subject: Delayed mail: 2 of your recipients"), HasSubstr("It will be tried again"),
            HasSubstr("Final-Recipient: rfc822; waits@example.test\r\nAction: delayed\r\nStatus: 4.2.2\r\n"
                      "Remote-MTA: dns; mx.example.test\r\nDiagnostic-Code: smtp; 450 4.2.2 Mailbox full\r\n"
                      "Last-Attempt-Date: " +
                      format_rfc5322_date(now) + "\r\n" + until),
            HasSubstr("Final-Recipient: rfc822; asked@example.test\r\nAction: delayed\r\nStatus: 4.0.0\r\n" + until),
            Not(HasSubstr("lacks@")), Not(HasSubstr("never@")), Not(HasSubstr("could not be delivered")),
            Not(HasSubstr("Body line"))));
}

TEST(Composer, TellsWhatTheSendersTimeHasLedTo) {
  Case c;
  c.envelope.head.deliver_by = now - std::chrono::seconds(1);
  c.add("late@example.test", {mail::Notify::failure});
  c.add("relayed@example.test", {mail::Notify::failure});
  c.add("never@example.test", {mail::Notify::never});
  c.failed[0].action = c.failed[2].action = Action::delayed;
  c.failed[1].action = Action::relayed;
  auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_THAT(dsn->content,
              AllOf(HasSubstr("Deliver-By-Date: " + format_rfc5322_date(now - std::chrono::seconds(1)) + "\r\n"),
                    HasSubstr("late@example.test\r\nAction: delayed\r\nStatus: 4.4.7\r\n"),
                    HasSubstr("relayed@example.test\r\nAction: relayed\r\n"), Not(HasSubstr("never@"))));
  EXPECT_EQ(dsn->envelope.head.deliver_by, WallTime{});
  // By-mode R: a delay is what warn_after makes of it, a relay nobody's business but for a trace; late is failed.
  c.envelope.head.deliver_by_returns = true;
  EXPECT_FALSE(c.compose());
  c.envelope.head.deliver_by_trace = true;
  dsn = c.compose();
  ASSERT_TRUE(dsn);
  EXPECT_THAT(dsn->content, AllOf(HasSubstr("Action: relayed\r\n"), Not(HasSubstr("Action: delayed\r\n"))));
  c.failed[0].action = Action::failed;
  c.failed[0].expired = true;
  dsn = c.compose();
  ASSERT_TRUE(dsn);
  EXPECT_THAT(dsn->content, HasSubstr("Action: failed\r\nStatus: 5.4.7\r\n"));
}

TEST(Composer, ReturnsTheHeaderAloneOfWhatRequiredTls) {
  Case c;
  c.envelope.head.require_tls = true;
  c.envelope.head.dsn_return = mail::DsnReturn::full;
  c.add("user@example.test");
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  EXPECT_TRUE(dsn->envelope.head.require_tls);
  EXPECT_FALSE(returns_content(c.envelope, c.original.facts, c.options));
  EXPECT_THAT(dsn->content, AllOf(HasSubstr("Content-Type: text/rfc822-headers\r\n"), Not(HasSubstr("Body line"))));
}

TEST(Composer, FailureAndSuccessShareOneReport) {
  Case c;
  c.add("failed@example.test");
  c.add("relayed@example.test", {mail::Notify::success});
  c.failed[1].action = Action::relayed;
  c.failed[1].reply = {.code = 250, .status = {}, .text = "ok"};
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_THAT(dsn->content, AllOf(HasSubstr("Undelivered mail: 1 of your recipients"),
                                  HasSubstr("Action: failed\r\nStatus: 5.1.1\r\n"),
                                  HasSubstr("Action: relayed\r\nStatus: 2.0.0\r\n"), HasSubstr("Body line")));
}

TEST(Composer, ReturnsSmallContentUnstuffed) {
  Case c;
  c.add("user@example.test");
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  EXPECT_THAT(dsn->content,
              HasSubstr("Content-Type: message/rfc822\r\n\r\nReceived: from client by mx1.example.net with "
                        "ESMTP id X; date\r\nSubject: hello\r\nFrom: a@example.org\r\n\r\nBody "
                        "line\r\n.stuffed\r\n\r\n--"));
  EXPECT_TRUE(dsn->facts.line_starts_with_dot);
}

TEST(Composer, PlainContentKeepsItsDots) {
  Case c;
  c.set_content("Subject: x\r\n\r\n..two\r\nno end");
  c.original.facts.form = mail::ContentForm::plain;
  c.add("user@example.test");
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_THAT(dsn->content, HasSubstr("\r\n..two\r\nno end\r\n\r\n--"));
}

TEST(Composer, ReturnsTheHeaderAloneWhenAskedOrTooLargeOrNotTextual) {
  const auto only_header = [](Case& c) {
    c.add("user@example.test");
    const auto dsn = c.compose();
    ASSERT_TRUE(dsn);
    expect_well_formed(*dsn);
    EXPECT_THAT(dsn->content, AllOf(HasSubstr("Content-Type: text/rfc822-headers\r\n"), HasSubstr("Subject: hello\r\n"),
                                    Not(HasSubstr("Body line"))));
  };
  Case asked;
  asked.envelope.head.dsn_return = mail::DsnReturn::headers;
  only_header(asked);
  Case large;
  large.options.returned_content_max = 20;
  large.envelope.head.dsn_return = mail::DsnReturn::full;
  only_header(large);
  Case not_given;
  not_given.original.facts.size += 1;
  only_header(not_given);
  Case binary;
  binary.original.facts.form = mail::ContentForm::binary;
  only_header(binary);
  Case bare;
  bare.original.facts.has_bare_lf = true;
  only_header(bare);
  Case long_line;
  long_line.original.facts.longest_line = 999;
  only_header(long_line);
}

TEST(Composer, BoundsTheHeaderAtALine) {
  Case c;
  std::string header;
  for (int i = 0; i < 5000; ++i) header += "X-Field-" + std::to_string(i) + ": value\r\n";
  c.set_content(header + "\r\nbody\r\n");
  c.add("user@example.test");
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_LT(dsn->content.size(), c.options.returned_header_max + 4096);
  EXPECT_THAT(dsn->content, HasSubstr(": value\r\n\r\n--=_"));
}

TEST(Composer, LongHeaderLinesAreFoldedAndBadBytesReplaced) {
  Case c;
  c.set_content("Subject: " + std::string(3000, 'x') + "\r\nX: a\rb\nc" + std::string(1, '\0') + "d\r\n\r\nbody\r\n");
  c.original.facts.longest_line = 3009;
  c.add("user@example.test");
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_THAT(dsn->content, HasSubstr("X: a b c d\r\n"));
}

TEST(Composer, WhatPeersSaidIsEscapedAndBounded) {
  Case c("\"o\\\" <x>\"@example.org");
  c.add("\"a\\\r\nBcc: all\"@example.test", {}, "rfc822;a+0D+0ABcc:all");
  c.failed[0].reply.text = "hi\r\n\r\n--boundary\nAction: relayed\x01\xFF" + std::string(5000, 'y');
  const std::string host = "evil\r\nX: y" + std::string(600, 'h');
  c.failed[0].remote_mta = host;
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_THAT(dsn->content,
              AllOf(Not(HasSubstr("\nBcc:")), Not(HasSubstr("\nAction: relayed")), Not(HasSubstr("\nX: y")),
                    HasSubstr("Original-Recipient: rfc822; a+0D+0ABcc:all\r\n")));
}

TEST(Composer, AnExpiredRecipientHas447AndTheLastWords) {
  Case c;
  c.add("user@example.test");
  c.failed[0].expired = true;
  c.failed[0].reply = {.code = 451, .status = {4, 3, 0}, .text = "later"};
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  EXPECT_THAT(dsn->content, AllOf(HasSubstr("Action: failed\r\nStatus: 4.4.7\r\n"),
                                  HasSubstr("Diagnostic-Code: smtp; 451 4.3.0 later\r\n"),
                                  HasSubstr("The time allowed for delivery ran out.")));
}

TEST(Composer, AReasonOfOursIsNoDiagnosticOfAPeer) {
  Case c;
  c.add("user@example.test");
  c.failed[0].reply = {.code = 0, .status = {5, 4, 6}, .text = "mail loops"};
  c.failed[0].remote_mta = {};
  c.failed[0].last_attempt_at = {};
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  EXPECT_THAT(dsn->content,
              AllOf(HasSubstr("Status: 5.4.6\r\n"), HasSubstr("mail loops"), Not(HasSubstr("Diagnostic-Code")),
                    Not(HasSubstr("Remote-MTA")), Not(HasSubstr("Last-Attempt-Date"))));
}

TEST(Composer, AFailureWithoutAStatusIs500) {
  Case c;
  c.add("user@example.test");
  c.failed[0].reply = {.code = 554, .status = {}, .text = "no"};
  EXPECT_THAT(c.compose()->content,
              HasSubstr("Status: 5.0.0\r\nRemote-MTA: dns; mx.example.test\r\nDiagnostic-Code: smtp; 554 no\r\n"));
}

TEST(Composer, EightBitContentIsMarked) {
  Case c;
  c.set_content(
      "Subject: x\r\n\r\nGr\xC3\xBC\xC3\x9F"
      "e\r\n");
  c.original.facts.has_eight_bit = true;
  c.add("user@example.test");
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_THAT(dsn->content, AllOf(HasSubstr("Content-Transfer-Encoding: 8bit\r\n\r\n--"),
                                  HasSubstr("message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n")));
  EXPECT_FALSE(dsn->envelope.head.smtp_utf8);
}

TEST(Composer, InternationalMailIsReportedAsRfc6533Says) {
  Case c("p\xC3\xA9ter@example.org");
  c.envelope.head.smtp_utf8 = true;
  c.set_content(
      "Subject: Gr\xC3\xBC\xC3\x9F"
      "e\r\n\r\nx\r\n");
  c.add("\xE6\xB5\x8B+\xF0\x9F\x98\x80@example.test");
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  expect_well_formed(*dsn);
  EXPECT_TRUE(dsn->envelope.head.smtp_utf8);
  EXPECT_THAT(dsn->content, AllOf(HasSubstr("To: <p\xC3\xA9ter@example.org>\r\n"), HasSubstr("message/global\r\n"),
                                  HasSubstr("Final-Recipient: utf-8; \\x{6D4B}\\x{2B}\\x{1F600}@example.test\r\n")));
}

TEST(Composer, ManyRecipientsAreBounded) {
  Case c;
  c.options.recipients_max = 3;
  for (int i = 0; i < 10; ++i) c.add("user" + std::to_string(i) + "@example.test");
  const auto dsn = c.compose();
  ASSERT_TRUE(dsn);
  EXPECT_THAT(dsn->content, AllOf(HasSubstr("user2@"), Not(HasSubstr("user3@")), HasSubstr("and 7 recipients more.")));
}

TEST(Composer, LongWordsOfManyNextHopsStayWithinTheBound) {
  for (const std::size_t bytes_max : {std::size_t{16} << 10, std::size_t{128} << 10}) {
    Case c;
    c.options.bytes_max = bytes_max;
    std::string content = "Subject: long\r\n";
    for (int i = 0; i < 60; ++i) content.append("X-Long: ").append(1'000, 'x').append("\r\n");
    c.set_content(content + "\r\nbody\r\n");
    for (int i = 0; i < 1000; ++i) {
      std::string address = "recipient-";
      address.append(std::to_string(i)).append("@").append(200, 'd').append(".example");
      c.add(address);
      c.failed.back().reply.text = std::string(2'000, 'w');
    }
    const auto made = c.compose();
    ASSERT_TRUE(made.has_value());
    EXPECT_LE(made->content.size(), bytes_max);
    EXPECT_GT(made->content.size(), bytes_max / 2) << "the room is used";
    EXPECT_THAT(made->content, HasSubstr("recipients more."));
    EXPECT_THAT(made->content, HasSubstr("recipient-0@"));
  }
}

TEST(Composer, DependsOnItsArgumentsOnly) {
  Case c;
  c.add("user@example.test");
  EXPECT_EQ(c.compose()->content, c.compose()->content);
  const std::string before = c.compose()->content;
  c.seed = 2;
  EXPECT_NE(c.compose()->content, before);
}

}  // namespace
}  // namespace postern::dsn
