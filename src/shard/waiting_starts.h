// Deliveries that may begin, but whose message must be read back from the spool first, while as many are being read as
// there may be; what is in memory does not wait for that. Or for which there is no place for a connection; or any,
// while the logs cannot take outcomes.
//
// Those whose connection stands open come first, so that a connection carries many messages before it is closed for
// want of one. The others, oldest first, have a turn while fewer connections wait than keep the disk and the next hops
// busy, and every 32nd time in any case: a connection costs as much as four messages.
//
// Bound: two for each site, the start and the pull that OwnerSlots and SlotBroker have outstanding at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <absl/container/flat_hash_map.h>

#include <postern/mail/site.h>
#include <postern/queue/fifo.h>
#include <postern/queue/index_list.h>
#include <postern/queue/messages.h>
#include <postern/queue/slab.h>

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
  static constexpr std::size_t enough_connected = 256;
  static constexpr unsigned turn = 32;

  void push(const WaitingStart& start);
  // A connection of this shard's own to `site` has nothing to do: a start that waits there without one has one now.
  void on_connection_idle(mail::SiteId site);
  [[nodiscard]] bool empty() const { return connected_.empty() && others_.empty(); }
  // `places`: there is one for a new connection.
  [[nodiscard]] std::optional<WaitingStart> take(bool places);

 private:
  struct Waiting {
    WaitingStart start{};
    queue::IndexLink link{};
  };
  using List = queue::IndexListOf<Waiting, &Waiting::link>;

  queue::Fifo<WaitingStart> connected_;
  queue::Slab<Waiting> slab_;
  queue::IndexList others_;
  absl::flat_hash_map<mail::SiteId, std::uint32_t> unconnected_;  // those of others_ that are not pulled
  unsigned taken_ = 0;
};

}  // namespace postern::shard
