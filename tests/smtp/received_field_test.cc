#include <chrono>
#include <string>

#include <gtest/gtest.h>

#include <postern/base/time.h>
#include <postern/mail/envelope.h>
#include <postern/mail/queue_id.h>
#include <postern/smtp/received_field.h>

namespace postern::smtp {
namespace {

ReceivedField example() {
  ReceivedField field;
  field.hello_name = "client.example";
  field.peer_address_literal = "[192.0.2.1]";
  field.hostname = "mx.example.test";
  field.protocol = mail::Protocol::esmtp;
  field.id = mail::QueueId::from_parts(1, 2, 3);
  field.received_at = WallTime(std::chrono::seconds(1'795'328'072));
  return field;
}

std::string written(const ReceivedField& field) {
  std::string out;
  append_received_field(out, field);
  return out;
}

TEST(ReceivedFieldTest, HasFromByWithIdForAndDate) {
  ReceivedField field = example();
  const std::string id = field.id.to_string();
  EXPECT_EQ(written(field), "Received: from client.example ([192.0.2.1])\r\n\tby mx.example.test with ESMTP id " + id +
                                ";\r\n\tSun, 22 Nov 2026 06:14:32 +0000\r\n");
  field.only_recipient = "a@example.org";
  field.protocol = mail::Protocol::smtp;
  EXPECT_EQ(written(field), "Received: from client.example ([192.0.2.1])\r\n\tby mx.example.test with SMTP id " + id +
                                "\r\n\tfor <a@example.org>;\r\n\tSun, 22 Nov 2026 06:14:32 +0000\r\n");
}

TEST(ReceivedFieldTest, NamesWhatProtectedTheMessageOnItsWay) {
  ReceivedField field = example();
  field.tls_version = "TLSv1.3";
  field.tls_cipher = "TLS_AES_128_GCM_SHA256";
  EXPECT_TRUE(
      written(field).starts_with("Received: from client.example ([192.0.2.1])\r\n"
                                 "\t(using TLSv1.3 with cipher TLS_AES_128_GCM_SHA256)\r\n"
                                 "\tby mx.example.test with "))
      << written(field);
}

TEST(ReceivedFieldTest, InventsNoAddress) {
  ReceivedField field = example();
  field.peer_address_literal = {};
  EXPECT_TRUE(written(field).starts_with("Received: from client.example\r\n\tby mx.example.test with ESMTP id "));
}

TEST(ReceivedFieldTest, HostileNamesStayWithinTheirPlace) {
  ReceivedField field = example();
  field.hello_name = "x)\r\nBcc: (\xC3;<\"@";
  EXPECT_TRUE(written(field).starts_with("Received: from x???Bcc:??????? ([192.0.2.1])\r\n")) << written(field);
  field.hello_name = "";
  EXPECT_TRUE(written(field).starts_with("Received: from unknown ([192.0.2.1])\r\n"));
  const std::string endless(5000, 'a');
  field.hello_name = endless;
  EXPECT_LT(written(field).size(), 600u);
}

TEST(ReceivedFieldTest, KeywordsOfRfc3848AndRfc6531) {
  EXPECT_EQ(protocol_keyword(mail::Protocol::esmtpsa, false), "ESMTPSA");
  EXPECT_EQ(protocol_keyword(mail::Protocol::esmtpsa, true), "UTF8SMTPSA");
  EXPECT_EQ(protocol_keyword(mail::Protocol::esmtp, true), "UTF8SMTP");
  EXPECT_EQ(protocol_keyword(mail::Protocol::lmtp, false), "LMTP");
}

}  // namespace
}  // namespace postern::smtp
