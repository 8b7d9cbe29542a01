#include <gtest/gtest.h>

#include "model.h"

namespace postern::spool::test {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

TEST(Log, WhatIsAppendedIsReadBack) {
  Rig rig(Rig::small());
  rig.start();
  const std::string content = filler(3000, 7);
  const mail::QueueId id = rig.append(content, "an envelope", 3);
  rig.write_all();
  const auto found = rig.read(rig.locate(id));
  ASSERT_TRUE(found.ok()) << message_of(found.status());
  EXPECT_EQ(found->id, id);
  EXPECT_EQ(found->envelope, "an envelope");
  EXPECT_EQ(found->added_fields, "Received: by us\r\n");
  EXPECT_EQ(found->content, content);
  EXPECT_EQ(found->recipients, 3);
}

TEST(Log, NoQueueIdBeforeTheStartCounterIsDurable) {
  Rig rig(Rig::small());
  rig.start(false);
  EXPECT_EQ(rig.log().intake(), Intake::starting);
  rig.serve_slots();
  EXPECT_EQ(rig.log().intake(), Intake::starting);
  ASSERT_TRUE(rig.begin_write());
  EXPECT_EQ(rig.log().intake(), Intake::starting);
  rig.end_write();
  EXPECT_EQ(rig.log().intake(), Intake::open);
  EXPECT_EQ(rig.log().next_queue_id(), mail::QueueId::from_parts(5, 1, 1));
}

TEST(Log, WhatArrivesDuringAWriteIsTheNextBatch) {
  Rig rig(Rig::small());
  rig.start();
  (void)rig.append("one", "e", 1, 1);
  ASSERT_TRUE(rig.begin_write());
  (void)rig.append("two", "e", 1, 2);
  (void)rig.append("three", "e", 1, 3);
  EXPECT_TRUE(rig.durable.empty());
  rig.end_write();
  EXPECT_EQ(rig.durable, (std::vector<std::uint64_t>{1}));
  ASSERT_TRUE(rig.begin_write());
  rig.end_write();
  EXPECT_EQ(rig.durable, (std::vector<std::uint64_t>{1, 2, 3}));
  EXPECT_FALSE(rig.begin_write());
  EXPECT_EQ(rig.log().figures().batches, 2u);
}

TEST(Log, MailWaitsOnlyWhileMoreIsComingAndNotLong) {
  Rig rig(Rig::small());
  rig.start();
  (void)rig.append("one", "e", 1, 1);
  EXPECT_FALSE(rig.begin_write(true));
  EXPECT_EQ(rig.log().next_deadline(), rig.now + microseconds(700));
  rig.now += microseconds(699);
  EXPECT_FALSE(rig.begin_write(true));
  rig.now += microseconds(1);
  EXPECT_TRUE(rig.begin_write(true));
  rig.end_write();
  (void)rig.append("two", "e", 1, 2);
  EXPECT_TRUE(rig.begin_write(false)) << "nothing at low load";
}

TEST(Log, SettlementsAloneMayWait) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId id = rig.append("one", "e", 2);
  rig.write_all();
  ASSERT_TRUE(rig.log().append_settlement(rig.locate(id), id, 0, mail::Outcome::relayed, {}, Ticket{9}).ok());
  EXPECT_FALSE(rig.begin_write());
  EXPECT_EQ(rig.log().next_deadline(), rig.now + milliseconds(10));
  rig.now += milliseconds(10);
  ASSERT_TRUE(rig.begin_write());
  rig.end_write();
  EXPECT_EQ(rig.durable, (std::vector<std::uint64_t>{9}));
  ASSERT_TRUE(rig.log().append_settlement(rig.locate(id), id, 1, mail::Outcome::relayed, {}).ok());
  rig.log().stop_waiting();
  EXPECT_TRUE(rig.begin_write()) << "an orderly stop waits for nothing";
}

TEST(Log, SettlingTwiceOrTheUnknownIsRefused) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId id = rig.append("one", "e", 2);
  const mail::Location location = rig.locate(id);
  Log& log = rig.log();
  ASSERT_TRUE(log.append_settlement(location, id, 1, mail::Outcome::failed, {}).ok());
  EXPECT_EQ(log.append_settlement(location, id, 1, mail::Outcome::failed, {}).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(log.append_retry_state(location, id, 1, as_bytes("x")).code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(log.append_settlement(location, id, 2, mail::Outcome::failed, {}).code(), StatusCode::kNotFound);
  EXPECT_EQ(log.append_settlement(location, mail::QueueId{7}, 0, mail::Outcome::failed, {}).code(),
            StatusCode::kNotFound);
  EXPECT_EQ(log.append_retry_state(location, id, 0, as_bytes(filler(513, 1))).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(log.lives(location));
  ASSERT_TRUE(log.append_settlement(location, id, 0, mail::Outcome::relayed, {}).ok());
  EXPECT_FALSE(log.lives(location));
}

TEST(Log, MemoryIsBoundedAndIntakeLeavesABatchToOthers) {
  const Options options = Rig::small();
  Rig rig(options);
  rig.start();
  const mail::QueueId id = rig.append("first");
  ASSERT_TRUE(rig.begin_write());
  int taken = 0;
  const std::string content = filler(7000, 3);
  for (;; ++taken) {
    const bool room = rig.log().has_room(Log::message_bytes(8, 17, content.size()), Use::intake);
    const MessageRecord record = rig.record(content, "envelope", 1);
    const auto location = rig.log().append_message(record, {});
    EXPECT_EQ(room, location.ok());
    if (!location.ok()) {
      EXPECT_EQ(location.status().code(), StatusCode::kResourceExhausted);
      break;
    }
  }
  EXPECT_EQ(taken, 2 * 2) << "two batches of two behind the one in flight";
  EXPECT_TRUE(rig.log().append_settlement(rig.locate(id), id, 0, mail::Outcome::relayed, {}).ok());
  rig.end_write();
  EXPECT_TRUE(rig.log().has_room(8100, Use::intake));
}

TEST(Log, AGroupIsOneBatch) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId id = rig.append("will fail", "e", 1);
  const std::string filling = filler(7000, 1);
  (void)rig.append(filling);
  const std::string dsn = filler(7000, 2);
  const std::size_t bytes = Log::settlement_bytes(3) + Log::message_bytes(8, 17, dsn.size());
  ASSERT_TRUE(rig.log().begin_group(bytes, Use::internal).ok());
  ASSERT_TRUE(rig.log().append_settlement(rig.locate(id), id, 0, mail::Outcome::failed, as_bytes("550")).ok());
  MessageRecord record = rig.record(dsn, "envelope", 1);
  record.use = Use::internal;
  const auto location = rig.log().append_message(record, Ticket{4});
  ASSERT_TRUE(location.ok());
  rig.log().end_group();
  // The first write has none of it, the second all.
  ASSERT_TRUE(rig.begin_write());
  rig.end_write();
  rig.crash();
  rig.start();
  EXPECT_EQ(rig.replay().size(), 2u) << "the message and the filling; no DSN, no settlement";
}

TEST(Log, AGroupBeyondABatchIsRefused) {
  Rig rig(Rig::small());
  rig.start();
  EXPECT_TRUE(rig.log().begin_group(rig.log().group_bytes_max(), Use::internal).ok());
  rig.log().end_group();
  EXPECT_EQ(rig.log().begin_group(rig.log().group_bytes_max() + 1, Use::internal).code(), StatusCode::kInvalidArgument);
}

TEST(Log, AWriteErrorIsFinal) {
  Rig rig(Rig::small());
  rig.start();
  (void)rig.append("one", "e", 1, 1);
  ASSERT_TRUE(rig.begin_write());
  (void)rig.append("two", "e", 1, 2);
  rig.fail_write();
  EXPECT_TRUE(rig.log().failed());
  EXPECT_EQ(rig.log().intake(), Intake::failed);
  EXPECT_NE(message_of(rig.log().failure()).find("logs/005/00000000.seg"), std::string_view::npos);
  EXPECT_TRUE(rig.log().take_durable().empty());
  std::vector<std::uint64_t> undone;
  for (const Ticket ticket : rig.log().take_undone()) undone.push_back(ticket.value);
  EXPECT_EQ(undone, (std::vector<std::uint64_t>{1, 2}));
  MessageRecord record = rig.record("three", "e", 1);
  EXPECT_EQ(rig.log().append_message(record, {}).status().code(), StatusCode::kUnavailable);
  EXPECT_FALSE(rig.begin_write());
}

TEST(Log, LargeContentIsStreamedAndReadBack) {
  Rig rig(Rig::small());
  rig.start();
  const std::string content = filler(200'000, 5);  // several segments
  const std::string tail = "the last piece";
  const ContentId stream = rig.log().begin_content();
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t size = std::min(rig.log().chunk_bytes_max(), content.size() - at);
    const Status status = rig.log().append_chunk(stream, as_bytes(std::string_view(content).substr(at, size)));
    if (status.code() == StatusCode::kResourceExhausted) {
      rig.write_all();
      continue;
    }
    ASSERT_TRUE(status.ok()) << message_of(status);
    at += size;
  }
  EXPECT_EQ(rig.log().content_bytes(stream), content.size());
  MessageRecord record = rig.record(tail, "large", 1);
  record.streamed = stream;
  EXPECT_EQ(rig.log().append_message(record, {}).status().code(), StatusCode::kInvalidArgument)
      << "facts.size is wrong";
  record.facts.size = content.size() + tail.size();
  const auto location = rig.log().append_message(record, {});
  ASSERT_TRUE(location.ok()) << message_of(location.status());
  rig.write_all();
  const auto found = rig.read(*location);
  ASSERT_TRUE(found.ok()) << message_of(found.status());
  EXPECT_EQ(found->content, content + tail);

  rig.crash();
  rig.start();
  const auto all = rig.replay();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].content, content + tail);
}

TEST(Log, DamageNamesSegmentAndOffset) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId id = rig.append(filler(2000, 1));
  rig.write_all();
  const mail::Location location = rig.locate(id);
  rig.disk().files.at(0)[offset_of(location.position) + 1500] ^= std::byte{1};
  const auto found = rig.read(location);
  EXPECT_EQ(found.status().code(), StatusCode::kDataLoss);
  EXPECT_NE(message_of(found.status()).find("segment 1 (logs/005/00000000.seg) at offset 8256"), std::string_view::npos)
      << message_of(found.status());
}

}  // namespace
}  // namespace postern::spool::test
