// A source and a sink face to face, on the real loop: every message arrives once and intact, and what the sink does
// wrong on request is what the source reports.
#include <memory>
#include <string>
#include <utility>

#include <gtest/gtest.h>

#include "bench/arguments.h"
#include "bench/drive.h"
#include "bench/sink.h"
#include "bench/source.h"

namespace postern::bench {
namespace {

constexpr std::uint64_t run = 99;

class SourceAndSink : public testing::Test {
 protected:
  void SetUp() override {
    StatusOr<std::unique_ptr<Engine>> made = Engine::create();
    ASSERT_TRUE(made.ok()) << made.status();
    engine_ = *std::move(made);
  }

  // Runs `load` against a sink that behaves by `hop`, to the end of both.
  void exchange(const LoadArguments& load, const HopArguments& hop) {
    StatusOr<SinkOptions> sink_made = sink_options(hop, "127.0.0.1:0");
    ASSERT_TRUE(sink_made.ok()) << sink_made.status();
    Sink sink(*engine_, *std::move(sink_made), ledger_);
    ASSERT_TRUE(sink.open().ok());
    const StatusOr<io::Address> address = sink.address();
    ASSERT_TRUE(address.ok());
    StatusOr<SourceOptions> options = source_options(load, address->to_string(), run, wall_now());
    ASSERT_TRUE(options.ok()) << options.status();
    source_ = std::make_unique<Source>(*engine_, *std::move(options), &ledger_);
    source_->start();
    const Instant until = engine_->loop->clocks().monotonic + std::chrono::seconds(60);
    while (!source_->done() && engine_->loop->now() < until) {
      engine_->turn(std::min(until, source_->next_due()));
      source_->on_turn();
    }
    EXPECT_TRUE(source_->done()) << "not within a minute";
    finish(*engine_, sink);
    EXPECT_TRUE(sink.stopped());
    sink_counts_ = sink.counts();
  }

  void expect_all_arrived(std::uint64_t messages, std::uint64_t recipients = 1) {
    EXPECT_EQ(source_->counts().accepted, messages);
    EXPECT_EQ(source_->counts().recipients_accepted, messages * recipients);
    EXPECT_EQ(ledger_.counts().arrived, messages * recipients);
    EXPECT_EQ(ledger_.counts().twice, 0u);
    EXPECT_EQ(ledger_.counts().changed, 0u);
    EXPECT_EQ(ledger_.counts().foreign, 0u);
    EXPECT_EQ(ledger_.outstanding(), 0u);
    EXPECT_EQ(ledger_.missing(messages), 0u);
    EXPECT_EQ(source_->latency().count(), messages);
  }

  std::unique_ptr<Engine> engine_;
  Ledger ledger_{run};
  std::unique_ptr<Source> source_;
  Sink::Counts sink_counts_;
};

TEST_F(SourceAndSink, EveryMessageArrivesOnce) {
  exchange({.sessions = 7, .count = 1000}, {});
  expect_all_arrived(1000);
  EXPECT_EQ(source_->replies(), (std::map<std::uint16_t, std::uint64_t>{{250, 1000}}));
  EXPECT_EQ(source_->counts().connections, 7u);
  EXPECT_EQ(sink_counts_.messages, 1000u);
  EXPECT_EQ(sink_counts_.bytes, source_->counts().bytes);
}

TEST_F(SourceAndSink, WithoutPipeliningAndChunkingToo) {
  exchange({.sessions = 3, .count = 300, .no_pipelining = true, .no_chunking = true}, {});
  expect_all_arrived(300);
}

TEST_F(SourceAndSink, SeveralRecipientsInSeveralDomains) {
  exchange({.sessions = 2, .recipients = 25, .domains = 4, .count = 40}, {});
  expect_all_arrived(40, 25);
}

TEST_F(SourceAndSink, TheMixOfSizesArrivesIntact) {
  exchange({.sessions = 10, .size = "mix", .count = 300}, {});
  expect_all_arrived(300);
  EXPECT_GT(sink_counts_.bytes, 300u * 2048);
}

TEST_F(SourceAndSink, LargeContentWithoutChunkingArrivesIntact) {
  exchange({.sessions = 2, .size = "3MiB", .count = 10}, {.no_chunking = true});
  expect_all_arrived(10);
}

TEST_F(SourceAndSink, AConnectionIsUsedForSoManyMessages) {
  exchange({.sessions = 4, .messages_per_connection = 10, .count = 200}, {});
  expect_all_arrived(200);
  EXPECT_GE(source_->counts().connections, 20u);
}

TEST_F(SourceAndSink, ASinksLimitPerConnectionCostsNoMessage) {
  exchange({.sessions = 2, .count = 100}, {.messages_per_connection = 10});
  EXPECT_EQ(source_->counts().accepted + source_->counts().refused, 100u);
  EXPECT_EQ(ledger_.outstanding(), 0u);
  EXPECT_EQ(ledger_.counts().twice, 0u);
  EXPECT_GE(sink_counts_.connections, 10u);
}

TEST_F(SourceAndSink, RefusalsAreReportedByCode) {
  exchange({.sessions = 5, .count = 500}, {.replies = {"rcpt=450 4.2.0 Busy@20%", "end=554 5.7.1 No@20%"}});
  const auto& replies = source_->replies();
  EXPECT_EQ(replies.size(), 3u);
  EXPECT_NEAR(static_cast<double>(replies.at(450)), 100, 50);
  EXPECT_NEAR(static_cast<double>(replies.at(554)), 80, 50);
  EXPECT_EQ(replies.at(250), source_->counts().accepted);
  EXPECT_EQ(source_->counts().accepted + source_->counts().refused, 500u);
  EXPECT_EQ(ledger_.counts().arrived, source_->counts().accepted);
  EXPECT_EQ(sink_counts_.refusals, source_->counts().refused);
}

TEST_F(SourceAndSink, HangingUpLosesNothingThatWasAccepted) {
  exchange({.sessions = 5, .count = 200}, {.hang_ups = {"end@10%", "mail@5%"}});
  EXPECT_GT(sink_counts_.hang_ups, 0u);
  EXPECT_EQ(source_->counts().accepted + source_->counts().refused, 200u);
  EXPECT_GT(source_->counts().refused, 0u);
  EXPECT_EQ(ledger_.outstanding(), 0u);
  EXPECT_EQ(ledger_.counts().twice, 0u);
}

TEST_F(SourceAndSink, ADelayShowsAsLatency) {
  exchange({.sessions = 4, .count = 20}, {.delays = {"end=50ms"}});
  expect_all_arrived(20);
  EXPECT_GE(source_->latency().quantile(0.01), std::chrono::milliseconds(50));
}

// Coordinated omission: one session, 20 ms for each message, but one due every 5 ms. Those that had to wait for their
// turn say so; the service time alone would hide it.
TEST_F(SourceAndSink, OpenLoopLatencyCountsFromWhenAMessageWasDue) {
  exchange({.sessions = 1, .count = 50, .rate = 200}, {.delays = {"end=20ms"}});
  expect_all_arrived(50);
  EXPECT_GE(source_->latency().max(), std::chrono::milliseconds(50 * 20 - 50 * 5 - 1));
  EXPECT_LT(source_->service_time().quantile(0.5), source_->latency().quantile(0.5));
}

TEST_F(SourceAndSink, OpenLoopKeepsItsRate) {
  exchange({.sessions = 5, .duration = "500ms", .rate = 200}, {});
  EXPECT_EQ(source_->counts().begun, 100u);
  expect_all_arrived(100);
  EXPECT_GE(source_->last_reply_at() - source_->began_at(), std::chrono::milliseconds(490));
}

TEST(Arguments, WhatIsWrongIsSaid) {
  const auto load = [](LoadArguments arguments, const std::string& target = "127.0.0.1:25") {
    return source_options(arguments, target, run, wall_now()).status().code();
  };
  EXPECT_EQ(load({}), StatusCode::kOk);
  EXPECT_EQ(load({}, "somewhere"), StatusCode::kInvalidArgument);
  EXPECT_EQ(load({.sessions = 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(load({.recipients = 1001}), StatusCode::kInvalidArgument);
  EXPECT_EQ(load({.domains = 0}), StatusCode::kInvalidArgument);
  EXPECT_EQ(load({.size = "large"}), StatusCode::kInvalidArgument);
  EXPECT_EQ(load({.duration = "long"}), StatusCode::kInvalidArgument);
  EXPECT_EQ(load({.rate = -1}), StatusCode::kInvalidArgument);
  EXPECT_EQ(sink_options({.replies = {"x"}}, "127.0.0.1:0").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(sink_options({.delays = {"x"}}, "127.0.0.1:0").status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(sink_options({.recipients = 0}, "127.0.0.1:0").status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace postern::bench
