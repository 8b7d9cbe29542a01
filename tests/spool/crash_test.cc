// A random life of a log with a crash at every write, torn sector by sector, against a plain account of what was
// promised.
#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "model.h"

namespace postern::spool::test {
namespace {

struct Account {
  struct Message {
    std::string content;
    std::uint16_t recipients = 1;
    bool acknowledged = false;
    std::set<std::uint16_t> settled;                           // appended
    std::set<std::uint16_t> settled_durable;                   // reported
    std::map<std::uint16_t, std::vector<std::string>> states;  // appended, in order
    std::uint64_t dsn_of = 0;                                  // this is the DSN of that message's failure
  };
  std::map<std::uint64_t, Message> messages;  // by queue id
};

class Life {
 public:
  explicit Life(std::uint64_t seed) : rig_(options(), seed), random_(seed * 77 + 1) {}

  static Options options() {
    Options options = Rig::small();
    options.segment_bytes = 64u << 10;
    options.compaction_segments_min = 3;
    return options;
  }

  void start() {
    rig_.start(false);
    check();
    if (testing::Test::HasFatalFailure()) return;
    reported_ = rig_.durable.size();
  }

  // Appends and turns until `writes` more writes were begun; the last is in flight.
  void live(int writes) {
    while (writes > 0) {
      rig_.serve_slots();
      rig_.now += std::chrono::milliseconds(2);
      if (rig_.begin_write()) {
        if (--writes == 0) return;
        rig_.end_write();
        take_reports();
      }
      if (rig_.log().intake() == Intake::starting) continue;
      for (std::uint64_t i = random_.below(4); i > 0; --i) act();
      (void)rig_.compact_once();
    }
  }

  void crash() {
    rig_.crash();
    open_.reset();
    waiting_.clear();
  }

  Rig& rig() { return rig_; }

 private:
  void act() {
    const std::uint64_t what = random_.below(100);
    if (what < 35) return add_message();
    if (what < 60) return settle();
    if (what < 75) return defer();
    if (what < 85) return fail_with_dsn();
    if (what < 97) return stream();
    if (open_) {
      rig_.log().abandon_content(open_->id);
      open_.reset();
    }
  }

  void add_message() {
    Account::Message message;
    message.content = filler(random_.below(6000), random_());
    message.recipients = static_cast<std::uint16_t>(1 + random_.below(11));
    MessageRecord record =
        rig_.record(message.content, "envelope " + std::to_string(message.recipients), message.recipients);
    const std::string envelope = "envelope " + std::to_string(message.recipients);
    record.envelope = as_bytes(envelope);
    const auto location = rig_.log().append_message(
        record, next_ticket([id = record.id.value](Life& life) { life.account_.messages.at(id).acknowledged = true; }));
    if (!location.ok()) return;
    rig_.locations_[record.id.value] = *location;
    account_.messages[record.id.value] = std::move(message);
  }

  std::optional<std::pair<mail::QueueId, std::uint16_t>> pick() {
    if (rig_.locations_.empty()) return std::nullopt;
    auto at = rig_.locations_.begin();
    std::advance(at, static_cast<std::ptrdiff_t>(random_.below(rig_.locations_.size())));
    const Account::Message& message = account_.messages.at(at->first);
    const auto recipient = static_cast<std::uint16_t>(random_.below(message.recipients));
    if (message.settled.contains(recipient)) return std::nullopt;
    return std::pair{mail::QueueId{at->first}, recipient};
  }

  void note_settled(mail::QueueId id, std::uint16_t recipient) {
    Account::Message& message = account_.messages.at(id.value);
    message.settled.insert(recipient);
    if (message.settled.size() == message.recipients) rig_.locations_.erase(id.value);
  }

  void settle() {
    const auto picked = pick();
    if (!picked) return;
    const auto [id, recipient] = *picked;
    const Status status =
        rig_.log().append_settlement(rig_.locate(id), id, recipient, mail::Outcome::relayed, as_bytes("250"),
                                     next_ticket([id, recipient](Life& life) {
                                       life.account_.messages.at(id.value).settled_durable.insert(recipient);
                                     }));
    if (status.code() == StatusCode::kResourceExhausted) return;
    ASSERT_TRUE(status.ok()) << message_of(status);
    note_settled(id, recipient);
  }

  void defer() {
    const auto picked = pick();
    if (!picked) return;
    const auto [id, recipient] = *picked;
    const std::string state = filler(random_.below(200), random_());
    const Status status = rig_.log().append_retry_state(rig_.locate(id), id, recipient, as_bytes(state));
    if (status.code() == StatusCode::kResourceExhausted) return;
    ASSERT_TRUE(status.ok()) << message_of(status);
    account_.messages.at(id.value).states[recipient].push_back(state);
  }

  void fail_with_dsn() {
    const auto picked = pick();
    if (!picked) return;
    const auto [id, recipient] = *picked;
    Account::Message dsn;
    dsn.content = "failed: " + id.to_string() + filler(3000, random_());
    dsn.dsn_of = id.value;
    MessageRecord record = rig_.record(dsn.content, "envelope 1", 1);
    record.use = Use::internal;
    const std::size_t bytes =
        Log::settlement_bytes(3) + Log::message_bytes(10, record.added_fields.size(), dsn.content.size());
    if (!rig_.log().begin_group(bytes, Use::internal).ok()) return;
    ASSERT_TRUE(
        rig_.log().append_settlement(rig_.locate(id), id, recipient, mail::Outcome::failed, as_bytes("550")).ok());
    const auto location = rig_.log().append_message(record, next_ticket([dsn_id = record.id.value](Life& life) {
                                                      life.account_.messages.at(dsn_id).acknowledged = true;
                                                    }));
    rig_.log().end_group();
    ASSERT_TRUE(location.ok()) << message_of(location.status());
    note_settled(id, recipient);
    failed_[{id.value, recipient}] = record.id.value;
    rig_.locations_[record.id.value] = *location;
    account_.messages[record.id.value] = std::move(dsn);
  }

  void stream() {
    if (!open_) {
      open_.emplace();
      open_->id = rig_.log().begin_content();
      return;
    }
    const std::string piece = filler(1 + random_.below(9000), random_());
    if (open_->content.size() < 30'000) {
      if (rig_.log().append_chunk(open_->id, as_bytes(piece)).ok()) open_->content += piece;
      return;
    }
    const std::string tail = piece.substr(0, random_.below(2) * 100);
    MessageRecord record = rig_.record(tail, "envelope 1", 1);
    record.streamed = open_->id;
    record.facts.size = open_->content.size() + tail.size();
    const auto location = rig_.log().append_message(
        record, next_ticket([id = record.id.value](Life& life) { life.account_.messages.at(id).acknowledged = true; }));
    if (!location.ok()) return;
    rig_.locations_[record.id.value] = *location;
    account_.messages[record.id.value].content = open_->content + tail;
    open_.reset();
  }

  Ticket next_ticket(std::function<void(Life&)> then) {
    waiting_[++ticket_] = std::move(then);
    return Ticket{ticket_};
  }

  void take_reports() {
    for (; reported_ < rig_.durable.size(); ++reported_) {
      const auto at = waiting_.find(rig_.durable[reported_]);
      ASSERT_NE(at, waiting_.end());
      at->second(*this);
      waiting_.erase(at);
    }
  }

  // After a recovery: what was promised is there, nothing is there in halves, nothing is there that was not appended.
  void check() {
    EXPECT_TRUE(rig_.report.alarms.empty()) << rig_.report.alarms[0];
    const std::vector<Found> all = rig_.replay();
    std::map<std::uint64_t, const Found*> found;
    for (const Found& one : all) {
      ASSERT_TRUE(found.emplace(one.id.value, &one).second) << one.id.to_string() << " twice";
      const auto at = account_.messages.find(one.id.value);
      ASSERT_NE(at, account_.messages.end()) << one.id.to_string() << " was never appended";
      const Account::Message& message = at->second;
      ASSERT_EQ(one.content, message.content);
      ASSERT_EQ(one.recipients, message.recipients);
      ASSERT_EQ(one.envelope, "envelope " + std::to_string(message.recipients));
      for (const auto& [recipient, state] : one.unsettled) {
        ASSERT_FALSE(message.settled_durable.contains(recipient)) << one.id.to_string() << " " << recipient;
        const auto states = message.states.find(recipient);
        if (state.empty()) continue;
        ASSERT_NE(states, message.states.end());
        ASSERT_NE(std::find(states->second.begin(), states->second.end(), state), states->second.end());
      }
    }
    for (auto& [id, message] : account_.messages) {
      const auto at = found.find(id);
      const mail::QueueId name{id};
      if (at == found.end()) {
        // Gone: settled wholly (reported or not), or never acknowledged.
        ASSERT_TRUE(!message.acknowledged || message.settled.size() == message.recipients)
            << name.to_string() << " is lost";
      } else {
        for (std::uint16_t i = 0; i < message.recipients; ++i) {
          if (!message.settled.contains(i)) {
            ASSERT_TRUE(at->second->unsettled.contains(i)) << name.to_string() << " lost recipient " << i;
          }
        }
      }
    }
    for (const auto& [failure, dsn] : failed_) {
      // A DSN that is gone was settled, or never durable: then its end may be unsaid too.
      if (!found.contains(dsn) && account_.messages.at(dsn).settled.contains(0)) continue;
      const bool settled =
          !found.contains(failure.first) || !found.at(failure.first)->unsettled.contains(failure.second);
      const bool dsn_there = found.contains(dsn);
      const bool message_there = found.contains(failure.first);
      if (message_there) {
        ASSERT_EQ(settled, dsn_there) << "failure and DSN are one";
      }
    }
    // From here on what was found is what there is.
    for (auto at = account_.messages.begin(); at != account_.messages.end();) {
      const auto one = found.find(at->first);
      if (one == found.end()) {
        at = account_.messages.erase(at);
        continue;
      }
      at->second.acknowledged = true;
      at->second.settled.clear();
      for (std::uint16_t i = 0; i < at->second.recipients; ++i) {
        if (!one->second->unsettled.contains(i)) at->second.settled.insert(i);
      }
      at->second.settled_durable = at->second.settled;
      for (auto& [recipient, state] : one->second->unsettled) at->second.states[recipient] = {state};
      ++at;
    }
    failed_.clear();
  }

  struct Open {
    ContentId id;
    std::string content;
  };

  Rig rig_;
  Random random_;
  Account account_;
  std::map<std::pair<std::uint64_t, std::uint16_t>, std::uint64_t> failed_;
  std::map<std::uint64_t, std::function<void(Life&)>> waiting_;
  std::uint64_t ticket_ = 0;
  std::size_t reported_ = 0;
  std::optional<Open> open_;
};

TEST(Crash, AtEveryWriteOfALife) {
  // The same life, killed during its first write, its second, and so on; then a second life on what is left.
  for (int writes = 1; writes <= 100; ++writes) {
    Life life(4);
    life.start();
    life.live(writes);
    life.crash();
    life.start();
    if (HasFailure()) FAIL() << "killed in write " << writes;
    life.live(3 + writes % 5);
    life.crash();
    life.start();
    if (HasFailure()) FAIL() << "killed in write " << writes << ", then again";
  }
}

TEST(Crash, AgainAndAgainInManyLives) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    Life life(seed);
    life.start();
    for (int round = 0; round < 12; ++round) {
      life.live(1 + static_cast<int>(life.rig().random().below(40)));
      life.crash();
      life.start();
      if (HasFailure()) FAIL() << "seed " << seed << " round " << round;
    }
  }
}

}  // namespace
}  // namespace postern::spool::test
