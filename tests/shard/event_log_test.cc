#include "shard/event_log.h"

#include <chrono>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

namespace postern::shard {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// 2026-11-22T06:07:13.123456Z
const WallTime some_time{seconds(1'795'327'633) + std::chrono::microseconds(123'456)};

std::string line_of(const Event& event) {
  EventClock clock;
  std::string line;
  append_event(line, event, clock);
  return line;
}

TEST(EventLine, HoldsTheFieldsOfTheManualInTheirOrder) {
  EXPECT_EQ(line_of({.kind = EventKind::relayed,
                     .time = some_time,
                     .id = mail::QueueId::from_parts(1, 2, 3),
                     .from = "a@example.org",
                     .to = "b@example.test",
                     .site = "example.test",
                     .peer = "192.0.2.1:25",
                     .reply = "250 2.0.0 Ok",
                     .elapsed = milliseconds(12)}),
            R"({"time":"2026-11-22T06:07:13.123Z","event":"relayed","id":")" +
                mail::QueueId::from_parts(1, 2, 3).to_string() +
                R"(","from":"a@example.org","to":"b@example.test","site":"example.test","peer":"192.0.2.1:25",)"
                R"("reply":"250 2.0.0 Ok","ms":12})"
                "\n");
}

TEST(EventLine, LeavesOutWhatIsAbsentButShowsTheNullReversePath) {
  EXPECT_EQ(line_of({.kind = EventKind::dsn, .time = some_time, .from = ""}),
            "{\"time\":\"2026-11-22T06:07:13.123Z\",\"event\":\"dsn\",\"from\":\"\"}\n");
}

TEST(EventLine, IsValidJsonWhateverAPeerSent) {
  std::string every_byte;
  for (int c = 0; c < 256; ++c) every_byte.push_back(static_cast<char>(c));
  const std::string line = line_of({.kind = EventKind::rejected, .time = some_time, .reply = every_byte});
  const auto parsed = nlohmann::json::parse(line, nullptr, false);
  ASSERT_FALSE(parsed.is_discarded()) << line;
  EXPECT_EQ(parsed["reply"].get<std::string>().substr(0, 0x7F), every_byte.substr(0, 0x7F));
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << "one event is one line";
}

TEST(EventLine, HasABound) {
  const std::string worst(10'000, '\x01');
  const std::string line = line_of({.kind = EventKind::disconnected,
                                    .time = some_time,
                                    .id = mail::QueueId{~std::uint64_t{0}},
                                    .from = worst,
                                    .to = worst,
                                    .site = worst,
                                    .peer = worst,
                                    .reply = worst,
                                    .protocol = worst,
                                    .tls = worst,
                                    .cipher = worst,
                                    .resumed = false,
                                    .user = worst,
                                    .mechanism = worst,
                                    .elapsed = Duration::max(),
                                    .bytes = UINT64_MAX,
                                    .count = UINT64_MAX});
  EXPECT_LE(line.size(), event_bytes_max);
  EXPECT_GT(line.size(), event_bytes_max - 512) << "the bound is derived, not guessed";
  EXPECT_FALSE(nlohmann::json::parse(line, nullptr, false).is_discarded());
}

TEST(EventClock, RoundsDownAndSurvivesSteps) {
  EventClock clock;
  char text[EventClock::text_size];
  const auto shown = [&](WallTime time) {
    clock.format(time, text);
    return std::string(text, sizeof text);
  };
  EXPECT_EQ(shown(WallTime{milliseconds(999)}), "1970-01-01T00:00:00.999Z");
  EXPECT_EQ(shown(WallTime{milliseconds(1000)}), "1970-01-01T00:00:01.000Z");
  EXPECT_EQ(shown(WallTime{milliseconds(1)}), "1970-01-01T00:00:00.001Z") << "a step back";
  EXPECT_EQ(shown(WallTime{milliseconds(-1)}), "1969-12-31T23:59:59.999Z");
}

class EventLogTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / "postern-events-XXXXXX";
    ASSERT_NE(mkdtemp(folder_.data()), nullptr);
    path_ = folder_ + "/events.jsonl";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<EventLog> start(std::size_t shards) {
    auto log = EventLog::start({.path = path_, .shards = shards, .on_trouble = {}});
    EXPECT_TRUE(log.ok()) << log.status();
    return *std::move(log);
  }

  static std::vector<nlohmann::json> read(const std::string& path) {
    std::ifstream stream(path);
    std::vector<nlohmann::json> events;
    for (std::string line; std::getline(stream, line);) events.push_back(nlohmann::json::parse(line));
    return events;
  }

  std::string folder_;
  std::string path_;
};

TEST_F(EventLogTest, KeepsEveryShardsEventsInOrder) {
  constexpr std::uint64_t events = 20'000;
  {
    auto log = start(2);
    std::vector<std::thread> shards;
    for (std::size_t shard = 0; shard < 2; ++shard) {
      shards.emplace_back([&log, shard] {
        const std::string name = "shard" + std::to_string(shard);
        for (std::uint64_t i = 0; i < events; ++i) {
          log->buffer(shard).record({.kind = EventKind::received, .time = some_time, .site = name, .count = i});
          if (i % 512 == 0) std::this_thread::sleep_for(milliseconds(2));  // within what the writer keeps up with
        }
      });
    }
    for (std::thread& shard : shards) shard.join();
    EXPECT_EQ(log->dropped(), 0u);
  }
  std::uint64_t next[2] = {0, 0};
  for (const auto& event : read(path_)) {
    const std::size_t shard = event["site"] == "shard0" ? 0 : 1;
    ASSERT_EQ(event["count"], next[shard]);
    ++next[shard];
  }
  EXPECT_EQ(next[0], events);
  EXPECT_EQ(next[1], events);
}

TEST_F(EventLogTest, DropsCountsAndSaysWhatDoesNotFit) {
  // The writer is kept from draining by a pipe that nobody reads yet, whatever the machine's load.
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  const int reader = open(path_.c_str(), O_RDONLY | O_NONBLOCK);
  constexpr std::uint64_t events = 50'000;  // some 7 MB, into a buffer of 1 MiB
  std::uint64_t dropped = 0;
  std::string text;
  std::thread reading;
  {
    auto log = start(1);
    const std::string peer(60, 'p');
    for (std::uint64_t i = 0; i < events; ++i) {
      log->buffer(0).record({.kind = EventKind::received, .time = some_time, .peer = peer, .count = i});
    }
    dropped = log->dropped();
    reading = std::thread([&] {
      fcntl(reader, F_SETFL, 0);
      char piece[65536];
      for (ssize_t n = 0; (n = ::read(reader, piece, sizeof piece)) > 0;)
        text.append(piece, static_cast<std::size_t>(n));
    });
    for (;;) {  // until there is room again
      log->buffer(0).record({.kind = EventKind::connected, .time = some_time});
      if (log->dropped() == dropped) break;
      dropped = log->dropped();
      std::this_thread::sleep_for(milliseconds(10));
    }
  }
  reading.join();
  close(reader);
  ASSERT_GT(dropped, 0u);
  std::uint64_t kept = 0;
  std::uint64_t said = 0;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const auto event = nlohmann::json::parse(line);
    if (event["event"] == "dropped") {
      said += event["count"].get<std::uint64_t>();
    } else if (event["event"] == "received") {
      ++kept;
    }
  }
  EXPECT_EQ(said, dropped);
  EXPECT_LE(kept, events);
  EXPECT_GT(kept, 5'000u) << "the buffer holds about a second of a busy shard";
}

TEST_F(EventLogTest, WritesSoonWithoutBeingAsked) {
  auto log = start(1);
  log->buffer(0).record({.kind = EventKind::connected, .time = some_time});
  for (int i = 0; i < 500 && read(path_).empty(); ++i) std::this_thread::sleep_for(milliseconds(10));
  EXPECT_EQ(read(path_).size(), 1u);
}

TEST_F(EventLogTest, ReopensAfterRotation) {
  auto log = start(1);
  log->buffer(0).record({.kind = EventKind::connected, .time = some_time});
  for (int i = 0; i < 500 && read(path_).empty(); ++i) std::this_thread::sleep_for(milliseconds(10));
  const std::string rotated = path_ + ".1";
  std::filesystem::rename(path_, rotated);
  log->reopen();
  for (int i = 0; i < 500 && !std::filesystem::exists(path_); ++i) std::this_thread::sleep_for(milliseconds(10));
  log->buffer(0).record({.kind = EventKind::disconnected, .time = some_time});
  log.reset();
  ASSERT_EQ(read(rotated).size(), 1u);
  ASSERT_EQ(read(path_).size(), 1u);
  EXPECT_EQ(read(path_)[0]["event"], "disconnected");
}

TEST_F(EventLogTest, AFullDiskIsCountedAndSaid) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  std::string trouble;
  {
    auto log = EventLog::start(
        {.path = "/dev/full", .shards = 1, .on_trouble = [&](std::string_view text) { trouble = text; }});
    ASSERT_TRUE(log.ok());
    (*log)->buffer(0).record({.kind = EventKind::connected, .time = some_time});
    (*log)->buffer(0).record({.kind = EventKind::connected, .time = some_time});
    for (int i = 0; i < 500 && (*log)->dropped() < 2; ++i) std::this_thread::sleep_for(milliseconds(10));
    EXPECT_EQ((*log)->dropped(), 2u);
  }
  EXPECT_THAT(trouble, testing::HasSubstr("No space left"));
}

TEST_F(EventLogTest, WithoutAPathNothingIsKept) {
  auto log = EventLog::start({.path = "", .shards = 1, .on_trouble = {}});
  ASSERT_TRUE(log.ok());
  (*log)->buffer(0).record({.kind = EventKind::connected, .time = some_time});
  EXPECT_EQ((*log)->dropped(), 0u);
}

TEST_F(EventLogTest, APathThatCannotBeOpenedFailsTheStart) {
  const auto log = EventLog::start({.path = folder_ + "/none/events.jsonl", .shards = 1, .on_trouble = {}});
  EXPECT_FALSE(log.ok());
}

}  // namespace
}  // namespace postern::shard
