#include <deque>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "model.h"

namespace postern::spool::test {
namespace {

void settle(Rig& rig, mail::QueueId id, std::uint16_t recipient = 0) {
  Status status = rig.log().append_settlement(rig.locate(id), id, recipient, mail::Outcome::relayed, {});
  if (status.code() == StatusCode::kResourceExhausted) {
    rig.write_all();
    status = rig.log().append_settlement(rig.locate(id), id, recipient, mail::Outcome::relayed, {});
  }
  ASSERT_TRUE(status.ok()) << message_of(status);
}

ContentId stream(Rig& rig, const std::string& content) {
  const ContentId id = rig.log().begin_content();
  for (std::size_t at = 0; at < content.size();) {
    const std::size_t size = std::min<std::size_t>(4000, content.size() - at);
    const Status status = rig.log().append_chunk(id, as_bytes(std::string_view(content).substr(at, size)));
    if (status.ok()) at += size;
    rig.write_all();
  }
  return id;
}

TEST(Reclaim, ALogOfSettledMailKeepsItsSize) {
  Rig rig(Rig::small());
  rig.start();
  for (std::uint64_t i = 0; i < 1000; ++i) settle(rig, rig.append(filler(3000, i)));
  rig.run();
  EXPECT_GT(rig.log().figures().segments_recycled, 15u);
  EXPECT_LE(rig.disk().files.size(), 4u + 8u);
  rig.crash();
  rig.start();
  EXPECT_TRUE(rig.replay().empty());
  EXPECT_TRUE(rig.report.alarms.empty());
}

TEST(Reclaim, NothingOfARecycledSegmentComesBack) {
  Rig rig(Rig::small());
  rig.start();
  for (int round = 0; round < 30; ++round) {
    // A whole segment of mail, settled; the file's old batches then lie behind the new, short tail.
    for (std::uint64_t i = 0; i < 40; ++i) settle(rig, rig.append(filler(3000, i)));
    const mail::QueueId last = rig.append("the only one");
    rig.write_all();
    rig.crash();
    rig.start();
    const auto all = rig.replay();
    ASSERT_EQ(all.size(), 1u) << round;
    EXPECT_EQ(all[0].id, last);
    EXPECT_TRUE(rig.report.alarms.empty());
    EXPECT_EQ(rig.report.torn_bytes, 0u);
    settle(rig, last);
    rig.run();
  }
}

TEST(Reclaim, SettlementsAreNotForgottenBeforeTheirMessages) {
  Options options = Rig::small();
  options.compaction_segments_min = 1000;  // none: the first message holds all that follow
  Rig rig(options);
  rig.start();
  const mail::QueueId held = rig.append("held");
  std::vector<mail::QueueId> settled_later;
  for (std::uint64_t i = 0; i < 30; ++i) settled_later.push_back(rig.append(filler(3000, i)));
  for (std::uint64_t i = 0; i < 100; ++i) settle(rig, rig.append(filler(3000, i)));
  for (const mail::QueueId id : settled_later) settle(rig, id);  // in a later segment than theirs
  for (std::uint64_t i = 0; i < 100; ++i) settle(rig, rig.append(filler(3000, i)));
  rig.run();
  EXPECT_EQ(rig.log().figures().segments_recycled, 0u);
  rig.crash();
  rig.start();
  const auto all = rig.replay();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].id, held);
  settle(rig, held);
  rig.run();
  EXPECT_GT(rig.log().figures().segments_recycled, 3u);
}

TEST(Reclaim, TheFewThatLiveAreRewrittenWithTheirState) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId held = rig.append("held", "its envelope", 9);
  settle(rig, held, 3);
  ASSERT_TRUE(rig.log().append_retry_state(rig.locate(held), held, 8, as_bytes("waits")).ok());
  const mail::Location first = rig.locate(held);
  for (int round = 0; round < 5; ++round) {
    for (std::uint64_t i = 0; i < 200; ++i) settle(rig, rig.append(filler(3000, i)));
    rig.run();
    ASSERT_LE(rig.log().index().segment_count(), 6u);
  }
  EXPECT_GT(rig.log().figures().messages_moved, 3u);
  EXPECT_NE(rig.locate(held), first);
  settle(rig, held, 4);
  rig.run();
  const auto found = rig.read(rig.locate(held));
  ASSERT_TRUE(found.ok());
  EXPECT_EQ(found->content, "held");
  rig.crash();
  rig.start();
  const auto all = rig.replay();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].id, held);
  EXPECT_EQ(all[0].envelope, "its envelope");
  EXPECT_EQ(all[0].added_fields, "Received: by us\r\n");
  EXPECT_EQ(all[0].unsettled,
            (std::map<std::uint16_t, std::string>{{0, ""}, {1, ""}, {2, ""}, {5, ""}, {6, ""}, {7, ""}, {8, "waits"}}));
  for (const std::uint16_t i : std::initializer_list<std::uint16_t>{0, 1, 2, 5, 6, 7, 8}) settle(rig, held, i);
  rig.run();
  rig.crash();
  rig.start();
  EXPECT_TRUE(rig.replay().empty());
}

TEST(Reclaim, ALocationFromBeforeTheMoveStillMeansTheMessage) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId held = rig.append("held", "e", 2);
  const mail::Location old = rig.locate(held);
  rig.write_all();
  const Log::Pin pin = rig.log().pin(old);
  for (std::uint64_t i = 0; i < 300; ++i) settle(rig, rig.append(filler(3000, i)));
  rig.run();
  ASSERT_EQ(rig.moved.size(), 1u);
  EXPECT_EQ(rig.log().current(old), rig.moved[0].to);
  const auto found = rig.read(old);
  ASSERT_TRUE(found.ok()) << "pinned: a delivery may be under way";
  EXPECT_EQ(found->content, "held");
  ASSERT_TRUE(rig.log().append_settlement(old, held, 0, mail::Outcome::relayed, {}).ok());
  const std::size_t before = rig.log().index().segment_count();
  rig.log().unpin(pin);
  rig.run();
  EXPECT_LT(rig.log().index().segment_count(), before);
  EXPECT_EQ(rig.read(old).status().code(), StatusCode::kNotFound);
  rig.crash();
  rig.start();
  const auto all = rig.replay();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].unsettled.count(0), 0u);
  EXPECT_EQ(all[0].unsettled.count(1), 1u);
}

TEST(Reclaim, ChunksOfLivingMailAreKeptAndMoved) {
  Rig rig(Rig::small());
  rig.start();
  const std::string content = filler(300'000, 4);
  const ContentId id = stream(rig, content);
  MessageRecord record = rig.record("", "large", 1);
  record.streamed = id;
  record.facts.size = content.size();
  const auto location = rig.log().append_message(record, {});
  ASSERT_TRUE(location.ok());
  rig.locations_[record.id.value] = *location;
  for (int round = 0; round < 4; ++round) {
    for (std::uint64_t i = 0; i < 300; ++i) settle(rig, rig.append(filler(3000, i)));
    rig.run();
  }
  EXPECT_GT(rig.log().figures().messages_moved, 0u);
  for (const std::string& alarm : rig.log().take_alarms()) ADD_FAILURE() << alarm;
  ASSERT_TRUE(rig.log().lives(rig.locate(record.id)));
  const auto found = rig.read(rig.locate(record.id));
  ASSERT_TRUE(found.ok()) << message_of(found.status());
  EXPECT_EQ(found->content, content);
  rig.crash();
  rig.start();
  const auto all = rig.replay();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].content, content);
  settle(rig, record.id);
  for (std::uint64_t i = 0; i < 200; ++i) settle(rig, rig.append(filler(3000, i)));
  rig.run();
  EXPECT_LE(rig.log().index().segment_count(), 4u) << "its chunks came back";
}

TEST(Reclaim, AbandonedChunksComeBack) {
  Rig rig(Rig::small());
  rig.start();
  for (int round = 0; round < 10; ++round) {
    const ContentId id = stream(rig, filler(200'000, 4));
    EXPECT_GT(rig.log().index().live_bytes(), 200'000u - 1);
    rig.log().abandon_content(id);
    EXPECT_EQ(rig.log().index().live_bytes(), 0u);
    rig.run();
  }
  EXPECT_LE(rig.disk().files.size(), 14u);
  (void)stream(rig, filler(200'000, 4));
  rig.crash();
  rig.start();
  EXPECT_EQ(rig.log().index().live_bytes(), 0u) << "content without its message is nobody's";
  EXPECT_TRUE(rig.replay().empty());
}

TEST(Reclaim, ASlowClientDoesNotHoldAllThatFollows) {
  Rig rig(Rig::small());
  rig.start();
  std::string content = filler(10'000, 8);
  const ContentId id = stream(rig, content);
  for (std::uint64_t i = 0; i < 600; ++i) settle(rig, rig.append(filler(3000, i)));
  rig.run();
  EXPECT_LE(rig.log().index().segment_count(), 5u);
  const std::string rest = filler(5000, 9);
  MessageRecord record = rig.record(rest, "slow", 1);
  record.streamed = id;
  record.facts.size = content.size() + rest.size();
  const auto location = rig.log().append_message(record, {});
  ASSERT_TRUE(location.ok());
  rig.write_all();
  const auto found = rig.read(*location);
  ASSERT_TRUE(found.ok()) << message_of(found.status());
  EXPECT_EQ(found->content, content + rest);
}

TEST(Reclaim, WhenSpaceIsLowNewcomersWaitAndOthersGoOn) {
  Rig rig(Rig::small());
  rig.start();
  std::vector<mail::QueueId> ids;
  rig.fail_creates = true;
  const std::string content = filler(6000, 1);
  while (rig.log().intake_open() && ids.size() < 1000) {
    const MessageRecord record = rig.record(content, "e", 1);
    const auto location = rig.log().append_message(record, {});
    if (location.ok()) {
      rig.locations_[record.id.value] = *location;
      ids.push_back(record.id);
    }
    rig.serve_slots();
    if (rig.begin_write()) rig.end_write();
  }
  EXPECT_EQ(rig.log().intake(), Intake::space_low);
  EXPECT_GE(rig.log().free_segments(), 1u) << "the reserve";
  ASSERT_LT(ids.size(), 1000u);
  // Deliveries go on, and give the space back.
  for (const mail::QueueId id : ids) {
    settle(rig, id);
    if (rig.begin_write()) rig.end_write();
  }
  rig.run();
  EXPECT_EQ(rig.log().intake(), Intake::open);
}

TEST(Reclaim, TheFileSystemsFreeSpaceClosesIntake) {
  Rig rig(Rig::small());
  rig.start();
  rig.log().on_space(Rig::small().min_free_bytes - 1);
  EXPECT_EQ(rig.log().intake(), Intake::space_low);
  rig.log().on_space(Rig::small().min_free_bytes);
  EXPECT_EQ(rig.log().intake(), Intake::open);
  // Nor is mail taken into files that the next start may not find.
  rig.log().on_folder(false);
  EXPECT_EQ(rig.log().intake(), Intake::space_low);
  rig.log().on_folder(true);
  EXPECT_TRUE(rig.log().intake_open());
}

TEST(Reclaim, TheSpaceLimitHolds) {
  Options options = Rig::small();
  options.space_limit_bytes = 6 * options.segment_bytes;
  Rig rig(options);
  rig.start();
  for (int i = 0; i < 1000 && rig.log().intake_open(); ++i) {
    const std::string content = filler(6000, 1);
    (void)rig.log().append_message(rig.record(content, "e", 1), {});
    rig.write_all();
  }
  EXPECT_EQ(rig.log().intake(), Intake::space_low);
  EXPECT_LE(rig.disk().files.size(), 6u);
}

TEST(Reclaim, AMessageThatCannotBeReadIsGivenUpWithAnAlarmAndItsFileLeftAlone) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId bad = rig.append(filler(3000, 99));
  const mail::QueueId good = rig.append("good");
  rig.write_all();
  const std::uint32_t slot = rig.log().index().segment(0).slot.value;
  rig.disk().files.at(slot)[offset_of(rig.locate(bad).position) + 2000] ^= std::byte{1};
  for (std::uint64_t i = 0; i < 300; ++i) settle(rig, rig.append(filler(3000, i)));
  rig.run();
  EXPECT_EQ(rig.log().figures().messages_unreadable, 1u);
  const auto alarms = rig.log().take_alarms();
  ASSERT_EQ(alarms.size(), 1u);
  EXPECT_NE(alarms[0].find(bad.to_string()), std::string::npos);
  EXPECT_TRUE(rig.read(rig.locate(good)).ok());
  EXPECT_EQ(rig.log().index().find_segment(1), nullptr) << "it holds up nothing";
}

TEST(Reclaim, AReadThatFailsIsTriedAgainForSomeMinutes) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId bad = rig.append(filler(3000, 99));
  const mail::QueueId good = rig.append("good");
  rig.write_all();
  const std::uint32_t slot = rig.log().index().segment(0).slot.value;
  const std::uint64_t block = round_down(offset_of(rig.locate(bad).position), block_bytes);
  rig.disk().bad_blocks.insert({slot, block});
  for (std::uint64_t i = 0; i < 300; ++i) settle(rig, rig.append(filler(3000, i)));
  for (int attempt = 0; attempt < 5; ++attempt) {
    rig.run();
    ASSERT_EQ(rig.log().figures().messages_unreadable, 0u) << attempt;
    ASSERT_NE(rig.log().index().find_segment(1), nullptr) << "it may be read yet";
    EXPECT_FALSE(rig.compact_once()) << "not at once";
    rig.now += std::chrono::minutes(1);
  }
  rig.disk().bad_blocks.clear();
  rig.run();
  EXPECT_EQ(rig.log().index().find_segment(1), nullptr);
  EXPECT_EQ(rig.log().figures().messages_unreadable, 0u);
  EXPECT_TRUE(rig.read(rig.locate(bad)).ok());
  EXPECT_TRUE(rig.read(rig.locate(good)).ok());
}

TEST(Reclaim, WantOfDescriptorsGivesNothingUp) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId waiting = rig.append(filler(3000, 99));
  for (std::uint64_t i = 0; i < 300; ++i) settle(rig, rig.append(filler(3000, i)));
  rig.write_all();
  for (int attempt = 0; attempt < 60; ++attempt) {
    ASSERT_TRUE(rig.log().take_compaction_read(rig.now)) << attempt;
    rig.log().on_compaction_read(error(StatusCode::kResourceExhausted, "Too many open files"), rig.now);
    // Every other one is of a window; the one thing that was wanted of it is asked for next, at once.
    rig.now += std::chrono::minutes(1);
  }
  rig.run();
  EXPECT_EQ(rig.log().index().find_segment(1), nullptr);
  EXPECT_EQ(rig.log().figures().messages_unreadable, 0u);
  EXPECT_TRUE(rig.read(rig.locate(waiting)).ok());
}

TEST(Reclaim, WhatIsNeverReadIsGivenUpWithAnAlarm) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId bad = rig.append(filler(6000, 99));
  const mail::QueueId good = rig.append(filler(5000, 98));
  rig.write_all();
  const std::uint32_t slot = rig.log().index().segment(0).slot.value;
  rig.disk().bad_blocks.insert({slot, round_down(offset_of(rig.locate(bad).position), block_bytes)});
  for (std::uint64_t i = 0; i < 300; ++i) settle(rig, rig.append(filler(3000, i)));
  for (int attempt = 0; attempt < 11; ++attempt) {
    ASSERT_EQ(rig.log().figures().messages_unreadable, 0u) << attempt;
    rig.run();
    rig.now += std::chrono::minutes(1);
  }
  EXPECT_EQ(rig.log().figures().messages_unreadable, 1u);
  EXPECT_EQ(rig.log().index().find_segment(1), nullptr) << "it holds up nothing";
  const auto alarms = rig.log().take_alarms();
  ASSERT_EQ(alarms.size(), 1u);
  EXPECT_NE(alarms[0].find(bad.to_string()), std::string::npos);
  EXPECT_TRUE(rig.read(rig.locate(good)).ok());
}

// A steady mix: one message in `one_in` waits until `waiting` others do, the rest is delivered at once.
struct Mix {
  const char* name;
  std::size_t bytes;
  unsigned one_in;
  std::size_t waiting;
  unsigned per_batch;  // 1: nearly all of a batch is padding
};

class SteadyMix : public testing::TestWithParam<Mix> {};

TEST_P(SteadyMix, StaysWithinItsSpace) {
  const Mix mix = GetParam();
  Options options = Rig::small();
  options.segment_bytes = 512u << 10;
  options.batch_bytes_max = 128u << 10;
  Rig rig(options);
  rig.start();
  std::deque<mail::QueueId> waiting;
  std::vector<mail::QueueId> quick;
  const std::size_t messages = mix.waiting * mix.one_in * 2;  // a multiple of per_batch, too
  for (std::size_t i = 1; i <= messages; ++i) {
    const mail::QueueId id = rig.append(filler(mix.bytes, i));
    if (i % mix.one_in == 0) {
      waiting.push_back(id);
    } else {
      quick.push_back(id);
    }
    if (i % mix.per_batch != 0) continue;
    rig.write_all();
    for (const mail::QueueId delivered : quick) settle(rig, delivered);
    quick.clear();
    while (waiting.size() > mix.waiting) {
      settle(rig, waiting.front());
      waiting.pop_front();
    }
    rig.run();
    const std::uint64_t live = rig.log().index().live_bytes();
    ASSERT_LE(rig.disk().files.size() * options.segment_bytes, live + live / 2 + 8 * options.segment_bytes)
        << "after " << i << " messages";
  }
  EXPECT_GT(rig.log().figures().messages_moved, 0u);
  rig.crash();
  rig.start();
  const std::vector<Found> all = rig.replay();
  EXPECT_EQ(all.size(), waiting.size() + quick.size());
  EXPECT_GT(all.size(), mix.waiting / 2);
}

INSTANTIATE_TEST_SUITE_P(all, SteadyMix,
                         testing::Values(Mix{"one_in_five", 3000, 5, 1200, 40}, Mix{"one_in_twenty", 3000, 20, 600, 40},
                                         Mix{"padding", 1000, 5, 1000, 1}),
                         [](const auto& chosen) { return chosen.param.name; });

TEST(Reclaim, MailDeliveredAtOnceIsWrittenOnce) {
  Options options = Rig::small();
  options.segment_bytes = 512u << 10;
  options.batch_bytes_max = 128u << 10;
  Rig rig(options);
  rig.start();
  constexpr std::size_t size = 1024;
  std::size_t accepted = 0;
  for (std::size_t i = 0; i < 10'000;) {
    std::vector<mail::QueueId> batch;
    for (int k = 0; k < 40; ++k) batch.push_back(rig.append(filler(size, ++i)));
    accepted += 40 * size;
    rig.write_all();
    for (const mail::QueueId delivered : batch) settle(rig, delivered);  // with the next messages' batch
  }
  EXPECT_LE(rig.log().figures().bytes_written, accepted * 2);
  EXPECT_EQ(rig.log().figures().messages_moved, 0u);
}

}  // namespace
}  // namespace postern::spool::test
