// SlotBroker and OwnerSlots with real OwnerQueues, over mailboxes that keep their order and delay what they like.
#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <variant>
#include <vector>

#include <gtest/gtest.h>

#include <postern/queue/owner_queue.h>
#include <postern/queue/owner_slots.h>
#include <postern/queue/slot_broker.h>

namespace postern::queue {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

using Message =
    std::variant<Notice, SlotRequest, SlotReturn, SlotGrant, SlotRecall, PullRequest, PullReply, Results, SiteDown>;

struct SimulationOptions {
  ShardIndex shards = 4;
  std::uint32_t limit = 20;
  std::uint64_t sites = 3;
  bool dead = false;        // the first site cannot be reached for the first half
  bool keep = true;         // connections idle for a while after a delivery
  bool long_turns = false;  // a shard takes several inputs before it carries its outputs
};

// A driver in miniature: the glue that the shards will have.
class Simulation {
 public:
  Simulation(SimulationOptions options, std::uint64_t seed) : options_(options), random_(seed) {
    for (ShardIndex i = 0; i < options.shards; ++i) {
      shards_.push_back(std::make_unique<Shard>(i, options, random_()));
    }
    open_.resize(options.sites);
    peak_.resize(options.sites);
  }

  void add_mail(ShardIndex shard, std::uint64_t site, std::uint16_t recipients) {
    OwnerQueue& queue = shards_[shard]->queue;
    std::vector<NewRecipient> all;
    for (std::uint16_t i = 0; i < recipients; ++i)
      all.push_back({.index = i, .destination = site_names[site], .hash = 0, .retry = {}});
    queue.add({.queue_id = mail::QueueId::from_parts(shard, 1, next_++),
               .location = {.log = static_cast<std::uint16_t>(shard)},
               .give_up_at = now_.wall + minutes(600)},
              all, now_);
    added_ += recipients;
    drive(shard);
  }

  // One event: a mailbox's next message, a delivery's end, an idle connection's close, or time. False: nothing but time
  // is left.
  bool step() {
    std::vector<std::pair<ShardIndex, ShardIndex>> full;
    for (const auto& [box, messages] : mailboxes_) {
      if (!messages.empty()) full.push_back(box);
    }
    const std::uint64_t what = random_.below(4);
    if (what < 2 && !full.empty()) {
      deliver(full[random_.below(full.size())]);
      return true;
    }
    if (what == 2 && !running_.empty()) {
      go_on(random_.below(running_.size()));
      return true;
    }
    if (what == 3 && !answers_.empty()) {
      answer(random_.below(answers_.size()));
      return true;
    }
    if (what == 3 && random_.below(3) == 0) close_some_idle();
    if (random_.below(4) == 0) end_closing();
    if (!full.empty() || !running_.empty() || !answers_.empty()) return true;
    const bool late = late_;
    carry_all();
    return late;
  }

  void pass(Duration time) {
    now_.monotonic += time;
    now_.wall += time;
    end_closing();
    for (ShardIndex i = 0; i < options_.shards; ++i) {
      Shard& shard = *shards_[i];
      while (shard.queue.next_deadline() <= now_.monotonic) shard.queue.on_deadline(now_);
      if (shard.slots.next_deadline() <= now_.monotonic) shard.slots.on_deadline(now_.monotonic);
      if (shard.broker.next_deadline() <= now_.monotonic) shard.broker.on_deadline(now_.monotonic);
    }
    carry_all();
  }

  // Runs until all is delivered; connections idle on and close only by request.
  void run_dry() {
    for (int i = 0; i < 200'000 && settled_ < added_; ++i) {
      if (!step()) pass(milliseconds(200));
    }
    EXPECT_EQ(settled_, added_) << "a wake-up was lost";
  }

  void close_everything() {
    for (int i = 0; i < 10'000; ++i) {
      close_some_idle();
      if (!step() && total_open() == 0) break;
    }
    pass(minutes(20));
    while (step()) continue;
    for (const auto& shard : shards_) {
      EXPECT_EQ(shard->broker.path_count(), 0u) << "a record is left";
      EXPECT_EQ(shard->slots.path_count(), 0u) << "a record is left";
    }
  }

  void set_dead(bool dead) { options_.dead = dead; }
  std::uint32_t peak(std::uint64_t site) const { return peak_[site]; }
  std::uint64_t crossed() const { return crossed_; }
  std::uint64_t connects() const { return connects_; }
  std::uint64_t settled() const { return settled_; }
  OwnerSlots& slots_of(ShardIndex shard) { return shards_[shard]->slots; }

 private:
  static constexpr std::array<std::string_view, 4> site_names{"0", "1", "2", "3"};

  struct Shard {
    Shard(ShardIndex index, const SimulationOptions& options, std::uint64_t seed)
        : queue({.schedule = RetrySchedule({seconds(5)})}, Random(seed)),
          slots(index),
          broker({.shards = options.shards, .connections_per_path = options.limit, .recipients_max = 5}),
          random(seed) {}
    OwnerQueue queue;
    OwnerSlots slots;
    SlotBroker broker;
    Random random;
    std::map<SiteId, std::uint32_t> idle;     // the pool of open idle connections
    std::map<SiteId, std::uint32_t> closing;  // those told to close, open until then
  };
  struct Running {
    ShardIndex at = 0;
    ShardIndex owner = 0;
    Work work;
    bool leased = false;
    bool connected = false;  // the envelope has been read, and the connection taken
  };
  struct Answer {  // a pull whose envelope is being read
    ShardIndex at = 0;
    SiteId site;
    std::optional<Work> work;
  };

  void send(ShardIndex from, ShardIndex to, Message message) { mailboxes_[{from, to}].push_back(std::move(message)); }

  std::uint32_t total_open() const {
    std::uint32_t sum = 0;
    for (const std::uint32_t n : open_) sum += n;
    return sum;
  }
  void opened(SiteId site) {
    ++connects_;
    const std::uint32_t open = ++open_[site.value];
    peak_[site.value] = std::max(peak_[site.value], open);
    ASSERT_LE(open, options_.limit) << "the limit does not hold";
  }
  void closed(SiteId site) { --open_[site.value]; }

  // Uses an idle connection if there is one, else the place of one that closes.
  void connect(Shard& shard, SiteId site) {
    auto& idle = shard.idle[site];
    auto& closing = shard.closing[site];
    if (idle > 0) {
      --idle;
    } else if (closing > 0) {
      --closing;
      ++connects_;
    } else {
      opened(site);
    }
  }

  // A shard carries its outputs at the end of a turn, which may have many inputs.
  void drive(ShardIndex at) {
    if (options_.long_turns && random_.below(4) != 0) {
      late_ = true;
    } else {
      carry_outputs(at);
    }
  }
  void carry_all() {
    for (ShardIndex i = 0; i < options_.shards; ++i) carry_outputs(i);
    late_ = false;
  }

  void carry_outputs(ShardIndex at) {
    Shard& shard = *shards_[at];
    while (const auto destination = shard.queue.take_destination_to_route()) {
      shard.queue.on_routed(destination->id, SiteId{static_cast<std::uint64_t>(destination->text[0] - '0')},
                            now_.monotonic + seconds(20), now_);
    }
    for (;;) {
      if (const auto site = shard.queue.take_notice()) {
        shard.slots.on_ready(*site, now_.monotonic);
      } else if (auto output = shard.slots.take_output()) {
        std::visit([&](auto& value) { carry(at, value); }, *output);
      } else if (auto action = shard.broker.take_action()) {
        std::visit([&](auto& value) { send(at, action->to, std::move(value)); }, action->message);
      } else {
        break;
      }
    }
    while (shard.queue.take_retry_update()) continue;
    while (const auto settlement = shard.queue.take_settlement()) {
      EXPECT_EQ(settlement->outcome, SettledAs::relayed);
      ++settled_;
    }
  }

  void carry(ShardIndex at, const OwnerSlots::Start& start) {
    Shard& shard = *shards_[at];
    auto work = shard.queue.pull(start.site, 5);
    shard.slots.on_started(start.site, shard.queue.ready(start.site), now_.monotonic);
    if (work) {
      running_.push_back({.at = at, .owner = at, .work = *std::move(work), .leased = true});
    } else {
      shard.slots.on_start_void(start.site, now_.monotonic);
    }
  }
  void carry(ShardIndex at, const OwnerSlots::CloseIdle& close) {
    for (std::uint32_t i = 0; i < close.connections && shards_[at]->idle[close.site] > 0; ++i) {
      --shards_[at]->idle[close.site];
      ++shards_[at]->closing[close.site];
    }
  }
  template <class ToHome>
  void carry(ShardIndex at, const ToHome& message) {
    send(at, home_of(message.site, options_.shards), message);
  }

  void deliver(std::pair<ShardIndex, ShardIndex> box) {
    Message message = std::move(mailboxes_[box].front());
    mailboxes_[box].pop_front();
    std::visit([&](auto& value) { receive(box.second, value); }, message);
    drive(box.second);
  }
  void receive(ShardIndex at, const Notice& m) { shards_[at]->broker.on_notice(m, now_.monotonic); }
  void receive(ShardIndex at, const SlotRequest& m) { shards_[at]->broker.on_slot_request(m, now_.monotonic); }
  void receive(ShardIndex at, const SlotReturn& m) { shards_[at]->broker.on_slot_return(m, now_.monotonic); }
  void receive(ShardIndex at, const SlotGrant& m) { shards_[at]->slots.on_slot_grant(m, now_.monotonic); }
  void receive(ShardIndex at, const SlotRecall& m) { shards_[at]->slots.on_slot_recall(m, now_.monotonic); }
  void receive(ShardIndex at, const PullRequest& m) {
    Shard& shard = *shards_[at];
    answers_.push_back({.at = at, .site = m.site, .work = shard.queue.pull(m.site, m.recipients_max)});
  }
  void answer(std::size_t index) {
    Answer answer = std::move(answers_[index]);
    answers_.erase(answers_.begin() + static_cast<std::ptrdiff_t>(index));
    Shard& shard = *shards_[answer.at];
    if (answer.work && random_.below(20) == 0) {  // the envelope could not be read
      EXPECT_TRUE(shard.queue.on_not_attempted(answer.work->delivery, now_));
      answer.work.reset();
    }
    PullReply reply{.site = answer.site, .from = answer.at, .work = std::move(answer.work)};
    reply.more = shard.queue.has_ready(answer.site);
    shard.slots.on_pulled(answer.site, reply.more, now_.monotonic);
    send(answer.at, home_of(answer.site, options_.shards), std::move(reply));
    drive(answer.at);
  }
  void receive(ShardIndex at, PullReply& m) {
    shards_[at]->broker.on_pull_reply(m, now_.monotonic);
    if (!m.work) return;
    connect(*shards_[at], m.site);
    running_.push_back({.at = at, .owner = m.from, .work = *std::move(m.work), .leased = false, .connected = true});
  }
  void receive(ShardIndex at, Results& m) { EXPECT_TRUE(shards_[at]->queue.on_results(m.delivery, m.outcomes, now_)); }
  void receive(ShardIndex at, const SiteDown& m) {
    shards_[at]->queue.defer_site(m.site, m.reply, now_);
    shards_[at]->slots.on_site_down(m.site, shards_[at]->queue.has_ready(m.site), now_.monotonic);
  }

  void go_on(std::size_t index) {
    Running& starting = running_[index];
    const ShardIndex at = starting.at;
    if (starting.connected) return end_delivery(index);
    Shard& shard = *shards_[at];
    const SiteId site = starting.work.site;
    if (random_.below(20) == 0) {  // the envelope could not be read
      EXPECT_TRUE(shard.queue.on_not_attempted(starting.work.delivery, now_));
      shard.slots.on_start_void(site, now_.monotonic);
      running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
    } else {
      starting.connected = true;
      shard.slots.on_connecting(site, now_.monotonic);
      connect(shard, site);
    }
    drive(at);
  }

  void end_delivery(std::size_t index) {
    const Running running = std::move(running_[index]);
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
    const SiteId site = running.work.site;
    Shard& shard = *shards_[running.at];
    const bool dead = options_.dead && site.value == 0;
    std::vector<RecipientOutcome> outcomes;
    for (const std::uint16_t recipient : running.work.recipients) {
      const auto draw = random_.below(20);
      if (draw == 0) continue;  // not attempted
      outcomes.push_back({recipient, {dead || draw == 1 ? mail::Outcome::deferred : mail::Outcome::relayed, {}}});
    }
    if (running.owner != running.at) ++crossed_;
    if (running.leased) {
      EXPECT_TRUE(shard.queue.on_results(running.work.delivery, outcomes, now_));
    } else {
      send(running.at, running.owner, Results{.delivery = running.work.delivery, .outcomes = std::move(outcomes)});
    }
    const bool kept = options_.keep && !dead && random_.below(4) != 0;
    if (kept) {
      ++shard.idle[site];
    } else {
      closed(site);
    }
    if (running.leased) {
      if (dead) {
        shard.queue.defer_site(site, {}, now_);
        shard.slots.on_path_failed(site, now_.monotonic, shard.random);
      } else {
        shard.slots.on_path_succeeded(site, now_.monotonic);
      }
      shard.slots.on_delivery_done(site, kept, now_.monotonic);
    } else {
      if (dead) {
        shard.broker.on_path_failed(site, {}, now_.monotonic, shard.random);
      } else {
        shard.broker.on_path_succeeded(site, now_.monotonic);
      }
      shard.broker.on_delivery_done(site, kept, now_.monotonic);
    }
    drive(running.at);
  }

  void end_closing() {
    for (ShardIndex i = 0; i < options_.shards; ++i) {
      Shard& shard = *shards_[i];
      for (auto& [site, closing] : shard.closing) {
        for (; closing > 0; --closing) {
          closed(site);
          shard.slots.on_idle_closed(site, now_.monotonic);
        }
      }
      drive(i);
    }
  }

  void close_some_idle() {
    for (ShardIndex i = 0; i < options_.shards; ++i) {
      Shard& shard = *shards_[i];
      for (auto& [site, idle] : shard.idle) {
        if (idle == 0 || random_.below(2)) continue;
        --idle;
        closed(site);
        if (shard.broker.leases()) {
          shard.slots.on_idle_closed(site, now_.monotonic);
        } else {
          shard.broker.on_idle_closed(site, now_.monotonic);
        }
      }
      drive(i);
    }
  }

  SimulationOptions options_;
  Random random_;
  ClockPair now_{Instant(minutes(100)), WallTime(minutes(30'000'000))};
  std::vector<std::unique_ptr<Shard>> shards_;
  std::map<std::pair<ShardIndex, ShardIndex>, std::deque<Message>> mailboxes_;
  std::vector<Running> running_;
  std::vector<Answer> answers_;
  std::vector<std::uint32_t> open_;
  std::vector<std::uint32_t> peak_;
  bool late_ = false;  // outputs wait for carry_all()
  std::uint32_t next_ = 1;
  std::uint64_t added_ = 0;
  std::uint64_t settled_ = 0;
  std::uint64_t crossed_ = 0;
  std::uint64_t connects_ = 0;
};

void run(SimulationOptions options, std::uint64_t seeds) {
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE(seed);
    Simulation simulation(options, seed);
    Random random(seed * 1000);
    for (int i = 0; i < 300; ++i) {
      // Skewed to one shard, as clients are.
      const auto shard = static_cast<ShardIndex>(random.below(2) ? 0 : random.below(options.shards));
      simulation.add_mail(shard, random.below(options.sites), static_cast<std::uint16_t>(1 + random.below(4)));
      for (std::uint64_t steps = random.below(12); steps > 0; --steps) simulation.step();
      if (random.below(50) == 0) simulation.pass(seconds(random.below(10)));
      if (i == 150) simulation.set_dead(false);
    }
    simulation.run_dry();
    simulation.close_everything();
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(Slots, LeasedPathsHoldTheirLimitAndLoseNoWakeUp) {
  run({.shards = 4, .limit = 8}, 8);
  run({.shards = 4, .limit = 20, .keep = false}, 3);
  run({.shards = 1, .limit = 2}, 5);
}

TEST(Slots, PulledPathsHoldTheirLimitAndLoseNoWakeUp) {
  run({.shards = 4, .limit = 1}, 8);
  run({.shards = 4, .limit = 5}, 6);
  run({.shards = 3, .limit = 2, .keep = false}, 3);
}

TEST(Slots, OutputsMayWaitForTheEndOfATurn) {
  run({.shards = 4, .limit = 8, .long_turns = true}, 12);
  run({.shards = 4, .limit = 2, .long_turns = true}, 8);
  run({.shards = 3, .limit = 6, .dead = true, .long_turns = true}, 6);
}

TEST(Slots, ADeadSiteComesBackByItself) {
  run({.shards = 4, .limit = 8, .dead = true}, 4);
  run({.shards = 4, .limit = 2, .dead = true}, 4);
}

TEST(Slots, PulledPathsCarryMailOfAllShards) {
  Simulation simulation({.shards = 4, .limit = 2, .sites = 1}, 1);
  for (int i = 0; i < 100; ++i) simulation.add_mail(static_cast<ShardIndex>(i % 4), 0, 1);
  simulation.run_dry();
  EXPECT_GT(simulation.crossed(), 70u);
  EXPECT_EQ(simulation.peak(0), 2u) << "the limit is used";
}

TEST(Slots, OneShardMayHaveTheWholeLimitWhenNobodyElseWants) {
  Simulation simulation({.shards = 4, .limit = 8, .sites = 1}, 1);
  for (int i = 0; i < 300; ++i) simulation.add_mail(1, 0, 1);
  simulation.run_dry();
  EXPECT_EQ(simulation.peak(0), 8u);
  EXPECT_EQ(simulation.crossed(), 0u);
}

TEST(Slots, AShardThatComesLateGetsItsShare) {
  Simulation simulation({.shards = 4, .limit = 8, .sites = 1}, 3);
  for (int i = 0; i < 3000; ++i) simulation.add_mail(1, 0, 1);
  for (int i = 0; i < 2000; ++i) simulation.step();
  EXPECT_GE(simulation.slots_of(1).slots_held(SiteId{0}), 7u);
  for (int i = 0; i < 1000; ++i) simulation.add_mail(2, 0, 1);
  for (int i = 0; i < 2000; ++i) simulation.step();
  EXPECT_GE(simulation.slots_of(2).slots_held(SiteId{0}), 3u);
  EXPECT_GE(simulation.slots_of(1).slots_held(SiteId{0}), 3u);
  simulation.run_dry();
}

TEST(Slots, ConnectionsAreReused) {
  Simulation simulation({.shards = 4, .limit = 8, .sites = 1}, 5);
  for (int i = 0; i < 1000; ++i) simulation.add_mail(1, 0, 1);
  simulation.run_dry();
  EXPECT_LT(simulation.connects(), 600u) << "three of four are kept, and some of these idle out";
}

// One busy and one idle connection, both leased, and the home says that others wait.
struct TwoConnections {
  static constexpr SiteId site{7};
  OwnerSlots slots{0};
  Instant now{};
  TwoConnections() {
    slots.on_ready(site, now);
    EXPECT_TRUE(std::holds_alternative<Notice>(*slots.take_output()));
    slots.on_slot_grant({.site = site, .slots = 2}, now);
    for (const std::uint32_t ready : {OwnerSlots::ready_per_connection, 0u}) {
      EXPECT_TRUE(std::holds_alternative<OwnerSlots::Start>(*slots.take_output()));
      slots.on_started(site, ready, now);
      slots.on_connecting(site, now);
    }
    slots.on_delivery_done(site, true, now);
    EXPECT_FALSE(slots.take_output());
    slots.on_slot_recall({.site = site, .slots = 0, .idle = true}, now);
  }
};

TEST(OwnerSlots, AnIdleConnectionThatOthersWaitForGoesWhenItWasNotNeededForAWhile) {
  TwoConnections with;
  EXPECT_FALSE(with.slots.take_output());
  ASSERT_EQ(with.slots.next_deadline(), with.now + OwnerSlots::idle_window);
  with.now += OwnerSlots::idle_window;
  with.slots.on_deadline(with.now);
  EXPECT_EQ(std::get<OwnerSlots::CloseIdle>(*with.slots.take_output()).connections, 1u);
  EXPECT_FALSE(with.slots.take_output()) << "it is open yet";
  EXPECT_EQ(with.slots.slots_held(TwoConnections::site), 2u);
  EXPECT_EQ(with.slots.next_deadline(), never);
  with.slots.on_idle_closed(TwoConnections::site, with.now);
  EXPECT_EQ(std::get<SlotReturn>(*with.slots.take_output()).slots, 1u);
  EXPECT_FALSE(with.slots.take_output());
  EXPECT_EQ(with.slots.slots_held(TwoConnections::site), 1u);
}

TEST(OwnerSlots, WorkThatComesWhileTheLastConnectionClosesWaitsForASlot) {
  TwoConnections with;
  with.slots.on_delivery_done(TwoConnections::site, true, with.now);
  with.now += OwnerSlots::idle_window;
  with.slots.on_deadline(with.now);
  while (with.slots.take_output()) continue;
  with.now += OwnerSlots::idle_window;
  with.slots.on_deadline(with.now);
  while (with.slots.take_output()) continue;
  ASSERT_EQ(with.slots.slots_held(TwoConnections::site), 2u) << "both are closing";
  with.slots.on_ready(TwoConnections::site, with.now);
  EXPECT_TRUE(std::holds_alternative<Notice>(*with.slots.take_output()));
  EXPECT_FALSE(with.slots.take_output());
  with.slots.on_idle_closed(TwoConnections::site, with.now);
  EXPECT_EQ(std::get<SlotReturn>(*with.slots.take_output()).slots, 1u);
  EXPECT_FALSE(with.slots.take_output());
  // A slot that is granted meanwhile: the delivery takes the other's place when that is gone.
  with.slots.on_slot_grant({.site = TwoConnections::site, .slots = 1}, with.now);
  EXPECT_TRUE(std::holds_alternative<OwnerSlots::Start>(*with.slots.take_output()));
  with.slots.on_started(TwoConnections::site, 0, with.now);
  with.slots.on_connecting(TwoConnections::site, with.now);
  EXPECT_EQ(std::get<SlotReturn>(*with.slots.take_output()).slots, 1u);
  EXPECT_EQ(with.slots.slots_held(TwoConnections::site), 1u);
}

TEST(OwnerSlots, AConnectionThatClosesByItselfWhileItIsToBeClosedCountsOnce) {
  TwoConnections with;
  with.now += OwnerSlots::idle_window;
  with.slots.on_deadline(with.now);
  with.slots.on_idle_closed(TwoConnections::site, with.now);  // the CloseIdle has not been taken yet
  EXPECT_EQ(std::get<OwnerSlots::CloseIdle>(*with.slots.take_output()).connections, 1u);
  EXPECT_EQ(std::get<SlotReturn>(*with.slots.take_output()).slots, 1u);
  EXPECT_FALSE(with.slots.take_output());
  EXPECT_EQ(with.slots.slots_held(TwoConnections::site), 1u);
}

TEST(OwnerSlots, OneThatIsNeededNowAndThenStays) {
  TwoConnections with;
  for (int i = 0; i < 10; ++i) {
    with.now += OwnerSlots::idle_window * 2 / 3;
    with.slots.on_deadline(with.now);
    EXPECT_FALSE(with.slots.take_output());
    with.slots.on_ready(TwoConnections::site, with.now);
    EXPECT_TRUE(std::holds_alternative<OwnerSlots::Start>(*with.slots.take_output()));
    with.slots.on_started(TwoConnections::site, 0, with.now);
    with.slots.on_connecting(TwoConnections::site, with.now);
    with.slots.on_delivery_done(TwoConnections::site, true, with.now);
  }
  EXPECT_FALSE(with.slots.take_output());
  EXPECT_EQ(with.slots.slots_held(TwoConnections::site), 2u);
}

struct OneConnection {
  static constexpr SiteId site{7};
  OwnerSlots slots{0};
  Instant now{minutes(1)};
  // Five slots, one delivery under way; `ready` recipients wait.
  explicit OneConnection(std::uint32_t ready) {
    slots.on_ready(site, now);
    EXPECT_TRUE(std::holds_alternative<Notice>(*slots.take_output()));
    slots.on_slot_grant({.site = site, .slots = 5}, now);
    start(false, ready);
  }
  void start(bool connected, std::uint32_t ready) {
    const auto output = slots.take_output();
    ASSERT_TRUE(output && std::holds_alternative<OwnerSlots::Start>(*output));
    EXPECT_EQ(std::get<OwnerSlots::Start>(*output).connected, connected);
    slots.on_started(site, ready, now);
    slots.on_connecting(site, now);
  }
};

TEST(OwnerSlots, AFewWaitForTheConnectionThatIsOpen) {
  OneConnection with(OwnerSlots::ready_per_connection - 1);
  EXPECT_FALSE(with.slots.take_output());
  with.slots.on_delivery_done(OneConnection::site, true, with.now);
  with.start(true, 0);
  EXPECT_EQ(std::get<SlotReturn>(*with.slots.take_output()).slots, 4u);
}

TEST(OwnerSlots, ManyGetConnectionsInProportion) {
  constexpr std::uint32_t each = OwnerSlots::ready_per_connection;
  OneConnection with(3 * each);
  with.start(false, 3 * each);
  with.start(false, 3 * each);
  with.start(false, 3 * each);
  EXPECT_FALSE(with.slots.take_output()) << "four for what is under way and three times eight";
}

TEST(OwnerSlots, NobodyWaitsForLongForAConnectionThatHangs) {
  OneConnection with(1);
  ASSERT_EQ(with.slots.next_deadline(), with.now + OwnerSlots::patience);
  with.now = with.slots.next_deadline() - milliseconds(1);
  with.slots.on_deadline(with.now);
  EXPECT_FALSE(with.slots.take_output());
  with.now += milliseconds(1);
  with.slots.on_deadline(with.now);
  with.start(false, 0);
  EXPECT_EQ(std::get<SlotReturn>(*with.slots.take_output()).slots, 3u);
  EXPECT_EQ(with.slots.next_deadline(), never);
}

TEST(SlotBroker, KnowsWhichPathsItLeases) {
  EXPECT_TRUE(SlotBroker({.shards = 4, .connections_per_path = 8}).leases());
  EXPECT_FALSE(SlotBroker({.shards = 4, .connections_per_path = 7}).leases());
}

TEST(SlotBroker, APulledPathIsHeldAfterAFailureAndThenProbedByOne) {
  SlotBroker broker({.shards = 2, .connections_per_path = 3});
  Random random(1);
  const SiteId site{7};
  Instant now{minutes(1)};
  broker.on_notice({.site = site, .from = 0}, now);
  broker.on_notice({.site = site, .from = 1}, now);
  int pulls = 0;
  while (const auto action = broker.take_action()) pulls += std::holds_alternative<PullRequest>(action->message);
  EXPECT_EQ(pulls, 2) << "one per owner at a time";
  PullReply reply{.site = site, .from = 0, .work = Work{}, .more = true};
  broker.on_pull_reply(reply, now);
  reply = {.site = site, .from = 1, .work = {}, .more = false};
  broker.on_pull_reply(reply, now);
  while (broker.take_action()) continue;

  broker.on_path_failed(site, {.code = 0, .status = {4, 4, 1}, .text = "refused"}, now, random);
  const auto down = broker.take_action();
  ASSERT_TRUE(down && std::holds_alternative<SiteDown>(down->message));
  EXPECT_EQ(std::get<SiteDown>(down->message).reply.text, "refused");
  // The pull of owner 0's second message is still out; its work will fail as well.
  reply = {.site = site, .from = 0, .work = {}, .more = false};
  broker.on_pull_reply(reply, now);
  broker.on_delivery_done(site, false, now);
  broker.on_notice({.site = site, .from = 0}, now);
  broker.on_notice({.site = site, .from = 1}, now);
  EXPECT_FALSE(broker.take_action()) << "held";
  now = broker.next_deadline();
  EXPECT_GE(now, Instant{minutes(1)} + milliseconds(900));
  broker.on_deadline(now);
  const auto probe = broker.take_action();
  ASSERT_TRUE(probe);
  EXPECT_FALSE(broker.take_action()) << "one probe";
  broker.on_pull_reply({.site = site, .from = probe->to, .work = Work{}, .more = true}, now);
  EXPECT_FALSE(broker.take_action());
  broker.on_path_succeeded(site, now);
  EXPECT_TRUE(broker.take_action());
  EXPECT_TRUE(broker.take_action());
}

// The simulator found it: a shard that looked at the end of its window for ever.
TEST(OwnerSlots, AWindowThatEndsWhileOneDeliveryProbesThePathIsOver) {
  OwnerSlots slots(0);
  Random random(1);
  const SiteId site{7};
  Instant now{minutes(1)};
  const auto start = [&](std::uint32_t ready) {
    bool started = false;
    while (const auto output = slots.take_output()) started |= std::holds_alternative<OwnerSlots::Start>(*output);
    ASSERT_TRUE(started);
    slots.on_started(site, ready, now);
    slots.on_connecting(site, now);
  };
  slots.on_ready(site, now);
  slots.on_slot_grant({.site = site, .slots = 2}, now);
  start(OwnerSlots::ready_per_connection);
  start(0);
  slots.on_delivery_done(site, true, now);
  slots.on_path_failed(site, now, random);
  now += minutes(1);
  slots.on_deadline(now);
  slots.on_slot_recall({.site = site, .slots = 0, .idle = true}, now);
  slots.on_ready(site, now);
  ASSERT_EQ(slots.next_deadline(), now + OwnerSlots::idle_window);
  now = slots.next_deadline();
  slots.on_deadline(now);
  EXPECT_GT(slots.next_deadline(), now);
  // The end of the probe lets the work begin.
  slots.on_path_succeeded(site, now);
  start(0);
}

}  // namespace
}  // namespace postern::queue
