// The home's side of the connection limits of its sites, without I/O: how many connections there may be to a site over
// all shards, and which shard's work goes next.
//
// The driver (shard) carries messages of queue/messages.h in and actions out. OwnerSlots is its counterpart.
//
// When the limit is at least twice the shards, paths are *leased*: owners that have work get slots and deliver their
// own mail on their own connections. Below that they are *pulled*: the home alone connects, and asks owners for work
// when it has a connection to put it on.
//
// Invariant, checked at every input: slots leased + deliveries + max(pulls asked for, idle connections) ≤ limit.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <variant>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include <postern/base/random.h>
#include <postern/base/time.h>
#include <postern/queue/fifo.h>
#include <postern/queue/messages.h>
#include <postern/queue/path_backoff.h>

namespace postern::queue {

class SlotBroker {
 public:
  struct Options {
    ShardIndex shards = 1;
    std::uint32_t connections_per_path = 20;  // ≥ 1
    std::uint32_t recipients_max = 100;       // asked for in a pull
  };

  // What the driver has to send, to the shard `to`, which may be this one.
  struct Action {
    ShardIndex to = 0;
    std::variant<SlotGrant, SlotRecall, PullRequest, SiteDown> message{};
  };

  struct Usage {
    std::uint32_t limit = 0;
    std::uint32_t leased = 0;
    std::uint32_t deliveries = 0;
    std::uint32_t pulls = 0;
    std::uint32_t idle = 0;
  };

  explicit SlotBroker(const Options& options);

  // --- from owners
  void on_notice(const Notice& notice, Instant now);
  void on_slot_request(const SlotRequest& request, Instant now);
  void on_slot_return(const SlotReturn& slots, Instant now);
  // Ends one pull. With work, a delivery has begun: it uses an idle connection of the path if there is one (if that is
  // of no use, the driver closes it first), else a new one. Only the presence of the work counts here.
  void on_pull_reply(const PullReply& reply, Instant now);

  // --- from this shard's own deliveries of pulled paths
  // One delivery has ended and its outcomes are on their way to the owner. `connection_kept`: its connection is idle
  // now.
  void on_delivery_done(SiteId site, bool connection_kept, Instant now);
  // An idle connection was closed (idle time, peer).
  void on_idle_closed(SiteId site, Instant now);
  // No next hop could be reached (see PathBackoff): the path is held, and owners known to have work are told SiteDown
  // with `reply`. To be called before on_delivery_done() of the delivery that failed so.
  void on_path_failed(SiteId site, const mail::Reply& reply, Instant now, Random& random);
  void on_path_succeeded(SiteId site, Instant now);

  // --- outputs
  // At most 2 × shards actions become due by one input.
  [[nodiscard]] std::optional<Action> take_action();
  [[nodiscard]] Instant next_deadline() const;  // ends of holds; `never` when there is none
  void on_deadline(Instant now);

  [[nodiscard]] bool leases() const { return leases_; }
  [[nodiscard]] Usage usage(SiteId site) const;  // zeros, but the limit, when there is no record
  [[nodiscard]] std::size_t path_count() const { return paths_.size(); }

 private:
  struct Owner {
    std::uint32_t leased = 0;
    std::uint32_t recalled = 0;  // asked back and not yet here
    bool wants = false;
    bool pulling = false;    // a PullRequest is with it
    bool told_idle = false;  // SlotRecall::idle holds for it
  };
  struct Path {
    std::uint32_t leased = 0;
    std::uint32_t deliveries = 0;
    std::uint32_t pulls = 0;
    std::uint32_t idle = 0;
    std::uint32_t wanting = 0;  // owners that want
    ShardIndex turn = 0;        // the owner to be looked at first
    PathBackoff backoff{};
    Instant timer = never;  // its entry in timers_
    std::vector<Owner> owners{};
  };

  [[nodiscard]] Path& path(SiteId site);
  [[nodiscard]] Path& existing(SiteId site);
  void set_wants(Path& path, ShardIndex shard, bool wants);
  // Gives out what can be given out, checks the invariant, and drops a record that is of no more use.
  void serve(SiteId site, Path& path, Instant now);
  void serve_leased(SiteId site, Path& path);
  void recall(SiteId site, Path& path, std::uint32_t share);
  void serve_pulled(SiteId site, Path& path, Instant now);
  [[nodiscard]] ShardIndex next_owner(Path& path) const;
  void set_timer(SiteId site, Path& path, Instant at);

  Options options_;
  bool leases_;
  absl::flat_hash_map<SiteId, std::unique_ptr<Path>> paths_;
  std::set<std::pair<Instant, SiteId>> timers_;  // at most one per path that failed lately
  Fifo<Action> actions_;
};

}  // namespace postern::queue
