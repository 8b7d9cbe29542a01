// Deliveries that may begin, but whose message must be read back from the spool first, while as many are being read as
// there may be. What is in memory never waits here.
//
// Those whose connection stands open come first, so that a connection carries many messages before it is closed for
// want of one; every fourth is one of the others all the same, oldest first.
//
// Bound: two for each site, the start and the pull that OwnerSlots and SlotBroker have outstanding at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include <postern/mail/site.h>
#include <postern/queue/fifo.h>
#include <postern/queue/messages.h>

namespace postern::shard {

struct WaitingStart {
  mail::SiteId site{};
  std::uint32_t recipients_max = 0;
  queue::ShardIndex home = 0;  // where the answer goes, if pulled
  bool pulled = false;         // answers a PullRequest; else it uses a slot leased to this shard
  bool connected = false;      // an open connection waits for it
};

class WaitingStarts {
 public:
  static constexpr unsigned turn = 4;

  void push(const WaitingStart& start) { (start.connected ? connected_ : others_).push(start); }
  [[nodiscard]] bool empty() const { return connected_.empty() && others_.empty(); }
  [[nodiscard]] std::optional<WaitingStart> take() {
    if (empty()) return std::nullopt;
    const bool other = connected_.empty() || (++taken_ % turn == 0 && !others_.empty());
    return (other ? others_ : connected_).take();
  }

 private:
  queue::Fifo<WaitingStart> connected_, others_;
  unsigned taken_ = 0;
};

}  // namespace postern::shard
