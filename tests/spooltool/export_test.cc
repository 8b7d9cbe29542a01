#include <filesystem>

#include "tests/spooltool/fixture.h"

namespace postern::spooltool::test {
namespace {

using namespace std::string_literals;
using spool::test::filler;

class Export : public SpoolTool {
 protected:
  const std::string to = folder + "/out";

  Ran take_out(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "export");
    arguments.insert(arguments.end(), {to, "--data-dir", data_dir});
    return run(std::move(arguments));
  }
  [[nodiscard]] std::string content(mail::QueueId id) const { return read_text(to + "/" + id.to_string() + ".eml"); }
  [[nodiscard]] nlohmann::json facts(mail::QueueId id) const {
    return nlohmann::json::parse(read_text(to + "/" + id.to_string() + ".json"));
  }
  [[nodiscard]] std::size_t files() const {
    std::size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(to)) count += entry.is_regular_file() ? 1u : 0u;
    return count;
  }
};

TEST_F(Export, ContentAsItWasSentAndTheEnvelopeBesideIt) {
  rig.start();
  const mail::QueueId stuffed = append("Subject: a\r\n\r\n..dot\r\nend\r\n", 2, mail::ContentForm::dot_stuffed);
  const mail::QueueId plain = append("Subject: b\r\n\r\n.dot\r\nend", 1, mail::ContentForm::plain);
  const mail::QueueId binary = append("Subject: c\r\n\r\n.\n\0x\r\n"s, 1, mail::ContentForm::binary);
  settle(stuffed, 1);
  settle(append("gone"));
  rig.write_all();
  save();
  const Ran ran = take_out({"--all"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.out, "3 messages exported into " + to + "\n");
  EXPECT_EQ(files(), 6u) << "and no unfinished ones";
  EXPECT_EQ(content(stuffed), "Subject: a\r\n\r\n.dot\r\nend\r\n");
  EXPECT_EQ(content(plain), "Subject: b\r\n\r\n.dot\r\nend");
  EXPECT_EQ(content(binary), "Subject: c\r\n\r\n.\n\0x\r\n"s);
  const nlohmann::json found = facts(stuffed);
  EXPECT_EQ(found["queue_id"], stuffed.to_string());
  EXPECT_EQ(found["content_file"], stuffed.to_string() + ".eml");
  EXPECT_EQ(found["content_bytes"], content(stuffed).size());
  EXPECT_EQ(found["complete"], true);
  EXPECT_EQ(found["reverse_path"], "sender@client.test");
  EXPECT_EQ(found["recipients"][0]["forward_path"], "r0@hop.test");
  EXPECT_EQ(found["recipients"][0]["state"], "waiting");
  EXPECT_EQ(found["recipients"][1]["state"], "settled");
  EXPECT_EQ(std::filesystem::status(to).permissions(), std::filesystem::perms::owner_all);
  EXPECT_TRUE(untouched());
}

TEST_F(Export, LfLineEndsAndOurOwnFieldOnRequest) {
  rig.start();
  const mail::QueueId stuffed = append("Subject: a\r\n\r\n..dot\r\n", 1, mail::ContentForm::dot_stuffed);
  const mail::QueueId plain = append("Subject: b\r\n\r\nx\r\n", 1, mail::ContentForm::plain);
  rig.write_all();
  save();
  EXPECT_EQ(take_out({"--lf", "--trace", stuffed.to_string(), plain.to_string()}).code, 0);
  EXPECT_EQ(content(stuffed), "Received: by us\nSubject: a\n\n.dot\n");
  EXPECT_EQ(content(plain), "Received: by us\nSubject: b\n\nx\n");
  EXPECT_EQ(facts(plain)["line_ends"], "LF");
}

TEST_F(Export, ChunksOverSeveralSegmentsComeTogether) {
  rig.start();
  const std::string text = filler(200'000, 7);
  const mail::QueueId id = append_large(text);
  ASSERT_GT(rig.log().figures().segments_sealed, 0u);
  save();
  EXPECT_EQ(take_out({id.to_string()}).code, 0);
  EXPECT_EQ(content(id), text);
}

TEST_F(Export, NothingIsOverwrittenWithoutForce) {
  rig.start();
  const mail::QueueId first = append("first");
  const mail::QueueId second = append("second");
  rig.write_all();
  save();
  write_text(to + "/" + first.to_string() + ".eml", "precious");
  const Ran ran = take_out({"--all", "--json"});
  EXPECT_EQ(ran.code, 13);
  EXPECT_NE(ran.err.find("--force"), std::string::npos) << ran.err;
  EXPECT_EQ(ran.json()["exported"], 1);
  EXPECT_EQ(ran.json()["kept"], 1);
  EXPECT_EQ(content(first), "precious");
  EXPECT_EQ(content(second), "second");
  EXPECT_EQ(take_out({"--all", "--force"}).code, 0);
  EXPECT_EQ(content(first), "first");
}

TEST_F(Export, MoreThanOneFlushOfThem) {
  rig.start();
  std::vector<mail::QueueId> ids;
  for (std::uint64_t i = 0; i < 600; ++i) ids.push_back(append(std::to_string(i)));
  rig.write_all();
  save();
  EXPECT_EQ(take_out({"--all"}).code, 0);
  EXPECT_EQ(files(), 1200u);
  for (std::size_t i = 0; i < ids.size(); ++i) EXPECT_EQ(content(ids[i]), std::to_string(i));
}

TEST_F(Export, AnUnknownMessageIsExit2AndTheOthersAreThere) {
  rig.start();
  const mail::QueueId id = append("here");
  rig.write_all();
  save();
  const mail::QueueId unknown{id.value + 5};
  const Ran ran = take_out({id.to_string(), unknown.to_string()});
  EXPECT_EQ(ran.code, 2);
  EXPECT_NE(ran.err.find(unknown.to_string()), std::string::npos) << ran.err;
  EXPECT_EQ(content(id), "here");
}

TEST_F(Export, WhereNothingCanBeWrittenIsExit13) {
  rig.start();
  (void)append("here");
  rig.write_all();
  save();
  write_text(folder + "/file", "");
  for (const std::string& place : {folder + "/nowhere/deeper", folder + "/file"}) {
    const Ran ran = run({"export", "--all", place, "--data-dir", data_dir});
    EXPECT_EQ(ran.code, 13) << place;
    EXPECT_NE(ran.err.find(place), std::string::npos) << ran.err;
  }
}

TEST_F(Export, AMissingPieceIsToldOrOnRequestLeftOut) {
  rig.start();
  const std::string text = filler(200'000, 7);
  const mail::QueueId large = append_large(text);
  const mail::QueueId small = append("small");
  rig.write_all();
  ASSERT_GT(rig.log().figures().segments_sealed, 0u);
  file(0)[50'000] ^= std::byte{1};
  save();
  Ran ran = take_out({"--all"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find(large.to_string() + ": logs/005/00000000.seg at offset"), std::string::npos) << ran.err;
  EXPECT_EQ(files(), 2u) << "no half of it, and no unfinished file";
  EXPECT_EQ(content(small), "small");

  ran = take_out({"--all", "--include-damaged", "--force", "--json"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.json()["exported"], 2);
  EXPECT_EQ(ran.json()["incomplete"], 1);
  const nlohmann::json found = facts(large);
  EXPECT_EQ(found["complete"], false);
  ASSERT_EQ(found["missing"].size(), 1u);
  const std::size_t offset = found["missing"][0]["offset"];
  const std::size_t bytes = found["missing"][0]["bytes"];
  EXPECT_EQ(content(large), text.substr(0, offset) + text.substr(offset + bytes));
}

TEST_F(Export, WhatIsWholeInASegmentThatWasSetAside) {
  rig.start();
  const mail::QueueId delivered = append(filler(1000, 1));
  const mail::QueueId open = append(filler(1000, 2));
  const mail::QueueId hit = append(filler(1000, 3));
  settle(delivered);
  rig.write_all();
  settle(append("behind"));
  rig.write_all();
  damage_content(hit);
  save();
  // As posternd would, once nothing in it waits for the log.
  std::filesystem::rename(segment_path(0), data_dir + "/logs/005/damaged-1.seg");
  EXPECT_EQ(take_out({"--all", "--json"}).json()["exported"], 0);
  const Ran ran = take_out({"--all", "--include-damaged", "--json"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.json()["from_damaged_segments"], 1);
  EXPECT_EQ(content(open), filler(1000, 2));
  EXPECT_EQ(facts(open)["recipients"][0]["state"], "unknown");
  EXPECT_EQ(facts(open)["source"], "logs/005/damaged-1.seg");
  EXPECT_EQ(files(), 2u) << "not what a whole settlement says was delivered";
}

TEST_F(Export, WhatASettlementInALaterSegmentSaysWasDeliveredStaysOut) {
  rig.start();
  const mail::QueueId delivered = append(filler(1000, 1));
  const mail::QueueId hit = append(filler(1000, 2));
  rig.write_all();
  (void)append(filler(1000, 3));
  rig.write_all();
  damage_content(hit);
  rig.crash();
  rig.start();  // the damage is found: the segment is sealed and kept for people
  ASSERT_TRUE(rig.log().index().segment(0).set_aside);
  const mail::Location at = rig.replay().front().location;
  ASSERT_TRUE(rig.log().append_settlement(at, delivered, 0, mail::Outcome::relayed, {}).ok());
  rig.write_all();
  save();
  const Ran ran = take_out({"--all", "--include-damaged", "--json"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(ran.json()["exported"], 1) << "the one that waits";
  EXPECT_EQ(ran.json()["from_damaged_segments"], 0);
  EXPECT_EQ(run({"check", data_dir}).code, 1);
}

TEST_F(Export, WhatRecoveryLostIsSaidThoughAllThatWaitsIsThere) {
  rig.start();
  const mail::QueueId hit = append(filler(1000, 1));
  const mail::QueueId kept = append(filler(1000, 2));
  rig.write_all();
  (void)append("behind");
  rig.write_all();
  damage_content(hit);
  save();
  const Ran ran = take_out({"--all"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("are damaged"), std::string::npos) << ran.err;
  EXPECT_EQ(content(kept), filler(1000, 2));
  EXPECT_EQ(files(), 4u);
}

}  // namespace
}  // namespace postern::spooltool::test
