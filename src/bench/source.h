// A load generator: sessions that send numbered messages to one relay, closed loop (each sends the next one when the
// last one is answered) or open loop (messages are due at a rate, whatever the relay does).
//
// In open loop a message's latency counts from when it was due, not from when a session was free to send it: a relay
// that stalls pays for those that had to wait (no coordinated omission). In closed loop it counts from MAIL.
// One engine; driven by it and by its owner's round:
//
//   while (!source.done()) { engine.turn(source.next_due()); source.on_turn(); }
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <postern/base/random.h>
#include <postern/base/status.h>
#include <postern/smtp/client_session.h>

#include "bench/content.h"
#include "bench/engine.h"
#include "bench/histogram.h"
#include "bench/ledger.h"
#include "bench/sizes.h"

namespace postern::bench {

class SourceSession;

struct SourceOptions {
  static constexpr std::uint32_t sessions_max = 60'000;

  io::Address target;
  std::uint32_t sessions = 20;
  std::uint32_t messages_per_connection = 0;  // then QUIT and a new one; 0: as many as there are
  ContentMaker::Options content;
  Sizes sizes = Sizes::fixed(1024);
  std::uint64_t count = 0;  // messages; 0: until `duration` is over
  Duration duration{};      // zero: until `count` is reached
  double rate = 0;          // messages due per second, open loop; 0: closed loop
  MessageNumber first = 0;  // numbers count from here
  bool pipelining = true;
  bool chunking = true;
  std::uint64_t seed = 1;
};

class Source {
 public:
  struct Counts {
    std::uint64_t begun = 0;     // messages
    std::uint64_t accepted = 0;  // messages with at least one recipient accepted
    std::uint64_t refused = 0;   // messages with none
    std::uint64_t recipients_accepted = 0;
    std::uint64_t bytes = 0;  // of content in messages accepted
    std::uint64_t connections = 0;
    std::uint64_t connections_failed = 0;  // refused, lost, or turned away in the greeting
  };
  // A session whose connection failed tries again after this time; the source ends when all fail for so long.
  static constexpr Duration reconnect_pause = std::chrono::milliseconds(100);
  static constexpr Duration unreachable_max = std::chrono::seconds(10);

  // `ledger`, when there is one, is told of every recipient accepted, and outlives this.
  Source(Engine& engine, SourceOptions options, Ledger* ledger);
  ~Source();  // behind Engine::end_connections()
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  void start();
  void stop();  // begins no more messages; those under way are finished
  [[nodiscard]] Instant next_due() const;
  void on_turn();
  // All messages are answered and all connections gone.
  [[nodiscard]] bool done() const { return started_ && sessions_open_ == 0; }
  // No more messages will be begun.
  [[nodiscard]] bool all_begun() const { return started_ && finished(engine_.loop->now()); }
  // Why it ended before its time; OK when it did not.
  [[nodiscard]] const Status& status() const { return status_; }

  [[nodiscard]] const Counts& counts() const { return counts_; }
  [[nodiscard]] const Histogram& latency() const { return latency_; }
  // From MAIL, in open loop too.
  [[nodiscard]] const Histogram& service_time() const { return service_time_; }
  // Final replies by code, one for each recipient; 0: there was none.
  [[nodiscard]] const std::map<std::uint16_t, std::uint64_t>& replies() const { return replies_; }
  // An example of what was refused or lost, escaped; "" when nothing was.
  [[nodiscard]] const std::string& first_trouble() const { return first_trouble_; }
  [[nodiscard]] Instant began_at() const { return began_at_; }
  [[nodiscard]] Instant last_reply_at() const { return last_reply_at_; }
  // Messages that are due and were not begun: an open loop's backlog.
  [[nodiscard]] std::uint64_t overdue(Instant now) const;

 private:
  friend class SourceSession;

  struct Job {
    MessageNumber message = 0;
    Instant due{};
  };
  // The next message for a free session; nullopt: none is due now. finished(): none will come.
  [[nodiscard]] std::optional<Job> next_job(Instant now);
  [[nodiscard]] bool finished(Instant now) const;
  [[nodiscard]] Instant due_at(std::uint64_t index) const;
  void on_result(const Job& job, Instant begun_at, std::uint64_t bytes, const smtp::DeliveryResult& result,
                 Instant now);
  void on_connection_failed(std::string_view reason);

  Engine& engine_;
  SourceOptions options_;
  smtp::ClientOptions session_options_;
  ContentMaker maker_;
  Ledger* ledger_;
  Random random_;
  std::vector<std::unique_ptr<SourceSession>> sessions_;
  std::vector<SourceSession*> idle_;  // open loop: wait for a message to be due
  std::uint64_t sessions_open_ = 0;
  Instant failing_since_ = never;  // connections, all of them
  bool started_ = false;
  bool stopping_ = false;
  Instant began_at_{};
  Instant last_reply_at_{};
  Status status_;
  Counts counts_;
  Histogram latency_, service_time_;
  std::map<std::uint16_t, std::uint64_t> replies_;
  std::string first_trouble_;
};

}  // namespace postern::bench
