#include <cstdint>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include <postern/mail/envelope.h>
#include <postern/smtp/command.h>

namespace postern::smtp {
namespace {

constexpr OfferedParameters all_offered{.size = true, .eight_bit_mime = true, .smtp_utf8 = true};

TEST(CommandTest, VerbsAreReadWithoutRegardToCase) {
  EXPECT_EQ(parse_command("EHLO x").verb, Verb::ehlo);
  EXPECT_EQ(parse_command("eHlO x").arguments, "x");
  EXPECT_EQ(parse_command("StartTLS").verb, Verb::starttls);
  EXPECT_EQ(parse_command("mail\tFROM:<>").verb, Verb::mail);
  EXPECT_EQ(parse_command("QUIT  \t ").arguments, "");
  EXPECT_EQ(parse_command("NOOP  a  b ").arguments, "a  b");
}

TEST(CommandTest, OnlyWholeVerbsCount) {
  for (const char* line :
       {"", " EHLO x", "EHL x", "EHLOO x", "MAILFROM:<>", "STARTTLSX", "\xFF\xFF\xFF\xFF", "DATA\x0B", "{\"a\":1}"}) {
    EXPECT_EQ(parse_command(line).verb, Verb::unknown) << line;
  }
}

TEST(CommandTest, MailArgumentsInAnyOrderAndCase) {
  const MailArguments mail = parse_mail_arguments("from: <a@b.example> smtputf8 Body=8bitmime SIZE=00042", all_offered);
  EXPECT_EQ(mail.error, ArgumentError::none);
  EXPECT_EQ(mail.reverse_path.text, "a@b.example");
  EXPECT_EQ(mail.size, 42u);
  EXPECT_EQ(mail.body, mail::BodyType::eight_bit_mime);
  EXPECT_TRUE(mail.smtp_utf8);
}

TEST(CommandTest, WhatWasNotOfferedIsUnknown) {
  EXPECT_EQ(parse_mail_arguments("FROM:<> SIZE=1", {}).error, ArgumentError::unknown_parameter);
  EXPECT_EQ(parse_mail_arguments("FROM:<> BODY=7BIT", {}).error, ArgumentError::unknown_parameter);
  EXPECT_EQ(parse_mail_arguments("FROM:<> SMTPUTF8", {}).error, ArgumentError::unknown_parameter);
  EXPECT_EQ(parse_mail_arguments("FROM:<> BODY=BINARYMIME", all_offered).error, ArgumentError::unknown_parameter);
  EXPECT_EQ(parse_mail_arguments("FROM:<> =", all_offered).error, ArgumentError::unknown_parameter);
}

TEST(CommandTest, SizesBeyond64BitsAreTheLargest) {
  EXPECT_EQ(parse_mail_arguments("FROM:<> SIZE=18446744073709551615", all_offered).size, UINT64_MAX);
  EXPECT_EQ(parse_mail_arguments("FROM:<> SIZE=18446744073709551616", all_offered).size, UINT64_MAX);
  EXPECT_EQ(parse_mail_arguments("FROM:<> SIZE=100000000000000000000", all_offered).error, ArgumentError::syntax);
  EXPECT_EQ(parse_mail_arguments("FROM:<> SIZE=-1", all_offered).error, ArgumentError::syntax);
  EXPECT_EQ(parse_chunk_arguments("99999999999999999999").size, UINT64_MAX);
}

TEST(CommandTest, ChunkArguments) {
  EXPECT_TRUE(parse_chunk_arguments("0 LAST").last);
  EXPECT_TRUE(parse_chunk_arguments("86400  last").valid);
  EXPECT_FALSE(parse_chunk_arguments("7").last);
  for (const char* bad :
       {"", "LAST", "-1", "+1", "0x10", "1 LASTX", "1 LAST LAST", "1,LAST", "1e3", "100000000000000000000"}) {
    EXPECT_FALSE(parse_chunk_arguments(bad).valid) << bad;
  }
}

TEST(CommandTest, RecipientsHaveAName) {
  EXPECT_EQ(parse_recipient_arguments("TO:<a@b.example>", {}).forward_path.domain(), "b.example");
  EXPECT_EQ(parse_recipient_arguments("to:  <postmaster>", {}).error, ArgumentError::none);
  EXPECT_EQ(parse_recipient_arguments("TO:<>", {}).error, ArgumentError::path);
  EXPECT_EQ(parse_recipient_arguments("TO <a@b.example>", {}).error, ArgumentError::syntax);
  EXPECT_EQ(parse_recipient_arguments("TO:<\xC3\xA4@b.example>", {}).error, ArgumentError::eight_bit);
  EXPECT_EQ(parse_recipient_arguments("TO:<\xC3\xA4@b.example>", {.smtp_utf8 = true}).error, ArgumentError::none);
  EXPECT_EQ(parse_recipient_arguments("TO:<a@b.example> X=1", {.smtp_utf8 = true}).error,
            ArgumentError::unknown_parameter);
}

TEST(CommandTest, HelloNames) {
  EXPECT_TRUE(is_hello_name("client.example"));
  EXPECT_TRUE(is_hello_name("[IPv6:2001:db8::1]"));
  EXPECT_TRUE(is_hello_name("my_pc"));
  EXPECT_TRUE(is_hello_name(std::string(255, 'a')));
  EXPECT_FALSE(is_hello_name(std::string(256, 'a')));
  EXPECT_FALSE(is_hello_name(""));
  EXPECT_FALSE(is_hello_name("two words"));
  EXPECT_FALSE(is_hello_name("\xC3\xA4.example"));
  EXPECT_FALSE(is_hello_name("a\x7F"));
}

}  // namespace
}  // namespace postern::smtp
