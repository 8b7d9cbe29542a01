#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <postern/dns/cache.h>

namespace postern::dns {
namespace {

using Ask = Cache::Reader::Ask;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

Question question(std::string_view name, RecordType type = RecordType::a) {
  return {*Name::parse(name), type};
}

Answer records(std::string_view address, Duration ttl) {
  Answer answer;
  answer.kind = Answer::Kind::records;
  answer.ttl = ttl;
  answer.addresses.push_back(*IpAddress::parse(address));
  return answer;
}

Answer negative(Answer::Kind kind, Duration ttl) {
  Answer answer;
  answer.kind = kind;
  answer.ttl = ttl;
  return answer;
}

const Instant start{seconds(1'000'000)};

class CacheTest : public ::testing::Test {
 protected:
  CacheTest() { reader_.online(); }
  const Answer* publish(const Question& asked, Answer answer, Instant now) {
    EXPECT_EQ(reader_.begin(asked, now).ask, Ask::flight);
    return reader_.publish(asked, std::move(answer), now).answer;
  }
  Cache cache_{{.shards = 3, .seed = 7}};
  Cache::Reader reader_{cache_, 0};
};

TEST_F(CacheTest, AnswersUntilTheTtlHasPassed) {
  EXPECT_FALSE(reader_.find(question("a.test"), start));
  publish(question("a.test"), records("192.0.2.1", seconds(60)), start);
  const auto hit = reader_.find(question("A.TEST"), start + seconds(60) - Duration(1));
  ASSERT_TRUE(hit);
  EXPECT_EQ(hit.answer->addresses.front(), *IpAddress::parse("192.0.2.1"));
  EXPECT_EQ(hit.answer->expires_at, start + seconds(60));
  EXPECT_FALSE(reader_.find(question("a.test", RecordType::aaaa), start)) << "another type is another question";
  EXPECT_FALSE(reader_.find(question("a.test"), start + seconds(60)));
  EXPECT_EQ(reader_.hits(), 1u);
  EXPECT_EQ(reader_.misses(), 3u);
}

TEST_F(CacheTest, TtlsAreBounded) {
  using Kind = Answer::Kind;
  EXPECT_EQ(publish(question("a"), records("192.0.2.1", seconds(0)), start)->expires_at, start + seconds(5));
  EXPECT_EQ(publish(question("b"), records("192.0.2.1", hours(1000)), start)->expires_at, start + hours(24));
  EXPECT_EQ(publish(question("c"), negative(Kind::no_such_name, hours(1000)), start)->expires_at, start + hours(1));
  EXPECT_EQ(publish(question("d"), negative(Kind::no_data, seconds(0)), start)->expires_at, start + seconds(5));
  EXPECT_EQ(publish(question("e"), Answer::temporary(Answer::Failure::timed_out), start)->expires_at,
            start + seconds(5));
}

TEST_F(CacheTest, OneFlightPerQuestionOverAllShards) {
  Cache::Reader second(cache_, 1);
  Cache::Reader third(cache_, 2);
  second.online();
  third.online();
  EXPECT_EQ(reader_.begin(question("a.test"), start).ask, Ask::flight);
  EXPECT_EQ(reader_.begin(question("a.test"), start).ask, Ask::joined);
  EXPECT_EQ(second.begin(question("a.test"), start).ask, Ask::joined);
  EXPECT_EQ(second.begin(question("a.test"), start).ask, Ask::joined);
  EXPECT_EQ(third.begin(question("a.test"), start).ask, Ask::joined);
  EXPECT_EQ(third.begin(question("b.test"), start).ask, Ask::flight);
  const auto published = reader_.publish(question("a.test"), records("192.0.2.1", seconds(60)), start);
  EXPECT_EQ(published.waiting, (std::vector<std::uint16_t>{1, 2}));
  EXPECT_EQ(second.begin(question("a.test"), start).ask, Ask::hit) << "published between its miss and its asking";
  EXPECT_EQ(second.find(question("a.test"), start).answer, published.answer);
  EXPECT_TRUE(third.abandon(question("b.test")).empty());
  EXPECT_EQ(second.begin(question("b.test"), start).ask, Ask::flight) << "an abandoned flight is free";
  EXPECT_TRUE(second.abandon(question("b.test")).empty());
  EXPECT_EQ(cache_.usage().flights, 0u);
}

TEST_F(CacheTest, HotNamesAreRefreshedOnceBeforeTheyExpire) {
  publish(question("a.test"), records("192.0.2.1", seconds(100)), start);
  EXPECT_FALSE(reader_.find(question("a.test"), start + seconds(89)).refresh_due);
  EXPECT_TRUE(reader_.find(question("a.test"), start + seconds(90)).refresh_due);
  EXPECT_FALSE(reader_.find(question("a.test"), start + seconds(91)).refresh_due) << "claimed already";
  EXPECT_TRUE(reader_.begin_refresh(question("a.test")));
  EXPECT_FALSE(reader_.begin_refresh(question("a.test")));
  (void)reader_.publish(question("a.test"), records("192.0.2.2", seconds(100)), start + seconds(92));
  EXPECT_EQ(reader_.find(question("a.test"), start + seconds(150)).answer->addresses.front(),
            *IpAddress::parse("192.0.2.2"));
}

TEST_F(CacheTest, FailedRefreshLeavesWhatStillHolds) {
  publish(question("a.test"), records("192.0.2.1", seconds(100)), start);
  ASSERT_TRUE(reader_.begin_refresh(question("a.test")));
  const auto published =
      reader_.publish(question("a.test"), Answer::temporary(Answer::Failure::timed_out), start + seconds(95));
  EXPECT_EQ(published.answer->kind, Answer::Kind::records);
  EXPECT_FALSE(published.answer->stale);
  EXPECT_EQ(published.answer->expires_at, start + seconds(100));
}

TEST_F(CacheTest, StaleRecordsServeForABoundedTimeWhenServersFail) {
  const Answer failure = Answer::temporary(Answer::Failure::server_failure);
  publish(question("a.test"), records("192.0.2.1", seconds(100)), start);
  Instant now = start + seconds(200);
  EXPECT_FALSE(reader_.find(question("a.test"), now));
  const Answer* answer = publish(question("a.test"), failure, now);
  EXPECT_TRUE(answer->stale);
  EXPECT_EQ(answer->addresses.size(), 1u);
  EXPECT_EQ(answer->expires_at, now + seconds(30)) << "then the servers are asked again";
  now = start + seconds(100) + hours(24) - seconds(1);
  answer = publish(question("a.test"), failure, now);
  EXPECT_TRUE(answer->stale);
  now += seconds(1);
  EXPECT_FALSE(reader_.find(question("a.test"), now));
  EXPECT_EQ(publish(question("a.test"), failure, now)->kind, Answer::Kind::temporary);
  EXPECT_FALSE(publish(question("a.test"), records("192.0.2.1", seconds(100)), now + seconds(10))->stale);
}

TEST_F(CacheTest, StaleNegativeAnswersDoNotServe) {
  publish(question("a.test"), negative(Answer::Kind::no_such_name, seconds(100)), start);
  const Answer* answer =
      publish(question("a.test"), Answer::temporary(Answer::Failure::timed_out), start + seconds(200));
  EXPECT_EQ(answer->kind, Answer::Kind::temporary) << "an old NXDOMAIN would return mail";
}

TEST(CacheBounds, MemoryStaysWithinItsBytesAndUsedEntriesStayLonger) {
  Cache cache({.shards = 1, .bytes_max = 64 << 10});
  Cache::Reader reader(cache, 0);
  reader.online();
  for (int i = 0; i < 2000; ++i) {
    const Question asked = question("host" + std::to_string(i) + ".test");
    ASSERT_EQ(reader.begin(asked, start).ask, Ask::flight);
    (void)reader.publish(asked, records("192.0.2.1", seconds(600)), start);
    reader.quiescent();
    EXPECT_TRUE(reader.find(question("host0.test"), start)) << "used all the time";
    ASSERT_LE(cache.usage().bytes, 64u << 10);
    ASSERT_LE(cache.usage().retired, 4u);
  }
  EXPECT_FALSE(reader.find(question("host1.test"), start));
  EXPECT_TRUE(reader.find(question("host1999.test"), start));
  EXPECT_GT(cache.usage().evicted, 1000u);
}

TEST(CacheReclaim, AnswersStayValidUntilTheReadersQuiescentState) {
  Cache cache({.shards = 2, .seed = 1});
  Cache::Reader writer(cache, 0);
  Cache::Reader reader(cache, 1);
  writer.online();
  reader.online();
  const auto publish = [&writer](std::string_view address) {
    ASSERT_TRUE(writer.begin_refresh(question("a.test")));
    (void)writer.publish(question("a.test"), records(address, seconds(60)), start);
  };
  publish("192.0.2.1");
  const Answer* held = reader.find(question("a.test"), start).answer;
  for (int i = 0; i < 3; ++i) {
    publish("192.0.2.2");
    writer.quiescent();
  }
  EXPECT_EQ(held->addresses.front(), *IpAddress::parse("192.0.2.1"));  // asan would tell
  EXPECT_EQ(cache.usage().retired, 3u);
  reader.quiescent();
  publish("192.0.2.3");
  writer.quiescent();
  EXPECT_LE(cache.usage().retired, 1u);
  reader.offline();  // a sleeping shard holds nothing back
  for (int i = 0; i < 5; ++i) {
    publish("192.0.2.4");
    writer.quiescent();
  }
  EXPECT_LE(cache.usage().retired, 1u);
}

// Readers, publishers and sleepers at once: for the thread sanitizer, and for the address sanitizer to find a use of
// what was given back too early. Each answer says which question it belongs to, so a torn or swapped one shows.
TEST(CacheThreads, ManyShardsReadWhileSomePublish) {
  constexpr std::uint16_t shards = 4;
  constexpr int names = 32;
  constexpr int turns = 3000;
  Cache cache({.shards = shards, .bytes_max = 6 << 10, .seed = 3, .ttl_min = milliseconds(1)});
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<std::uint64_t> notices{0};
  const auto shard = [&](std::uint16_t number) {
    Cache::Reader reader(cache, number);
    Random random(number);
    std::vector<Question> questions;
    questions.reserve(names);
    for (int i = 0; i < names; ++i) questions.push_back(question("host" + std::to_string(i) + ".test"));
    reader.online();
    for (int turn = 0; turn < turns; ++turn) {
      const Instant now = start + milliseconds(turn);
      for (int i = 0; i < 8; ++i) {
        const auto name = static_cast<std::uint8_t>(random.below(names));
        const IpAddress expected = IpAddress::v4({10, 0, 0, name});
        const Question& asked = questions[name];
        const auto hit = reader.find(asked, now);
        const Answer* answer = hit.answer;
        if (!hit) {
          const auto begun = reader.begin(asked, now);
          answer = begun.answer;
          if (begun.ask == Ask::flight) {
            const auto published =
                reader.publish(asked, records(expected.to_string(), milliseconds(1 + random.below(20))), now);
            notices += published.waiting.size();
            answer = published.answer;
          }
        } else if (hit.refresh_due && reader.begin_refresh(asked)) {
          notices += reader.publish(asked, records(expected.to_string(), milliseconds(5)), now).waiting.size();
        }
        if (answer != nullptr && answer->addresses.front() != expected) ++wrong;
      }
      if (random.below(8) == 0) {
        reader.offline();
        std::this_thread::yield();
        reader.online();
      } else {
        reader.quiescent();
      }
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(shards);
  for (std::uint16_t i = 0; i < shards; ++i) threads.emplace_back(shard, i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0u);
  const Cache::Usage usage = cache.usage();
  EXPECT_EQ(usage.flights, 0u);
  EXPECT_LE(usage.bytes, 6u << 10);
}

}  // namespace
}  // namespace postern::dns
