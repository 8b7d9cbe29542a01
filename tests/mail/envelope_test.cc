#include <cstdlib>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <postern/base/random.h>
#include <postern/mail/envelope.h>

namespace postern::mail {
namespace {

PathView path(std::string_view text) {
  const std::size_t at = text.rfind('@');
  return {text, static_cast<std::uint16_t>(at == std::string_view::npos ? text.size() : at + 1)};
}

Envelope full_envelope() {
  Envelope envelope;
  envelope.head = {.received_at = WallTime(std::chrono::seconds(1'795'000'000)),
                   .declared_size = 123'456,
                   .body = BodyType::binary_mime,
                   .smtp_utf8 = true,
                   .require_tls = true,
                   .dsn_return = DsnReturn::headers,
                   .protocol = Protocol::esmtpsa,
                   .priority = -9,
                   .tenant = 77,
                   .hold_until = WallTime(std::chrono::seconds(1'795'000'100)),
                   .deliver_by = WallTime(std::chrono::seconds(-5)),
                   .deliver_by_returns = true,
                   .deliver_by_trace = true};
  envelope.set_reverse_path("Sender@example.test", 7);
  envelope.set_dsn_envelope_id("QQ+2B314159");
  envelope.set_client("client.example", "[192.0.2.1]:4711");
  envelope.add_recipient({path("\"a@b\"@Example.net"), {Notify::success | Notify::delay}, "rfc822;a+40b"});
  envelope.add_recipient({path("postmaster"), {}, {}});
  envelope.add_recipient({path("c@[IPv6:2001:db8::1]"), {Notify::never}, {}});
  return envelope;
}

std::string encoded(const Envelope& envelope) {
  std::string out;
  envelope.encode(out);
  return out;
}

TEST(Envelope, DecodeOfEncodeIsTheSame) {
  const Envelope envelope = full_envelope();
  const std::string bytes = encoded(envelope);
  Envelope copy;
  ASSERT_TRUE(copy.decode(as_bytes(bytes)).ok());
  EXPECT_EQ(encoded(copy), bytes);
  EXPECT_EQ(copy.head.received_at, envelope.head.received_at);
  EXPECT_EQ(copy.head.declared_size, 123'456u);
  EXPECT_EQ(copy.head.body, BodyType::binary_mime);
  EXPECT_TRUE(copy.head.smtp_utf8);
  EXPECT_TRUE(copy.head.require_tls);
  EXPECT_EQ(copy.head.dsn_return, DsnReturn::headers);
  EXPECT_EQ(copy.head.protocol, Protocol::esmtpsa);
  EXPECT_EQ(copy.head.priority, -9);
  EXPECT_EQ(copy.head.tenant, 77u);
  EXPECT_EQ(copy.head.hold_until, envelope.head.hold_until);
  EXPECT_EQ(copy.head.deliver_by, envelope.head.deliver_by);
  EXPECT_TRUE(copy.head.deliver_by_returns);
  EXPECT_TRUE(copy.head.deliver_by_trace);
  EXPECT_EQ(copy.reverse_path().text, "Sender@example.test");
  EXPECT_EQ(copy.reverse_path().domain(), "example.test");
  EXPECT_EQ(copy.dsn_envelope_id(), "QQ+2B314159");
  EXPECT_EQ(copy.helo_name(), "client.example");
  EXPECT_EQ(copy.client_address(), "[192.0.2.1]:4711");
  ASSERT_EQ(copy.recipient_count(), 3u);
  EXPECT_EQ(copy.recipient(0).forward_path.local_part(), "\"a@b\"");
  EXPECT_EQ(copy.recipient(0).forward_path.domain(), "Example.net");
  EXPECT_EQ(copy.recipient(0).notify.bits, Notify::success | Notify::delay);
  EXPECT_EQ(copy.recipient(0).original_recipient, "rfc822;a+40b");
  EXPECT_EQ(copy.recipient(1).forward_path.local_part(), "postmaster");
  EXPECT_EQ(copy.recipient(1).forward_path.domain(), "");
  EXPECT_EQ(copy.recipient(2).notify.bits, Notify::never);
}

TEST(Envelope, NullReversePathStaysNull) {
  Envelope envelope;
  envelope.set_reverse_path("", 0);
  envelope.add_recipient({path("a@b.test"), {}, {}});
  Envelope copy = full_envelope();
  ASSERT_TRUE(copy.decode(as_bytes(encoded(envelope))).ok()) << "decode replaces what was there";
  EXPECT_TRUE(copy.reverse_path().null());
  EXPECT_EQ(copy.recipient_count(), 1u);
  EXPECT_EQ(copy.helo_name(), "");
  EXPECT_EQ(copy.head.tenant, 0u);
}

TEST(Envelope, EveryCutIsRefusedOrAShorterEnvelope) {
  const std::string bytes = encoded(full_envelope());
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    Envelope copy;
    const Status status = copy.decode(as_bytes(std::string_view(bytes).substr(0, size)));
    if (!status.ok()) {
      EXPECT_EQ(status.code(), StatusCode::kDataLoss);
      EXPECT_EQ(copy.recipient_count(), 0u) << "a refused envelope is empty";
      EXPECT_TRUE(copy.reverse_path().null());
    } else {
      EXPECT_LT(copy.recipient_count(), 3u);
    }
  }
}

TEST(Envelope, HostileBytesNeverBreakItsContract) {
  Random random(7);
  const std::string bytes = encoded(full_envelope());
  for (int round = 0; round < 5'000; ++round) {
    std::string hostile = bytes;
    for (std::uint64_t flips = 1 + random.below(4); flips > 0; --flips) {
      hostile[random.below(hostile.size())] = static_cast<char>(random());
    }
    Envelope copy;
    if (!copy.decode(as_bytes(hostile)).ok()) continue;
    for (std::size_t i = 0; i < copy.recipient_count(); ++i) {
      const RecipientView recipient = copy.recipient(i);
      EXPECT_LE(recipient.forward_path.local_part().size() + recipient.forward_path.domain().size(), hostile.size());
    }
    EXPECT_LE(copy.memory_bytes(), 1024u + 25u * hostile.size());
    const std::string again = encoded(copy);
    Envelope twice;
    ASSERT_TRUE(twice.decode(as_bytes(again)).ok());
    EXPECT_EQ(encoded(twice), again);
  }
}

TEST(Envelope, UnknownFieldsAreSkippedOrRefusedByTheirTag) {
  std::string bytes = encoded(full_envelope());
  Envelope copy;
  EXPECT_TRUE(copy.decode(as_bytes(bytes + std::string("\x80\x03"
                                                       "abc",
                                                       5)))
                  .ok())
      << "0x80 and above: ignorable";
  EXPECT_EQ(copy.recipient_count(), 3u);
  EXPECT_EQ(copy.decode(as_bytes(bytes + std::string("\x40\x03"
                                                     "abc",
                                                     5)))
                .code(),
            StatusCode::kDataLoss);
  bytes[0] = 2;
  EXPECT_EQ(copy.decode(as_bytes(bytes)).code(), StatusCode::kDataLoss) << "another version";
}

TEST(Envelope, RefusesFieldsGivenTwiceAndSloppyNumbers) {
  const std::string twice("\x01\x0B\x01\x05\x0B\x01\x05", 7);
  const std::string long_number("\x01\x0B\x02\x85\x00", 5);
  const std::string beyond_64_bits("\x01\x08\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x02", 13);
  const std::string size_beyond_the_end("\x01\x07\xFF\xFF\xFF\xFF\x0F", 7);
  const std::string domain_without_at(
      "\x01\x02\x03\x01"
      "ab",
      6);
  for (const std::string& bytes : {twice, long_number, beyond_64_bits, size_beyond_the_end, domain_without_at}) {
    Envelope envelope;
    EXPECT_EQ(envelope.decode(as_bytes(bytes)).code(), StatusCode::kDataLoss);
  }
}

TEST(Envelope, FillingAgainAfterClearAllocatesNothing) {
  Envelope envelope;
  const auto fill = [&] {
    envelope.set_reverse_path("sender@example.test", 7);
    for (int i = 0; i < 100; ++i) envelope.add_recipient({path("somebody@some-domain.example"), {}, "rfc822;x"});
  };
  fill();
  const std::size_t memory = envelope.memory_bytes();
  const char* const place = envelope.reverse_path().text.data();
  for (int round = 0; round < 3; ++round) {
    envelope.clear();
    EXPECT_EQ(envelope.recipient_count(), 0u);
    EXPECT_TRUE(envelope.reverse_path().null());
    fill();
    EXPECT_EQ(envelope.memory_bytes(), memory);
    EXPECT_EQ(envelope.reverse_path().text.data(), place);
  }
}

}  // namespace
}  // namespace postern::mail
