#include "tests/spooltool/fixture.h"

namespace postern::spooltool::test {
namespace {

using spool::test::filler;
using Show = SpoolTool;

TEST_F(Show, EnvelopeStatesPlaceAndHeader) {
  rig.start();
  const mail::QueueId id = append("Subject: hello\r\nX: \x01\r\n\r\n..body\r\n", 3, mail::ContentForm::dot_stuffed);
  defer(id, 0,
        {.attempts = 2, .due = WallTime(std::chrono::seconds(1'800'000'100)), .last_reply = {450, {4, 2, 1}, "later"}});
  settle(id, 1);
  rig.write_all();
  save();
  const Ran ran = run({"show", id.to_string(), "--data-dir", data_dir, "--json"});
  EXPECT_EQ(ran.code, 0) << ran.err;
  const nlohmann::json found = ran.json();
  EXPECT_EQ(found["queue_id"], id.to_string());
  EXPECT_EQ(found["reverse_path"], "sender@client.test");
  EXPECT_EQ(found["received_at"], "2027-01-15T08:00:00.000Z");
  EXPECT_EQ(found["file"], "logs/005/00000000.seg");
  EXPECT_EQ(found["offset"], spool::offset_of(rig.locate(id).position));
  ASSERT_EQ(found["recipients"].size(), 3u);
  EXPECT_EQ(found["recipients"][0]["forward_path"], "r0@hop.test");
  EXPECT_EQ(found["recipients"][0]["state"], "waiting");
  EXPECT_EQ(found["recipients"][0]["attempts"], 2);
  EXPECT_EQ(found["recipients"][0]["next_due"], "2027-01-15T08:01:40.000Z");
  EXPECT_EQ(found["recipients"][0]["last_reply"], "450 4.2.1 later");
  EXPECT_EQ(found["recipients"][1]["state"], "settled");
  EXPECT_EQ(found["recipients"][2]["state"], "waiting");
  EXPECT_EQ(found["recipients"][2]["attempts"], 0);
  EXPECT_EQ(found["header"], (std::vector<std::string>{"Subject: hello", "X: \x01"}));
  EXPECT_EQ(found["added_fields"], "Received: by us\r\n");

  // Lower case is as good, and what a peer wrote is escaped for the terminal.
  std::string lower = id.to_string();
  for (char& c : lower) c = static_cast<char>(std::tolower(c));
  const Ran shown = run({"show", lower, "--data-dir", data_dir, "--lines", "1"});
  EXPECT_EQ(shown.code, 0);
  EXPECT_NE(shown.out.find("<r0@hop.test> waiting, 2 attempts, next due 2027-01-15T08:01:40.000Z"), std::string::npos)
      << shown.out;
  EXPECT_NE(shown.out.find("Subject: hello\n"), std::string::npos) << shown.out;
  EXPECT_EQ(shown.out.find("X: "), std::string::npos) << shown.out;
  EXPECT_NE(run({"show", lower, "--data-dir", data_dir}).out.find("X: \\x01\n"), std::string::npos);
  EXPECT_TRUE(untouched());
}

TEST_F(Show, WhatTheSenderAskedForAndWasTold) {
  rig.start();
  mail::EnvelopeHead head = usual_head();
  head.require_tls = true;
  head.deliver_by = WallTime(std::chrono::seconds(1'800'000'600));
  head.deliver_by_returns = head.deliver_by_trace = true;
  head.priority = -3;
  const mail::QueueId id = rig.append("Subject: soon\r\n", envelope(2, head), 2);
  defer(id, 0,
        {.attempts = 1,
         .due = WallTime(std::chrono::seconds(1'800'000'100)),
         .last_reply = {450, {4, 2, 1}, "later"},
         .warned = true});
  defer(id, 1,
        {.attempts = 1, .due = WallTime(std::chrono::seconds(1'800'000'100)), .last_reply = {450, {4, 2, 1}, "later"}});
  rig.write_all();
  save();
  const nlohmann::json found = run({"show", id.to_string(), "--data-dir", data_dir, "--json"}).json();
  EXPECT_EQ(found["require_tls"], true);
  EXPECT_EQ(found["deliver_by"], "2027-01-15T08:10:00.000Z");
  EXPECT_EQ(found["deliver_by_mode"], "RT");
  EXPECT_EQ(found["recipients"][0]["warned"], true);
  EXPECT_EQ(found["recipients"][1]["warned"], false);

  const Ran shown = run({"show", id.to_string(), "--data-dir", data_dir});
  EXPECT_NE(shown.out.find("asks for    REQUIRETLS, delivery by 2027-01-15T08:10:00.000Z (RT), priority -3\n"),
            std::string::npos)
      << shown.out;
  EXPECT_NE(shown.out.find("<r0@hop.test> waiting, 1 attempt, next due 2027-01-15T08:01:40.000Z, last reply: 450 4.2.1 "
                           "later, no (further) notice of delay\n"),
            std::string::npos)
      << shown.out;
  EXPECT_NE(shown.out.find("last reply: 450 4.2.1 later\n"), std::string::npos) << shown.out;
}

TEST_F(Show, TheLatestPlaceOfAMessageThatWasMoved) {
  rig.start();
  const mail::QueueId id = append("Subject: long waiting\r\n\r\n", 1, mail::ContentForm::dot_stuffed);
  rig.write_all();
  for (std::uint64_t i = 0; i < 400; ++i) {
    settle(append(filler(3000, i)));
    rig.write_all();
  }
  rig.run();
  ASSERT_FALSE(rig.moved.empty());
  save();
  const nlohmann::json found = run({"show", id.to_string(), "--data-dir", data_dir, "--json"}).json();
  EXPECT_GT(found["segment"], 1);
  EXPECT_EQ(found["header"], (std::vector<std::string>{"Subject: long waiting"}));
}

TEST_F(Show, AMessageThatDoesNotWaitIsExit2) {
  rig.start();
  const mail::QueueId done = append("done");
  settle(done);
  rig.write_all();
  save();
  for (const mail::QueueId id : {done, mail::QueueId::from_parts(9, 1, 1)}) {
    const Ran ran = run({"show", id.to_string(), "--data-dir", data_dir});
    EXPECT_EQ(ran.code, 2);
    EXPECT_NE(ran.err.find(id.to_string()), std::string::npos) << ran.err;
  }
}

TEST_F(Show, AMessageThatCannotBeReadIsExit1AndNamesTheFile) {
  rig.start();
  std::vector<mail::QueueId> ids;
  for (std::uint64_t i = 0; i < 60; ++i) {
    ids.push_back(append(filler(3000, i)));
    rig.write_all();
  }
  ASSERT_GT(rig.log().figures().segments_sealed, 0u);
  damage_content(ids[0]);
  save();
  const Ran ran = run({"show", ids[0].to_string(), "--data-dir", data_dir});
  EXPECT_EQ(ran.code, 1);
  EXPECT_NE(ran.err.find("logs/005/00000000.seg at offset 8256"), std::string::npos) << ran.err;
  EXPECT_EQ(run({"show", ids[1].to_string(), "--data-dir", data_dir}).code, 0);
}

}  // namespace
}  // namespace postern::spooltool::test
