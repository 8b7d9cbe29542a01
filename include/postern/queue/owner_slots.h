// The owner's side of the connection limits, without I/O: which of this shard's ready work may start now, what to ask
// of the sites' homes, and what to give back. SlotBroker is its counterpart and says how the two kinds of paths differ.
//
// A slot is held as long as a delivery or an open connection uses it: without work its connection idles for the pool's
// idle time and then closes, and the slot goes home. When others wait for it, it goes once it has not been needed for
// idle_window; at once it would go back and forth between shards that are both busy, and each time a connection with
// it. The driver feeds it from OwnerQueue::take_notice(), from mailboxes and from its deliveries.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <set>
#include <utility>
#include <variant>

#include <absl/container/flat_hash_map.h>

#include <postern/base/random.h>
#include <postern/base/time.h>
#include <postern/queue/fifo.h>
#include <postern/queue/messages.h>
#include <postern/queue/path_backoff.h>

namespace postern::queue {

class OwnerSlots {
 public:
  // A delivery may start. The driver pulls from its OwnerQueue and calls on_started(); then, at once or later, either
  // on_connecting() when the delivery takes its connection and on_delivery_done() when it has ended, or
  // on_start_void() when there was nothing to deliver after all or it could not be begun.
  struct Start {
    SiteId site{};
    bool connected = false;  // an idle connection waits for it
  };
  // Close this many idle connections to `site` without waiting for more than what is under way to them;
  // on_idle_closed() for each, and then its slot goes home: the limit counts open connections, and the next one is
  // somebody else's.
  struct CloseIdle {
    SiteId site{};
    std::uint32_t connections = 0;
  };
  // Notice, SlotRequest and SlotReturn go to home_of(site).
  using Output = std::variant<Start, CloseIdle, Notice, SlotRequest, SlotReturn>;

  static constexpr Duration idle_window = std::chrono::milliseconds(100);
  // A connection costs more than many messages: a further one is opened only for so many ready recipients for each that
  // is in use, or when what is ready has waited this long for one of them.
  static constexpr std::uint32_t ready_per_connection = 8;
  static constexpr Duration patience = std::chrono::milliseconds(250);

  explicit OwnerSlots(ShardIndex self) : self_(self) {}

  // There is ready work for `site` (OwnerQueue::take_notice()).
  void on_ready(SiteId site, Instant now);

  // --- from the home
  void on_slot_grant(const SlotGrant& grant, Instant now);
  void on_slot_recall(const SlotRecall& recall, Instant now);
  // A PullReply leaves, with this `more`: to be called at that moment with the value that it carries, or the two sides
  // would differ on whether the home knows of work.
  void on_pulled(SiteId site, bool more, Instant now);
  // After OwnerQueue::defer_site() because of a SiteDown. `more`: OwnerQueue::has_ready(site).
  void on_site_down(SiteId site, bool more, Instant now);

  // --- from this shard's own deliveries
  // The pull for a Start has been made. `ready`: OwnerQueue::ready(site).
  void on_started(SiteId site, std::uint32_t ready, Instant now);
  // The delivery takes its connection: an idle one of this shard to the site if there is any, else the place of one
  // that is being closed (it connects when that is gone), else it opens a new one.
  void on_connecting(SiteId site, Instant now);
  void on_start_void(SiteId site, Instant now);
  // `connection_kept`: the connection is idle now; else it is closed, or none was had.
  void on_delivery_done(SiteId site, bool connection_kept, Instant now);
  void on_idle_closed(SiteId site, Instant now);
  // As in SlotBroker, for leased paths; before on_delivery_done(). The driver also defers what is ready (defer_site()).
  void on_path_failed(SiteId site, Instant now, Random& random);
  void on_path_succeeded(SiteId site, Instant now);

  // --- outputs, in order; at most 4 by one input and path
  [[nodiscard]] std::optional<Output> take_output();
  [[nodiscard]] Instant next_deadline() const;  // ends of holds and windows; `never` when there is none
  void on_deadline(Instant now);

  [[nodiscard]] std::uint32_t slots_held(SiteId site) const;
  [[nodiscard]] std::size_t path_count() const { return paths_.size(); }

 private:
  struct Path {
    std::uint32_t granted = 0;
    std::uint32_t starting = 0;  // Starts that have not taken a connection yet
    std::uint32_t busy = 0;      // deliveries that have
    std::uint32_t idle = 0;      // idle open connections
    std::uint32_t closing = 0;   // CloseIdle was said; their slots are not in `granted` any more, and not home yet
    std::uint32_t recalled = 0;  // ≤ granted
    std::uint32_t ready = 0;     // recipients that are, as far as was said; perhaps more by now
    bool pulling = false;        // a Start was given whose on_started() has not come: there may be more
    bool told_idle = false;      // SlotRecall::idle holds
    bool asked = false;          // the home has been told and has not answered
    PathBackoff backoff{};
    Instant started_at{};  // the last Start
    // While others wait: the fewest idle connections since the window began, and its end (`never`: no window).
    std::uint32_t unused_min = 0;
    Instant window_end = never;
    Instant timer = never;  // its entry in timers_
  };

  // Connections that are open or may be opened for what has been started: at most `granted`.
  [[nodiscard]] static std::uint32_t in_use(const Path& path) { return path.busy + std::max(path.starting, path.idle); }
  // Whether one more connection, or an idle one, may be used for what is ready.
  [[nodiscard]] static bool may_start(const Path& path, Instant now);
  [[nodiscard]] static std::uint32_t unused_for_long(Path& path, std::uint32_t unused, Instant now);
  // Starts what can start, asks for what is missing, returns what is not used and `back` slots of connections that were
  // closing; then drops an empty record.
  void settle(SiteId site, Path& path, Instant now, std::uint32_t back = 0);
  void set_timer(SiteId site, Path& path, Instant at);

  ShardIndex self_;
  absl::flat_hash_map<SiteId, Path> paths_;
  std::set<std::pair<Instant, SiteId>> timers_;  // at most one per path that failed lately or has unused slots
  Fifo<Output> outputs_;
};

}  // namespace postern::queue
