#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>

#include <postern/spool/checksum.h>

#include "model.h"

namespace postern::spool::test {
namespace {

std::vector<mail::QueueId> ids_of(const std::vector<Found>& all) {
  std::vector<mail::QueueId> ids;
  for (const Found& found : all) ids.push_back(found.id);
  std::sort(ids.begin(), ids.end());
  return ids;
}

TEST(Recovery, ANewLogIsOneWithNoFiles) {
  Rig rig(Rig::small());
  rig.start();
  EXPECT_EQ(rig.log().start(), 1u);
  EXPECT_TRUE(rig.replay().empty());
}

TEST(Recovery, SettledRecipientsAndStatesComeBack) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId three = rig.append("three recipients", "e3", 3);
  const mail::QueueId one = rig.append("one recipient", "e1", 1);
  const mail::QueueId done = rig.append("done", "e0", 2);
  Log& log = rig.log();
  ASSERT_TRUE(log.append_retry_state(rig.locate(three), three, 0, as_bytes("first")).ok());
  ASSERT_TRUE(log.append_retry_state(rig.locate(three), three, 0, as_bytes("second")).ok());
  ASSERT_TRUE(log.append_retry_state(rig.locate(three), three, 2, as_bytes("other")).ok());
  ASSERT_TRUE(log.append_settlement(rig.locate(three), three, 1, mail::Outcome::relayed, as_bytes("250 ok")).ok());
  for (const std::uint16_t i : std::initializer_list<std::uint16_t>{0, 1})
    ASSERT_TRUE(log.append_settlement(rig.locate(done), done, i, mail::Outcome::relayed, {}).ok());
  rig.write_all();
  for (int restart = 0; restart < 3; ++restart) {
    rig.crash();
    rig.start();
    const auto all = rig.replay();
    ASSERT_EQ(all.size(), 2u);
    EXPECT_EQ(all[0].id, three);
    EXPECT_EQ(all[0].content, "three recipients");
    EXPECT_EQ(all[0].unsettled, (std::map<std::uint16_t, std::string>{{0, "second"}, {2, "other"}}));
    EXPECT_EQ(all[1].id, one);
    EXPECT_EQ(all[1].unsettled, (std::map<std::uint16_t, std::string>{{0, ""}}));
    EXPECT_EQ(rig.report.segments_scanned, 1u) << "only the newest, restart " << restart;
    EXPECT_TRUE(rig.report.alarms.empty());
  }
}

TEST(Recovery, QueueIdsAreNeverUsedTwice) {
  Rig rig(Rig::small());
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 5; ++i) {
    rig.start();
    for (int j = 0; j < 3; ++j) EXPECT_TRUE(seen.insert(rig.log().next_queue_id().value).second);
    rig.crash();
  }
}

TEST(Recovery, SealedSegmentsAreReadBySummary) {
  Rig rig(Rig::small());
  rig.start();
  std::vector<mail::QueueId> living;
  for (std::uint64_t i = 0; i < 200; ++i) {
    const mail::QueueId id = rig.append(filler(3000, i), "e", 2);
    if (i % 3 == 0) {
      living.push_back(id);
    } else {
      for (const std::uint16_t r : std::initializer_list<std::uint16_t>{0, 1})
        ASSERT_TRUE(rig.log().append_settlement(rig.locate(id), id, r, mail::Outcome::relayed, {}).ok());
    }
    rig.write_all();
  }
  ASSERT_GT(rig.log().figures().segments_sealed, 3u);
  rig.crash();
  rig.start();
  EXPECT_EQ(rig.report.segments_scanned, 1u);
  EXPECT_LT(rig.report.bytes_read, 600u * 1024) << "summaries and the tail, not all content";
  const auto all = rig.replay();
  EXPECT_EQ(ids_of(all), living);
}

TEST(Recovery, ATornTailIsDroppedAndNeverComesBack) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId kept = rig.append("kept", "e", 1, 1);
  rig.write_all();
  (void)rig.append(filler(7000, 9), "e", 1, 2);
  ASSERT_TRUE(rig.begin_write());
  // The whole batch lands but for one sector; a later start finds that sector readable again.
  const Disk before = rig.disk();
  const mail::Location torn = rig.locate(mail::QueueId{kept.value + 1});
  rig.end_write();
  Disk whole = rig.disk();
  const std::uint32_t slot = 0;
  std::vector<std::byte>& file = rig.disk().files.at(slot);
  const std::uint64_t sector = round_down(offset_of(torn.position) + 3000, sector_bytes);
  std::memset(file.data() + sector, 0, sector_bytes);
  rig.crash();
  rig.start();
  EXPECT_GT(rig.report.torn_bytes, 0u);
  EXPECT_TRUE(rig.report.alarms.empty());
  EXPECT_EQ(ids_of(rig.replay()), std::vector{kept});
  std::memcpy(file.data() + sector, whole.files.at(slot).data() + sector, sector_bytes);
  rig.crash();
  rig.start();
  EXPECT_EQ(ids_of(rig.replay()), std::vector{kept});
}

TEST(Recovery, DamageBeforeAValidBatchIsAnAlarmAndTheRestIsKept) {
  Rig rig(Rig::small());
  rig.start();
  std::vector<mail::QueueId> ids;
  for (std::uint64_t i = 0; i < 9; ++i) {
    ids.push_back(rig.append(filler(1000, i)));
    if (i % 3 == 2) rig.write_all();  // three batches of three
  }
  const mail::Location hit = rig.locate(ids[4]);
  rig.disk().files.at(0)[offset_of(hit.position) + 500] ^= std::byte{0x20};
  rig.crash();
  rig.start();
  EXPECT_EQ(rig.report.torn_bytes, 0u);
  EXPECT_GT(rig.report.damaged_bytes, 0u);
  EXPECT_EQ(rig.report.salvaged_messages, 2u);
  ASSERT_EQ(rig.report.alarms.size(), 1u);
  ids.erase(ids.begin() + 4);
  EXPECT_EQ(ids_of(rig.replay()), ids);
  rig.crash();
  rig.start();
  EXPECT_TRUE(rig.report.alarms.empty()) << "said once: the summary is made now";
  EXPECT_EQ(ids_of(rig.replay()), ids);
}

TEST(Recovery, ADamagedSegmentIsPutAwayForPeopleAndNotRecycled) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId hit = rig.append(filler(1000, 1));
  rig.write_all();
  const mail::QueueId after = rig.append(filler(1000, 2));
  rig.write_all();
  rig.disk().files.at(0)[offset_of(rig.locate(hit).position) + 500] ^= std::byte{0x20};
  rig.crash();
  // The second start knows it from the summary that the first has made.
  for (int i = 0; i < 2; ++i) {
    rig.start();
    ASSERT_EQ(ids_of(rig.replay()), std::vector{after});
    rig.crash();
  }
  rig.start();
  ASSERT_EQ(ids_of(rig.replay()), std::vector{after});
  ASSERT_TRUE(rig.log().append_settlement(rig.locate(after), after, 0, mail::Outcome::relayed, {}).ok());
  for (std::uint64_t i = 0; i < 300; ++i) {
    const mail::QueueId id = rig.append(filler(3000, i));
    ASSERT_TRUE(rig.log().append_settlement(rig.locate(id), id, 0, mail::Outcome::relayed, {}).ok());
    rig.run();
  }
  EXPECT_GT(rig.log().figures().segments_recycled, 0u);
  EXPECT_EQ(rig.set_aside, std::vector<std::string>{damaged_path(rig.log().log(), 1)});
}

TEST(Recovery, UnreadableBlocksCostWhatIsInThem) {
  Rig rig(Rig::small());
  rig.start();
  std::vector<mail::QueueId> ids;
  for (std::uint64_t i = 0; i < 9; ++i) {
    ids.push_back(rig.append(filler(6000, i)));
    rig.write_all();
  }
  rig.disk().bad_blocks.insert({0, round_down(offset_of(rig.locate(ids[4]).position) + 5000, block_bytes)});
  rig.crash();
  rig.start();
  EXPECT_EQ(rig.report.unreadable_bytes, block_bytes);
  ids.erase(ids.begin() + 4);
  EXPECT_EQ(ids_of(rig.replay()), ids);
}

TEST(Recovery, ADamagedSummaryIsReplacedByReadingTheSegment) {
  Rig rig(Rig::small());
  rig.start();
  std::vector<mail::QueueId> ids;
  for (std::uint64_t i = 0; i < 60; ++i) ids.push_back(rig.append(filler(6000, i)));
  rig.write_all();
  ASSERT_GT(rig.log().figures().segments_sealed, 1u);
  const Segment& first = rig.log().index().segment(0);
  std::vector<std::byte>& file = rig.disk().files.at(first.slot.value);
  file[file.size() - 20] ^= std::byte{1};
  rig.crash();
  rig.start();
  EXPECT_EQ(rig.report.alarms.size(), 1u);
  EXPECT_EQ(rig.report.segments_scanned, 2u);
  EXPECT_EQ(ids_of(rig.replay()), ids);
  rig.crash();
  rig.start();
  EXPECT_EQ(rig.report.segments_scanned, 1u);
  EXPECT_EQ(ids_of(rig.replay()), ids);
}

TEST(Recovery, ADamagedHeaderIsReadFromItsCopyOrTheFileIsSetAside) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId id = rig.append("content");
  rig.write_all();
  const std::uint32_t slot = rig.log().index().segment(0).slot.value;
  rig.disk().files.at(slot)[20] ^= std::byte{1};
  rig.crash();
  rig.start();
  EXPECT_EQ(ids_of(rig.replay()), std::vector{id});
  const std::uint32_t start = rig.log().start();
  const std::uint32_t newest = rig.log().index().segment(1).slot.value;
  rig.crash();
  rig.disk().files.at(newest)[20] ^= std::byte{1};
  rig.disk().files.at(newest)[block_bytes + 20] ^= std::byte{1};
  const std::vector<std::byte> damaged = rig.disk().files.at(newest);
  rig.start();
  EXPECT_EQ(rig.report.segments_set_aside, 1u);
  EXPECT_EQ(ids_of(rig.replay()), std::vector{id});
  EXPECT_GT(rig.log().start(), start) << "the start that the damaged header hides is not given again";
  (void)rig.append("more");
  rig.write_all();
  EXPECT_EQ(rig.disk().files.at(newest), damaged) << "left alone";
}

TEST(Recovery, AMissingSegmentIsAnAlarm) {
  Rig rig(Rig::small());
  rig.start();
  for (std::uint64_t i = 0; i < 60; ++i) (void)rig.append(filler(6000, i));
  rig.write_all();
  const std::uint32_t slot = rig.log().index().segment(1).slot.value;
  rig.crash();
  rig.disk().files.erase(slot);
  rig.start();
  ASSERT_EQ(rig.report.alarms.size(), 1u);
  EXPECT_NE(rig.report.alarms[0].find("segment 2 is missing"), std::string::npos) << rig.report.alarms[0];
  EXPECT_GT(rig.replay().size(), 20u);
}

TEST(Recovery, FilesWhoseMakingWasInterruptedAreMadeAnew) {
  Rig rig(Rig::small());
  rig.disk().files[0].assign(100, std::byte{0});
  rig.disk().files[1].assign(Rig::small().segment_bytes, std::byte{0});
  rig.start();
  EXPECT_TRUE(rig.report.alarms.empty());
  const mail::QueueId id = rig.append("content");
  rig.write_all();
  EXPECT_FALSE(rig.disk().files.contains(0));
  rig.crash();
  rig.start();
  EXPECT_EQ(ids_of(rig.replay()), std::vector{id});
}

// The record's checksum is keyed, so only the log itself can write such a record: here by changing one and its
// checksums.
void change_kind(Rig& rig, mail::Location location, std::uint8_t flags) {
  const Segment& segment = rig.log().index().segment(0);
  std::byte* const file = rig.disk().files.at(segment.slot.value).data();
  std::byte* const at = file + offset_of(location.position);
  RecordHeader record;
  std::memcpy(&record, at, sizeof record);
  record.kind = static_cast<RecordKind>(77);
  record.flags = flags;
  std::memcpy(at, &record, sizeof record);
  record.checksum = segment.checksum.of({at + 8, sizeof record + record.meta_bytes - 8});
  std::memcpy(at, &record, sizeof record);
  BatchHeader batch;
  std::memcpy(&batch, file + batches_offset, sizeof batch);
  ASSERT_EQ(batch.records, 1u);
  std::vector<std::byte> covered(sizeof batch);
  std::memcpy(covered.data(), reinterpret_cast<const std::byte*>(&batch) + 8, sizeof batch - 8);
  std::memcpy(covered.data() + sizeof batch - 8, &record.checksum, 8);
  batch.checksum = segment.checksum.of(covered);
  std::memcpy(file + batches_offset, &batch, sizeof batch);
}

TEST(Recovery, UnknownRecordsAreIgnoredOrRefuseTheStart) {
  for (const std::uint8_t flags : {std::uint8_t{0}, RecordHeader::ignorable}) {
    Rig rig(Rig::small());
    rig.start();
    const mail::QueueId id = rig.append("x");
    rig.write_all();
    change_kind(rig, rig.locate(id), flags);
    rig.crash();
    std::vector<SlotFile> files;
    for (const auto& [slot, bytes] : rig.disk().files) files.push_back({Slot{slot}, bytes.size()});
    Recovery recovery(5, Rig::small(), std::move(files));
    while (!recovery.done()) {
      const auto read = recovery.take_read();
      ASSERT_TRUE(read);
      recovery.on_read(rig.disk().read(read->slot, read->offset, read->target));
    }
    EXPECT_EQ(recovery.status().code(), flags == 0 ? StatusCode::kFailedPrecondition : StatusCode::kOk);
  }
}

TEST(Recovery, ANewerFormatIsRefused) {
  Rig rig(Rig::small());
  rig.start();
  rig.crash();
  for (auto& [slot, bytes] : rig.disk().files) {
    SegmentHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    if (header.sequence == 0) continue;
    header.version = 2;
    header.checksum = Checksum().of({reinterpret_cast<const std::byte*>(&header) + 8, sizeof header - 8});
    std::memcpy(bytes.data(), &header, sizeof header);
  }
  std::vector<SlotFile> files;
  for (const auto& [slot, bytes] : rig.disk().files) files.push_back({Slot{slot}, bytes.size()});
  Recovery recovery(5, Rig::small(), std::move(files));
  while (!recovery.done()) {
    const auto read = recovery.take_read();
    ASSERT_TRUE(read);
    recovery.on_read(rig.disk().read(read->slot, read->offset, read->target));
  }
  EXPECT_EQ(recovery.status().code(), StatusCode::kFailedPrecondition);
}

TEST(Recovery, ContentThatLooksLikeRecordsIsContent) {
  Rig rig(Rig::small());
  rig.start();
  // A batch of an earlier segment, byte for byte, as content; then the batch around it is torn off.
  const mail::QueueId first = rig.append("victim");
  rig.write_all();
  const std::vector<std::byte>& file = rig.disk().files.at(0);
  const std::string copy(reinterpret_cast<const char*>(file.data() + batches_offset), block_bytes);
  const std::string content = copy + copy.substr(0, 2000);
  const mail::QueueId second = rig.append(content);
  rig.write_all();
  rig.crash();
  rig.start();
  EXPECT_EQ(rig.report.salvaged_messages, 0u);
  const auto all = rig.replay();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].id, first);
  EXPECT_EQ(all[1].id, second);
  EXPECT_EQ(all[1].content, content);
}

TEST(Recovery, ReplayLeavesOutWhatCameAfterTheStart) {
  Rig rig(Rig::small());
  rig.start();
  const mail::QueueId old = rig.append("old");
  rig.write_all();
  rig.crash();
  rig.start();
  (void)rig.append("new");
  rig.write_all();
  EXPECT_EQ(ids_of(rig.replay()), std::vector{old});
}

TEST(Recovery, SegmentsOfAnotherSizeAreReadAndThenReplaced) {
  Disk disk;
  mail::QueueId id;
  {
    Rig rig(Rig::small());
    rig.start();
    id = rig.append("old size");
    rig.write_all();
    rig.crash();
    disk = rig.disk();
  }
  Options larger = Rig::small();
  larger.segment_bytes = 256u << 10;
  Rig rig(larger);
  rig.disk() = disk;
  rig.start();
  EXPECT_EQ(ids_of(rig.replay()), std::vector{id});
  ASSERT_TRUE(rig.log().append_settlement(rig.locate(id), id, 0, mail::Outcome::relayed, {}).ok());
  rig.run();
  for (std::uint64_t i = 0; i < 60; ++i) {
    const mail::QueueId other = rig.append(filler(6000, i));
    ASSERT_TRUE(rig.log().append_settlement(rig.locate(other), other, 0, mail::Outcome::relayed, {}).ok());
  }
  rig.run();
  for (const auto& [slot, bytes] : rig.disk().files) EXPECT_EQ(bytes.size(), larger.segment_bytes) << slot;
}

}  // namespace
}  // namespace postern::spool::test
