#include <algorithm>
#include <filesystem>

#include "tests/spooltool/fixture.h"

namespace postern::spooltool::test {
namespace {

using spool::test::filler;
using Dump = SpoolTool;

std::vector<std::string> types_of(const std::vector<nlohmann::json>& lines) {
  std::vector<std::string> types;
  for (const nlohmann::json& line : lines) types.push_back(line["type"]);
  return types;
}

TEST_F(Dump, OneLinePerRecordInOrder) {
  rig.start();
  const mail::QueueId id = append("content", 2);
  rig.write_all();
  defer(id, 0,
        {.attempts = 3,
         .due = WallTime(std::chrono::seconds(1'800'000'100)),
         .last_reply = {450, {4, 2, 1}, "later\x01"}});
  settle(id, 1, mail::Outcome::failed);
  rig.write_all();
  save();
  const Ran ran = run({"dump", data_dir, "--json"});
  EXPECT_EQ(ran.code, 0);
  const auto lines = ran.json_lines();
  EXPECT_EQ(types_of(lines), (std::vector<std::string>{"segment", "batch", "message", "batch", "retry", "settled"}));
  const nlohmann::json& message = lines[2];
  EXPECT_EQ(message["file"], "logs/005/00000000.seg");
  EXPECT_EQ(message["offset"], spool::offset_of(rig.locate(id).position));
  EXPECT_EQ(message["queue_id"], id.to_string());
  EXPECT_EQ(message["recipients"], 2);
  EXPECT_EQ(message["content_bytes"], 7);
  EXPECT_EQ(message["waiting"], 1);
  const nlohmann::json& retry = lines[4];
  EXPECT_EQ(retry["attempts"], 3);
  EXPECT_EQ(retry["next_due"], "2027-01-15T08:01:40.000Z");
  EXPECT_EQ(retry["last_reply"], "450 4.2.1 later\\x01");
  EXPECT_EQ(retry["message"]["offset"], message["offset"]);
  EXPECT_EQ(lines[5]["outcome"], "failed");
  EXPECT_EQ(lines[5]["recipient"], 1);

  const std::string text = run({"dump", data_dir}).out;
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 6);
  EXPECT_NE(text.find(id.to_string() +
                      " recipient 1 of 1:" + std::to_string(spool::offset_of(rig.locate(id).position)) + ", failed"),
            std::string::npos)
      << text;
  EXPECT_TRUE(untouched());
}

TEST_F(Dump, ChunksAndTheSegmentsTheyLieIn) {
  rig.start();
  const std::string content = filler(200'000, 7);
  const mail::QueueId id = append_large(content);
  save();
  const auto lines = run({"dump", data_dir, "--json"}).json_lines();
  std::uint64_t bytes = 0;
  std::uint64_t next = 0;
  for (const nlohmann::json& line : lines) {
    if (line["type"] != "chunk") continue;
    EXPECT_EQ(line["index"], next++);
    bytes += line["content_bytes"].get<std::uint64_t>();
  }
  EXPECT_GT(next, 30u);
  EXPECT_GT(std::count_if(lines.begin(), lines.end(), [](const auto& line) { return line["type"] == "segment"; }), 1);
  EXPECT_EQ(lines.back()["queue_id"], id.to_string());
  EXPECT_EQ(lines.back()["content_bytes"], content.size());
  EXPECT_LE(bytes, content.size());
}

TEST_F(Dump, WhatIsWholeInADamagedBatchIsMarked) {
  rig.start();
  const mail::QueueId hit = append(filler(2000, 1));
  const mail::QueueId whole = append(filler(2000, 2));
  rig.write_all();
  (void)append("behind");
  rig.write_all();
  damage_content(hit);
  save();
  const Ran ran = run({"dump", data_dir, "--json"});
  EXPECT_EQ(ran.code, 1);
  const auto lines = ran.json_lines();
  EXPECT_EQ(types_of(lines), (std::vector<std::string>{"segment", "message", "damage", "batch", "message"}));
  EXPECT_EQ(lines[1]["queue_id"], whole.to_string());
  EXPECT_EQ(lines[1]["salvaged"], true);
  EXPECT_EQ(lines[2]["offset"], spool::batches_offset);
  EXPECT_FALSE(lines[4].contains("salvaged"));
}

TEST_F(Dump, AFileWithoutAHeaderIsNamed) {
  rig.start();
  (void)append("one");
  rig.write_all();
  file(0)[20] ^= std::byte{1};
  file(0)[spool::block_bytes + 20] ^= std::byte{1};
  save();
  const Ran ran = run({"dump", data_dir, "--json"});
  EXPECT_EQ(ran.code, 1);
  ASSERT_EQ(types_of(ran.json_lines()), std::vector<std::string>{"damage"});
  EXPECT_EQ(ran.json_lines()[0]["file"], "logs/005/00000000.seg");
}

TEST_F(Dump, OneLogOrOneSegmentFileAlone) {
  rig.start();
  (void)append("one");
  rig.write_all();
  save();
  EXPECT_EQ(run({"dump", data_dir, "--log", "5", "--json"}).json_lines().size(), 3u);
  EXPECT_EQ(run({"dump", data_dir, "--segment", "logs/005/00000000.seg", "--json"}).json_lines().size(), 3u);
  // Alone it needs neither its log nor its name.
  std::filesystem::copy(segment_path(0), folder + "/rescued");
  const Ran ran = run({"dump", "--segment", folder + "/rescued", "--json"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.json_lines().size(), 3u);
  write_text(folder + "/foreign", std::string(100'000, 'x'));
  EXPECT_EQ(run({"dump", "--segment", folder + "/foreign"}).code, 1);
  EXPECT_EQ(run({"dump", "--segment", folder + "/nowhere"}).code, 11);
}

}  // namespace
}  // namespace postern::spooltool::test
