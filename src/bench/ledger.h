// What was accepted and what arrived: every recipient of every message of one run. Pure.
//
// The source tells what it got 250 for (when both run in one process), the sink what came. "Lost" is what was accepted
// and did not arrive; without a source it is what is missing below a number of messages.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

#include <postern/base/time.h>

#include "bench/content.h"
#include "bench/histogram.h"
#include "bench/numbering.h"

namespace postern::bench {

class Ledger {
 public:
  // Deliveries (messages × recipients) of one run at most: 8 bytes each, in memory as numbers come.
  static constexpr std::uint64_t deliveries_max = std::uint64_t{1} << 26;

  struct Counts {
    std::uint64_t accepted = 0;  // recipients that the source got 250 for
    std::uint64_t arrived = 0;   // for the first time
    std::uint64_t twice = 0;     // once more
    std::uint64_t changed = 0;   // a body that differs from what its mark says, or another message's content
    std::uint64_t foreign = 0;   // without our mark, of another run, or beyond deliveries_max
  };

  // nullopt: the first mark that arrives names the run.
  explicit Ledger(std::optional<std::uint64_t> run = std::nullopt) : run_(run) {}

  // Whether `message` has a place; a source stops before.
  [[nodiscard]] static bool holds(MessageNumber message, std::uint32_t recipients) {
    return (std::uint64_t{message} + 1) * recipients <= deliveries_max;
  }
  void on_accepted(const RecipientNumber& recipient, std::uint32_t recipients, Instant at);
  // One recipient of an accepted transaction; nullopt when the address is none of ours.
  void on_arrived(const ContentCheck::Result& content, const std::optional<RecipientNumber>& recipient, Instant at);

  [[nodiscard]] const Counts& counts() const { return counts_; }
  // Recipients accepted, and not arrived (yet).
  [[nodiscard]] std::uint64_t outstanding() const { return accepted_only_; }
  // Recipients of the first `messages` messages that have not arrived, accepted or not.
  [[nodiscard]] std::uint64_t missing(std::uint64_t messages) const;
  [[nodiscard]] std::uint64_t recipients_per_message() const { return std::max(recipients_, 1u); }
  // One more than the highest number that arrived.
  [[nodiscard]] std::uint64_t messages_seen() const { return messages_seen_; }
  // From the reply 250 to the arrival; zero for what arrived before the source had read its reply.
  [[nodiscard]] const Histogram& transit() const { return transit_; }
  [[nodiscard]] Instant first_arrival() const { return first_arrival_; }
  [[nodiscard]] Instant last_arrival() const { return last_arrival_; }

 private:
  // Two bits of state above the time of the first of both events, in ns.
  using Entry = std::uint64_t;
  static constexpr Entry accepted_bit = Entry{1} << 63, arrived_bit = Entry{1} << 62, time_mask = arrived_bit - 1;

  [[nodiscard]] Entry* entry(const RecipientNumber& recipient, std::uint32_t recipients);

  std::optional<std::uint64_t> run_;
  std::uint32_t recipients_ = 0;  // per message, the same for the whole run
  std::vector<Entry> entries_;
  Counts counts_;
  std::uint64_t accepted_only_ = 0;
  std::uint64_t messages_seen_ = 0;
  Instant first_arrival_ = never;
  Instant last_arrival_{};
  Histogram transit_;
};

}  // namespace postern::bench
