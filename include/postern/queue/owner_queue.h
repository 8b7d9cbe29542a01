// The recipients of one shard's messages that are still to be delivered: which is due, which waits for what. No I/O.
//
// It knows neither bytes nor sockets. The driver (shard) adds accepted and recovered messages, finds routes for
// destinations, lets homes or its own connections pull work, brings outcomes, and carries settlements and retry states
// to the spool. What is in the spool is the truth; this is its index by time, destination and site.
//
//   scheduled ──due──▶ routing ──route──▶ ready ──pull──▶ in_flight ──▶ settled (gone)
//       ▲        (skipped while the route holds)               │
//       └───────────────────────── deferred ───────────────────┘
//
// A restart brings messages in the order of the log, each perhaps for another destination than the one before. Those
// due gather in `routing` until all are there (gather(), release()): so a connection carries many.
//
// Order. Ready recipients of a site leave by strict priority (MT-PRIORITY, highest first), within a priority by
// weighted fair turns between tenants, within a tenant first come first served by the moment at which they became
// ready; retries have no other rank than fresh mail, so neither can starve the other. Recipients of one message for one
// site stay together.
//
// Age. A recipient expires at its give-up time in the states scheduled, routing and ready; in flight, the outcome
// decides (every delivery has its own time limits), and a deferral after the give-up time expires it.
//
// Delay. A recipient whose sender wants to hear of it is told of once, when its message's warn_at has come: with the
// deferral of the attempt that is made at that time or, where it waits for a route or a connection all the while, a
// minute later. `warned` of its RetryState remembers that over restarts.
//
// Memory. 48 bytes per recipient and 40 per message, in slabs, plus 6–12 per message for the index by queue id: with
// the 28 of the spool's index, a waiting recipient of a single-recipient message takes 122–128 bytes, all in.
// Destinations and sites come on top.
//
// Bounded work. An answer that concerns many recipients (a route, a dead site) is carried out in pieces: some at once,
// the rest by on_deadline(), which next_deadline() then asks for at once.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <postern/base/random.h>
#include <postern/base/time.h>
#include <postern/mail/location.h>
#include <postern/mail/outcome.h>
#include <postern/mail/queue_id.h>
#include <postern/mail/site.h>
#include <postern/queue/fifo.h>
#include <postern/queue/index_list.h>
#include <postern/queue/index_wheel.h>
#include <postern/queue/messages.h>
#include <postern/queue/retry_schedule.h>
#include <postern/queue/retry_state.h>
#include <postern/queue/slab.h>

namespace postern::queue {

// What the queue needs of a message.
struct MessageHead {
  mail::QueueId queue_id{};
  mail::Location location{};  // in the log that the queue id names
  WallTime give_up_at{};
  WallTime warn_at{};             // from then on a deferral is a delay that senders are told of; epoch: never
  WallTime hold_until{};          // epoch: no hold
  std::uint32_t sender_hash = 0;  // of the reverse-path, for selections: what it finds is then compared in the spool
  std::uint32_t tenant = 0;       // 0: none
  std::int8_t priority = 0;       // MT-PRIORITY −9…9
  bool null_sender = false;
  bool strict = false;  // nothing is tried behind give_up_at: no last_chance
};

// Where a recovered recipient stands (from its RetryState).
struct RetryPoint {
  std::uint16_t attempts = 0;
  WallTime due{};
};

struct NewRecipient {
  std::uint16_t index = 0;         // in the envelope
  std::string_view destination{};  // route key: what the driver routes by, usually the domain in lower case; not empty
  std::uint32_t hash = 0;          // of the forward-path, for selections
  std::optional<RetryPoint> retry{};
  bool warn = false;  // the sender wants to be told of a delay, and has not been
};

struct DestinationIdTag;
using DestinationId = StrongId<DestinationIdTag, std::uint32_t>;

struct DestinationToRoute {
  DestinationId id{};
  std::string_view text{};  // valid until the next call that is not const
};

enum class SettledAs : std::uint8_t {
  relayed,
  failed,   // for good: by the next hop or by the route
  expired,  // its give-up time came; a failure to the sender, status 4.4.7 [RFC 3463 §3.5]
};

// A recipient has come to its end. The driver writes it to the spool; a failure together with its DSN.
struct Settlement {
  mail::QueueId queue_id{};
  mail::Location location{};
  std::uint16_t recipient = 0;
  std::uint16_t attempts = 0;
  SettledAs outcome = SettledAs::relayed;
  bool null_sender = false;      // a failure goes unreported [RFC 5321 §6.1]
  bool last_of_message = false;  // no recipient of the message is left: the queue has forgotten it
  mail::Reply reply{};  // the words that settled it. Expired while waiting: code 0, 4.4.7 and a text of ours; the
                        // last reply of a next hop is then in its RetryState in the spool
};

// A recipient waits for another attempt. The driver writes the state to the spool (encode_retry_state()) and the event
// log.
struct RetryUpdate {
  mail::QueueId queue_id{};
  mail::Location location{};
  std::uint16_t recipient = 0;
  // The sender is to be told of the delay: in a DSN that is written in one batch with this state. Once per recipient.
  bool warn = false;
  // False (and `warn` is true): it waits for its attempt still, so that the last reply is none; the one of the attempt
  // before is in its RetryState in the spool.
  bool attempted = true;
  WallTime give_up_at{};
  RetryState state{};
};

struct TenantWeight {
  std::uint32_t tenant = 0;
  std::uint32_t weight = 1;  // 1…1000; turns relative to the others
};

class OwnerQueue {
 public:
  struct Options {
    RetrySchedule schedule{};
    std::vector<TenantWeight> tenant_weights{};  // tenants not named weigh 1
    // Overdue retries of a restart are spread over this span, from their add(), or from release().
    Duration restart_spread = std::chrono::seconds(5);
    // What came from the disk already past its give-up time gets one attempt, and this long to have it: an outage of
    // ours must not return mail that was never tried.
    Duration last_chance = std::chrono::minutes(10);
    // What is being tried when its warn_at comes, and what comes from the disk with it past, has so long to arrive or
    // to be deferred before its sender is told.
    Duration warn_patience = std::chrono::minutes(1);
    // Destinations without recipients are remembered with their route, so that a steady stream to few domains is
    // not routed once per message; the oldest go first.
    std::size_t idle_destinations_max = 4096;
    // Recipients moved per call by routes, dead sites and timers.
    std::size_t batch_max = 256;
  };

  struct Counts {
    std::size_t scheduled = 0;  // wait for a time
    std::size_t routing = 0;    // due, wait for a route
    std::size_t ready = 0;      // wait for a connection
    std::size_t in_flight = 0;
    [[nodiscard]] std::size_t total() const { return scheduled + routing + ready + in_flight; }
  };

  OwnerQueue(Options options, Random random);
  OwnerQueue(const OwnerQueue&) = delete;
  OwnerQueue& operator=(const OwnerQueue&) = delete;

  // Takes a message whose record is durable (or about to be: on_results() may come before it, the driver orders
  // settlements behind the record). `recipients`: 1…65,535, only unsettled ones, each index once. The queue id is new
  // to the queue. Keeps no view. After it, look at take_destination_to_route() and take_notice().
  void add(const MessageHead& message, std::span<const NewRecipient> recipients, ClockPair now);
  // The spool has moved the message's record. Unknown ids are ignored. Works already pulled and outputs not yet taken
  // keep the old one.
  void on_moved(mail::QueueId queue_id, mail::Location location);
  // From now until release(), retries that are overdue or come due wait for the rest of their destination's; what is
  // due for the first time waits for nothing, and takes along what has gathered for its destination.
  void gather() { gathering_ = true; }
  // All are there: the gathered become due by destinations, spread over restart_spread.
  void release(ClockPair now);

  // --- routes
  // A destination with due recipients and no valid route; each is given once, and answered by exactly one of the three
  // below.
  [[nodiscard]] std::optional<DestinationToRoute> take_destination_to_route();
  // Recipients that are due, or become due before `valid_until`, go to `site`. Those already ready elsewhere stay
  // there.
  void on_routed(DestinationId id, SiteId site, Instant valid_until, ClockPair now);
  // The route cannot be had now; `reply` says why (code 0 and a 4.x.x status of ours). Due recipients are deferred.
  void on_route_deferred(DestinationId id, const mail::Reply& reply, ClockPair now);
  // There is none (no such domain, null MX): due recipients fail.
  void on_route_failed(DestinationId id, const mail::Reply& reply, ClockPair now);

  // --- deliveries
  // A site that has ready work now and had none. Not given again before nothing was ready for it (pulled, deferred,
  // expired).
  [[nodiscard]] std::optional<SiteId> take_notice();
  [[nodiscard]] std::uint32_t ready(SiteId site) const;  // recipients
  [[nodiscard]] bool has_ready(SiteId site) const { return ready(site) > 0; }
  // The message that pull() would give now.
  [[nodiscard]] std::optional<mail::QueueId> next_ready(SiteId site);
  // Up to `recipients_max` (≥ 1) recipients of the message whose turn it is; nullopt when nothing is ready.
  [[nodiscard]] std::optional<Work> pull(SiteId site, std::uint32_t recipients_max);
  // Ends a delivery. `outcomes` are in the order of Work::recipients; recipients without one were not attempted and go
  // back to the front of their queue. Replies are moved from. False, and nothing done: no such delivery is in flight (a
  // home that answers twice must not settle another's mail).
  [[nodiscard]] bool on_results(DeliveryId id, std::span<RecipientOutcome> outcomes, ClockPair now);
  // No connection could be had, or the connection ended before it reached them: no attempt.
  [[nodiscard]] bool on_not_attempted(DeliveryId id, ClockPair now) { return on_results(id, {}, now); }
  // No next hop of the site can be reached: all that is ready for it is deferred, as after an attempt.
  void defer_site(SiteId site, const mail::Reply& reply, ClockPair now);

  // Makes all scheduled recipients of a destination but those of held messages due, spread over `spread` (0: at once),
  // none later than it would have been. False when none is scheduled.
  bool flush(std::string_view destination, Duration spread, ClockPair now);

  // --- outputs. At most one settlement or retry update per recipient that an input concerns.
  [[nodiscard]] std::optional<Settlement> take_settlement() { return settlements_.take(); }
  [[nodiscard]] std::optional<RetryUpdate> take_retry_update() { return retry_updates_.take(); }

  // --- time
  // Instant::min(): at once; `never`: nothing waits.
  [[nodiscard]] Instant next_deadline() const;
  // Times are kept to 17 ms, rounded up: nothing fires early.
  void on_deadline(ClockPair now);

  // --- what stands here
  [[nodiscard]] const Counts& counts() const { return counts_; }
  [[nodiscard]] std::size_t message_count() const { return index_.size(); }
  [[nodiscard]] std::size_t destination_count() const { return destination_index_.size(); }
  [[nodiscard]] std::size_t site_count() const { return site_index_.size(); }
  // Slabs, tables and texts, without what is pending in the outputs.
  [[nodiscard]] std::size_t memory_bytes() const;

 private:
  enum class State : std::uint8_t { scheduled, routing, ready, in_flight };
  struct Entry {
    std::int64_t timer_at = 0;  // monotonic ns: due time when scheduled; routing or ready: to be told of, or given up
    std::uint32_t recipient_hash = 0;
    std::uint32_t message = 0;
    std::uint32_t destination = 0;
    std::uint32_t site = 0;  // when ready or in flight
    IndexLink timer{};       // in the wheel, unless in flight
    IndexLink list{};        // in the destination's, lane's, delivery's or batch's list, by state
    std::uint16_t timer_slot = 0;
    std::uint16_t recipient = 0;
    std::uint16_t attempts = 0;
    State state = State::scheduled;
    bool warn = false;  // as in NewRecipient
  };
  static_assert(sizeof(Entry) == 48);

  static constexpr std::int64_t never_ns = INT64_MAX;
  struct Message {
    mail::QueueId queue_id{};
    std::uint64_t position = 0;  // of its location, in the log of its queue id
    // Both times in eight bytes: a monotonic one in units of 4 ms, which last for 580 years, and how much earlier a
    // delay is told of.
    std::uint64_t give_up : 42 = 0;
    std::uint64_t warn_before : 22 = 0;  // seconds before the give-up time, up to 48 days; 0: never
    std::uint32_t length = 0;            // of its location
    std::uint32_t sender_hash = 0;
    std::uint32_t tenant = 0;
    std::uint16_t outstanding = 0;  // recipients not settled
    std::int8_t priority = 0;
    bool null_sender : 1 = false;
    bool many : 1 = false;  // had more than one recipient: they are kept together
    bool held : 1 = false;  // hold_until has not come

    [[nodiscard]] mail::Location location() const {
      return {.log = static_cast<std::uint16_t>(queue_id.log()), .length = length, .position = position};
    }
    static constexpr unsigned give_up_shift = 22;
    // Both rounded up: nothing happens early.
    void set_times(std::int64_t give_up_ns, std::int64_t warn_ns);
    [[nodiscard]] std::int64_t give_up_at() const { return static_cast<std::int64_t>(give_up << give_up_shift); }
    // `never_ns`: senders are not told of a delay.
    [[nodiscard]] std::int64_t warn_at() const {
      return warn_before == 0 ? never_ns : give_up_at() - static_cast<std::int64_t>(warn_before) * 1'000'000'000;
    }
  };
  static_assert(sizeof(Message) == 40);
  static_assert(sizeof(Entry) + sizeof(Message) + 12 /* index */ + 28 /* spool::Entry */ <= 128);

  struct Destination {
    std::string text{};
    SiteId site{};
    Instant valid_until = Instant::min();
    std::uint32_t recipients = 0;
    IndexList scheduled{};
    IndexList due{};     // state routing
    IndexLink idle{};    // in idle_destinations_
    bool asked = false;  // waits for take_destination_to_route() or its answer: the id must not be given anew
  };

  // Ready recipients of one tenant and priority for one site.
  struct Lane {
    std::uint32_t tenant = 0;
    std::int8_t priority = 0;
    std::int64_t credit = 0;  // recipients that may still leave in this turn
    IndexList entries{};
    IndexLink link{};  // in the site's lanes: by priority, highest first; within one, by turn
  };
  struct Site {
    SiteId id{};
    std::uint32_t ready = 0;
    std::uint32_t in_flight = 0;
    bool noticed = false;
    bool dissolving = false;  // its ready ones are in a Batch; not found any more, it goes with the last of them
    IndexList lanes{};
  };
  struct Delivery {
    std::uint32_t generation = 0;  // survives its slot's reuse
    std::uint32_t site = 0;
    bool live = false;
    IndexList entries{};
  };

  // An answer to many recipients, on its way through them. They keep their state and their timer until it reaches them.
  enum class BatchKind : std::uint8_t { route, defer, fail, flush };
  struct Batch {
    BatchKind kind = BatchKind::route;
    IndexList entries{};
    SiteId site{};                        // route
    std::uint32_t dissolving = no_index;  // defer: the site record that they stood in
    mail::Reply reply{};                  // defer, fail
    Duration spread{};                    // flush
    std::uint64_t seed = 0;  // of the jitter; with the message it decides, so that its recipients stay together
  };

  struct MessageHash {
    using is_transparent = void;
    const Slab<Message>* messages;
    [[nodiscard]] std::size_t operator()(std::uint32_t index) const;
    [[nodiscard]] std::size_t operator()(mail::QueueId id) const;
  };
  struct MessageEqual {
    using is_transparent = void;
    const Slab<Message>* messages;
    [[nodiscard]] bool operator()(std::uint32_t a, std::uint32_t b) const { return a == b; }
    [[nodiscard]] bool operator()(std::uint32_t a, mail::QueueId b) const { return (*messages)[a].queue_id == b; }
    [[nodiscard]] bool operator()(mail::QueueId a, std::uint32_t b) const { return (*messages)[b].queue_id == a; }
  };
  struct DestinationHash {
    using is_transparent = void;
    const Slab<Destination>* destinations;
    [[nodiscard]] std::size_t operator()(std::uint32_t index) const;
    [[nodiscard]] std::size_t operator()(std::string_view text) const;
  };
  struct DestinationEqual {
    using is_transparent = void;
    const Slab<Destination>* destinations;
    [[nodiscard]] bool operator()(std::uint32_t a, std::uint32_t b) const { return a == b; }
    [[nodiscard]] bool operator()(std::uint32_t a, std::string_view b) const { return (*destinations)[a].text == b; }
    [[nodiscard]] bool operator()(std::string_view a, std::uint32_t b) const { return (*destinations)[b].text == a; }
  };

  using Wheel = IndexWheel<Entry, &Entry::timer, &Entry::timer_at, &Entry::timer_slot>;
  using EntryList = IndexListOf<Entry, &Entry::list>;
  using LaneList = IndexListOf<Lane, &Lane::link>;
  using IdleList = IndexListOf<Destination, &Destination::idle>;

  [[nodiscard]] std::size_t& count_of(State state);
  void enter(Entry& entry, State state);

  [[nodiscard]] std::uint32_t intern(std::string_view text);
  void keep_or_forget(std::uint32_t destination);  // when it has no recipients
  void forget(std::uint32_t destination);
  [[nodiscard]] std::uint32_t site_for(SiteId id);
  void drop_site_if_unused(std::uint32_t site);

  void schedule(std::uint32_t index, std::int64_t due);
  void become_due(std::uint32_t index, ClockPair now);
  void wait_for_route(std::uint32_t index);
  void ask_route(std::uint32_t destination);
  void release_some(ClockPair now);
  void make_ready(std::uint32_t index, SiteId site, bool in_front);
  void leave_ready(std::uint32_t index);
  [[nodiscard]] std::uint32_t lane_for(Site& site, const Message& message);
  [[nodiscard]] std::uint32_t lane_whose_turn_it_is(Site& site);
  [[nodiscard]] std::int64_t turn_of(std::uint32_t tenant) const;
  void drop_lane_if_empty(Site& site, std::uint32_t lane);
  // Ends of an entry that is in no list and not armed.
  void defer(std::uint32_t index, mail::Reply reply, ClockPair now, std::uint64_t seed);
  void settle(std::uint32_t index, SettledAs outcome, mail::Reply reply);
  void expire(std::uint32_t index);
  // When one that waits for a route or a connection is to be told of, or else given up.
  [[nodiscard]] std::int64_t patience_ends(const Entry& entry) const;
  void tell_of_wait(std::uint32_t index, ClockPair now);

  void on_timer(std::uint32_t index, ClockPair now);
  void on_no_route(DestinationId id, BatchKind kind, const mail::Reply& reply, ClockPair now);
  void begin(Batch batch, ClockPair now);
  void run_batches(ClockPair now);
  void run_batch_on(const Batch& batch, std::uint32_t index, ClockPair now);

  Options options_;
  Random random_;
  Counts counts_;

  Slab<Entry> entries_;
  Slab<Message> messages_;
  Slab<Destination> destinations_;
  Slab<Lane> lanes_;
  Slab<Site> sites_;
  Slab<Delivery> deliveries_;

  absl::flat_hash_set<std::uint32_t, MessageHash, MessageEqual> index_;  // by queue id
  absl::flat_hash_set<std::uint32_t, DestinationHash, DestinationEqual> destination_index_;
  absl::flat_hash_map<SiteId, std::uint32_t> site_index_;
  // (message, site) of messages with many recipients → the last of those that stand together in a lane.
  absl::flat_hash_map<std::uint64_t, std::uint32_t> bundles_;

  Wheel wheel_;
  bool gathering_ = false;
  std::uint32_t released_ = 0, release_end_ = 0;  // places in destinations_; equal: nothing to release
  Instant release_began_{}, release_next_{};
  IndexList idle_destinations_;
  std::size_t idle_destination_count_ = 0;
  std::size_t text_bytes_ = 0;  // of destinations, outside their records
  Fifo<Batch> batches_;

  Fifo<std::uint32_t> to_route_;
  Fifo<SiteId> notices_;
  Fifo<Settlement> settlements_;
  Fifo<RetryUpdate> retry_updates_;
};

}  // namespace postern::queue
