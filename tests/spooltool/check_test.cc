#include <cstring>
#include <filesystem>

#include "tests/spooltool/fixture.h"

namespace postern::spooltool::test {
namespace {

using spool::test::filler;

class Check : public SpoolTool {
 protected:
  nlohmann::json check(int wanted) {
    const Ran ran = run({"check", data_dir, "--json"});
    EXPECT_EQ(ran.code, wanted) << ran.out << ran.err;
    EXPECT_TRUE(ran.err.empty()) << ran.err;
    EXPECT_EQ(run({"check", data_dir}).code, wanted);
    return ran.json();
  }
};

TEST_F(Check, CountsWhatWaitsAndWhereAndChangesNothing) {
  rig.start();
  const mail::QueueId two = append("two recipients", 2);
  settle(two, 1);
  (void)append(filler(5000, 1), 3);
  settle(append("delivered"));
  rig.write_all();
  save();
  const nlohmann::json found = check(0);
  EXPECT_EQ(found["sound"], true);
  EXPECT_EQ(found["in_use"], false);
  ASSERT_EQ(found["logs"].size(), 1u);
  const nlohmann::json& log = found["logs"][0];
  EXPECT_EQ(log["log"], "005");
  EXPECT_EQ(log["messages"], 2);
  EXPECT_EQ(log["recipients"]["waiting"], 4);
  EXPECT_EQ(log["recipients"]["settled"], 1);
  EXPECT_EQ(log["segments"]["open"], 1);
  EXPECT_EQ(log["segments"]["sealed"], 0);
  EXPECT_EQ(log["segments"]["damaged"], 0);
  EXPECT_EQ(log["records"], 5);
  EXPECT_EQ(log["damage"].size(), 0u);
  const std::string text = run({"check", data_dir}).out;
  EXPECT_NE(text.find("4 waiting, 1 of the same messages settled"), std::string::npos) << text;
  EXPECT_TRUE(text.ends_with("sound\n")) << text;
  EXPECT_TRUE(untouched());
}

TEST_F(Check, ReadsSealedSegmentsWhole) {
  rig.start();
  for (std::uint64_t i = 0; i < 100; ++i) {
    const mail::QueueId id = append(filler(3000, i));
    rig.write_all();
    if (i % 2 == 0) settle(id);
  }
  rig.write_all();
  ASSERT_GT(rig.log().figures().segments_sealed, 1u);
  save();
  const nlohmann::json log = check(0)["logs"][0];
  EXPECT_EQ(log["messages"], 50);
  EXPECT_GT(log["segments"]["sealed"], 1);
  EXPECT_EQ(log["segments"]["open"], 1);
  EXPECT_EQ(log["records"], 150) << "delivered ones as well";
}

TEST_F(Check, AFlippedBitInASealedSegmentIsFoundThoughNoStartReadsIt) {
  rig.start();
  std::vector<mail::QueueId> ids;
  for (std::uint64_t i = 0; i < 100; ++i) {
    ids.push_back(append(filler(3000, i)));
    rig.write_all();
  }
  ASSERT_GT(rig.log().figures().segments_sealed, 1u);
  damage_content(ids[3]);
  const std::uint64_t offset = spool::offset_of(rig.locate(ids[3]).position);
  save();
  const nlohmann::json found = check(1);
  const nlohmann::json& log = found["logs"][0];
  EXPECT_EQ(log["hurt"], nlohmann::json::array({ids[3].to_string()}));
  EXPECT_EQ(log["messages"], 100);
  EXPECT_EQ(log["segments"]["damaged"], 1);
  EXPECT_TRUE(log["alarms"].empty()) << "recovery reads the summary alone";
  ASSERT_GE(log["damage"].size(), 2u);
  EXPECT_EQ(log["damage"][0]["file"], "logs/005/00000000.seg");
  EXPECT_EQ(log["damage"][0]["offset"], spool::round_down(offset, spool::block_bytes)) << "the batch";
  EXPECT_EQ(log["damage"][1]["offset"], offset) << "the message";
  const std::string text = run({"check", data_dir}).out;
  EXPECT_NE(text.find("DAMAGE"), std::string::npos) << text;
  EXPECT_NE(text.find(ids[3].to_string()), std::string::npos) << text;
  EXPECT_TRUE(untouched());
}

TEST_F(Check, DamageToWhatWasDeliveredHurtsNoMessage) {
  rig.start();
  const mail::QueueId done = append(filler(3000, 1));
  rig.write_all();
  settle(done);
  (void)append(filler(3000, 2));
  rig.write_all();
  damage_content(done);
  save();
  const nlohmann::json log = check(1)["logs"][0];
  EXPECT_EQ(log["hurt_count"], 0);
  EXPECT_EQ(log["damage_count"], 1);
  EXPECT_EQ(log["alarms"].size(), 1u) << "this segment posternd reads at a start";
}

TEST_F(Check, ATornTailIsNoDamage) {
  rig.start();
  (void)append(filler(3000, 1));
  rig.write_all();
  (void)append(filler(7000, 2));
  ASSERT_TRUE(rig.begin_write());
  rig.end_write();
  damage_content(mail::QueueId{rig.locations_.rbegin()->first});
  save();
  const nlohmann::json log = check(0)["logs"][0];
  EXPECT_EQ(log["messages"], 1);
  EXPECT_GT(log["bytes"]["torn"], 7000);
}

TEST_F(Check, ATruncatedSegmentIsDamage) {
  rig.start();
  for (std::uint64_t i = 0; i < 60; ++i) {
    (void)append(filler(3000, i));
    rig.write_all();
  }
  ASSERT_GT(rig.log().figures().segments_sealed, 0u);
  save();
  std::filesystem::resize_file(segment_path(0), 40'000);
  const nlohmann::json log = check(1)["logs"][0];
  EXPECT_EQ(log["damage"][0]["file"], "logs/005/00000000.seg");
  EXPECT_FALSE(log["alarms"].empty());
}

TEST_F(Check, AMissingSegmentIsToldWithTheMessagesThatNeedIt) {
  rig.start();
  const mail::QueueId large = append_large(filler(200'000, 7));
  ASSERT_GT(rig.log().figures().segments_sealed, 0u);
  rig.disk().files.erase(0);
  save();
  const nlohmann::json log = check(1)["logs"][0];
  EXPECT_EQ(log["hurt"], nlohmann::json::array({large.to_string()}));
  ASSERT_EQ(log["alarms"].size(), 1u);
  EXPECT_NE(std::string(log["alarms"][0]).find("segment 1 is missing"), std::string::npos);
}

TEST_F(Check, ADamagedChunkHurtsTheMessageInALaterSegment) {
  rig.start();
  const mail::QueueId large = append_large(filler(200'000, 7));
  ASSERT_GT(rig.log().figures().segments_sealed, 0u);
  file(0)[50'000] ^= std::byte{1};
  save();
  EXPECT_EQ(check(1)["logs"][0]["hurt"], nlohmann::json::array({large.to_string()}));
}

TEST_F(Check, ADamagedHeaderIsDamageAndOneCopyIsNone) {
  rig.start();
  (void)append("one");
  rig.write_all();
  file(0)[20] ^= std::byte{1};
  save();
  EXPECT_EQ(check(0)["logs"][0]["messages"], 1);
  file(0)[spool::block_bytes + 20] ^= std::byte{1};
  save();
  const nlohmann::json log = check(1)["logs"][0];
  EXPECT_EQ(log["messages"], 0);
  EXPECT_EQ(log["segments"]["damaged"], 1);
  EXPECT_EQ(log["damage"][0]["file"], "logs/005/00000000.seg");
}

TEST_F(Check, ADamagedSummaryIsToldAndNothingIsLost) {
  rig.start();
  for (std::uint64_t i = 0; i < 60; ++i) {
    (void)append(filler(3000, i));
    rig.write_all();
  }
  ASSERT_GT(rig.log().figures().segments_sealed, 0u);
  file(0)[file(0).size() - 10] ^= std::byte{1};
  save();
  const nlohmann::json log = check(1)["logs"][0];
  EXPECT_EQ(log["messages"], 60);
  EXPECT_EQ(log["hurt_count"], 0);
  EXPECT_EQ(log["damage"][0]["offset"], file(0).size() - spool::block_bytes);
}

TEST_F(Check, AnEnvelopeThatMakesNoSenseHurtsItsMessage) {
  rig.start();
  const mail::QueueId id = rig.append("content", "this is no envelope");
  rig.write_all();
  save();
  EXPECT_EQ(check(1)["logs"][0]["hurt"], nlohmann::json::array({id.to_string()}));
}

TEST_F(Check, AMessageIsHurtOnceHoweverMuchOfItIs) {
  rig.start();
  const mail::QueueId id = rig.append("content", "this is no envelope");
  const mail::QueueId hit = append(filler(3000, 1));
  for (std::uint64_t i = 0; i < 60; ++i) {
    (void)append(filler(3000, i));
    rig.write_all();
  }
  ASSERT_GT(rig.log().figures().segments_sealed, 0u);
  damage_content(hit);
  save();
  EXPECT_EQ(check(1)["logs"][0]["hurt"], nlohmann::json::array({id.to_string(), hit.to_string()}));
}

TEST_F(Check, FilesThatWereSetAsideAndForeignFilesAreTold) {
  rig.start();
  (void)append("one");
  rig.write_all();
  save();
  write_text(data_dir + "/logs/005/notes.txt", "mine");
  write_text(data_dir + "/logs/lost+found/x", "theirs");
  nlohmann::json found = check(0);
  EXPECT_EQ(found["foreign"], nlohmann::json::array({"logs/lost+found"}));
  EXPECT_EQ(found["logs"][0]["foreign"], nlohmann::json::array({"logs/005/notes.txt"}));
  std::filesystem::copy(segment_path(0), data_dir + "/logs/005/damaged-9.seg");
  found = check(1);
  EXPECT_EQ(found["logs"][0]["segments"]["set_aside"], 1);
  EXPECT_EQ(found["logs"][0]["damage"][0]["file"], "logs/005/damaged-9.seg");
  EXPECT_NE(std::string(found["logs"][0]["damage"][0]["what"]).find("1 message in it"), std::string::npos);
}

TEST_F(Check, ASecondFileOfASegmentAndAFileInTheWrongPlaceAreTold) {
  rig.start();
  (void)append("one");
  rig.write_all();
  save();
  std::filesystem::copy(segment_path(0), segment_path(77));
  const nlohmann::json log = check(1)["logs"][0];
  EXPECT_EQ(log["messages"], 1);
  EXPECT_EQ(log["damage"][0]["file"], "logs/005/0000004d.seg");
  EXPECT_NE(std::string(log["damage"][0]["what"]).find("logs/005/00000000.seg by its header"), std::string::npos);
}

TEST_F(Check, ANewerFormatIsNotJudged) {
  rig.start();
  rig.write_all();
  spool::SegmentHeader header;
  std::memcpy(&header, file(0).data(), sizeof header);
  header.version = 2;
  header.checksum = spool::Checksum().of(
      Bytes(reinterpret_cast<const std::byte*>(&header), sizeof header).subspan(sizeof(std::uint64_t)));
  std::memcpy(file(0).data(), &header, sizeof header);
  save();
  const Ran ran = run({"check", data_dir});
  EXPECT_EQ(ran.code, 12);
  EXPECT_NE(ran.out.find("use the program that wrote it"), std::string::npos) << ran.out;
}

// Whatever stands in the files: an end, one of the documented codes, and nothing written.
TEST_F(Check, RandomDamageEndsInADocumentedCode) {
  rig.start();
  for (std::uint64_t i = 0; i < 30; ++i) {
    (void)append(filler(2000, i));
    rig.write_all();
  }
  (void)append_large(filler(60'000, 3));
  const spool::test::Disk whole = rig.disk();
  Random random(11);
  for (int round = 0; round < 15; ++round) {
    rig.disk() = whole;
    for (auto& [slot, bytes] : rig.disk().files) {
      for (int i = 0; i < 4; ++i) {
        const std::size_t at = random.below(bytes.size());
        const std::size_t size = std::min<std::size_t>(random.below(300) + 1, bytes.size() - at);
        std::memset(bytes.data() + at, static_cast<int>(random.below(256)), size);
      }
    }
    save();
    const Ran ran = run({"check", data_dir, "--json"});
    EXPECT_TRUE(ran.code == 0 || ran.code == 1) << ran.code << ran.err;
    EXPECT_EQ(ran.json()["sound"], ran.code == 0);
    const int dumped = run({"dump", data_dir, "--json"}).code;
    EXPECT_TRUE(dumped == 0 || dumped == 1) << dumped;
    const std::string to = folder + "/out" + std::to_string(round);
    const int exported = run({"export", "--all", "--include-damaged", to, "--data-dir", data_dir}).code;
    EXPECT_TRUE(exported == 0 || exported == 1) << exported;
    EXPECT_TRUE(untouched());
  }
}

}  // namespace
}  // namespace postern::spooltool::test
