#include <algorithm>
#include <utility>

#include <absl/hash/hash.h>

#include <postern/base/check.h>
#include <postern/base/hash.h>
#include <postern/queue/jitter.h>
#include <postern/queue/owner_queue.h>

namespace postern::queue {
namespace {

// A tenant's turn in recipients, times its weight. Larger than most deliveries, so that a turn is rarely overdrawn by
// much, and small enough that a tenant with a long list does not hold up the others for long.
constexpr std::int64_t turn_recipients = 100;

// Beyond it times are cut: it keeps sums of what was read from a disk from overflowing.
constexpr Duration farthest = std::chrono::hours(24 * 365 * 10);

std::int64_t ns_of(Instant at) {
  return at.time_since_epoch().count();
}

// Where `at` lies on the monotonic clock; nothing lies before its zero, and nothing too far off.
std::int64_t monotonic_ns(WallTime at, ClockPair now) {
  const Duration ahead = std::min(std::max(at, WallTime{}) - now.wall, farthest);
  return std::max<std::int64_t>(ns_of(now.monotonic + ahead), 0);
}

constexpr std::uint64_t rounded_up(std::int64_t value, std::int64_t unit) {
  return static_cast<std::uint64_t>((value + unit - 1) / unit);
}

std::uint64_t bundle_key(std::uint32_t message, std::uint32_t site) {
  return std::uint64_t{message} << 32 | site;
}

mail::Reply expired_reply() {
  return {.code = 0, .status = {4, 4, 7}, .text = "delivery time expired"};
}

}  // namespace

std::size_t OwnerQueue::MessageHash::operator()(std::uint32_t index) const {
  return (*this)((*messages)[index].queue_id);
}
std::size_t OwnerQueue::MessageHash::operator()(mail::QueueId id) const {
  return absl::Hash<mail::QueueId>()(id);
}
std::size_t OwnerQueue::DestinationHash::operator()(std::uint32_t index) const {
  return TextHash()((*destinations)[index].text);
}
std::size_t OwnerQueue::DestinationHash::operator()(std::string_view text) const {
  return TextHash()(text);
}

OwnerQueue::OwnerQueue(Options options, Random random)
    : options_(std::move(options)),
      random_(random),
      index_(0, MessageHash{&messages_}, MessageEqual{&messages_}),
      destination_index_(0, DestinationHash{&destinations_}, DestinationEqual{&destinations_}),
      wheel_(entries_) {
  POSTERN_CHECK(options_.batch_max > 0);
}

void OwnerQueue::Message::set_times(std::int64_t give_up_ns, std::int64_t warn_ns) {
  constexpr std::int64_t second = 1'000'000'000;
  constexpr std::int64_t before_max = (1 << 22) - 1;
  static_assert(farthest.count() < std::int64_t{1} << 62);
  give_up = rounded_up(give_up_ns, std::int64_t{1} << give_up_shift) & ((std::uint64_t{1} << 42) - 1);
  warn_before = 0;
  if (warn_ns >= give_up_at()) return;
  warn_before = static_cast<std::uint32_t>(std::min((give_up_at() - warn_ns) / second, before_max)) & before_max;
}

std::size_t& OwnerQueue::count_of(State state) {
  switch (state) {
    case State::scheduled:
      return counts_.scheduled;
    case State::routing:
      return counts_.routing;
    case State::ready:
      return counts_.ready;
    case State::in_flight:
      return counts_.in_flight;
  }
  POSTERN_CHECK(false);
}

void OwnerQueue::enter(Entry& entry, State state) {
  --count_of(entry.state);
  ++count_of(state);
  entry.state = state;
}

void OwnerQueue::add(const MessageHead& head, std::span<const NewRecipient> recipients, ClockPair now) {
  POSTERN_CHECK(!recipients.empty() && recipients.size() <= UINT16_MAX);
  const std::int64_t now_ns = ns_of(now.monotonic);
  std::int64_t give_up_at = monotonic_ns(head.give_up_at, now);
  std::int64_t warn_at = head.warn_at == WallTime{} ? never_ns : monotonic_ns(head.warn_at, now);
  if (warn_at <= now_ns) warn_at = now_ns + options_.warn_patience.count();
  if (give_up_at <= now_ns && !head.strict) give_up_at = now_ns + options_.last_chance.count();

  POSTERN_CHECK(head.location.log == head.queue_id.log(), "a message lives in the log that named it");
  const std::uint32_t message = messages_.take();
  messages_[message] = {.queue_id = head.queue_id,
                        .position = head.location.position,
                        .length = head.location.length,
                        .sender_hash = head.sender_hash,
                        .tenant = head.tenant,
                        .outstanding = static_cast<std::uint16_t>(recipients.size()),
                        .priority = head.priority,
                        .null_sender = head.null_sender,
                        .many = recipients.size() > 1,
                        .held = head.hold_until > now.wall};
  messages_[message].set_times(give_up_at, warn_at);
  const bool is_new = index_.insert(message).second;
  POSTERN_CHECK(is_new, "a queue id is in the queue already");

  const std::int64_t hold_until = monotonic_ns(head.hold_until, now);
  for (const NewRecipient& recipient : recipients) {
    std::int64_t due = hold_until;
    bool overdue = false;
    if (recipient.retry) {
      const std::int64_t retry_at = monotonic_ns(recipient.retry->due, now);
      const std::int64_t latest =
          now_ns + options_.schedule.longest().count();  // a clock that was wrong must not delay mail
      overdue = std::max(retry_at, hold_until) <= now_ns;
      due = std::max(due, retry_at > now_ns ? std::min(retry_at, latest)
                                            : now_ns + random_below(options_.restart_spread, random_).count());
    }
    const std::uint32_t index = entries_.take();
    entries_[index] = {.timer_at = 0,
                       .recipient_hash = recipient.hash,
                       .message = message,
                       .destination = intern(recipient.destination),
                       .site = no_index,
                       .timer = {},
                       .list = {},
                       .timer_slot = Wheel::not_armed,
                       .recipient = recipient.index,
                       .attempts = recipient.retry ? recipient.retry->attempts : std::uint16_t{0},
                       .state = State::scheduled,
                       .warn = recipient.warn};
    ++counts_.scheduled;
    if (gathering_ && overdue) {
      wait_for_route(index);
    } else if (due <= now_ns) {
      become_due(index, now);
    } else {
      schedule(index, std::min(due, give_up_at));
    }
  }
}

void OwnerQueue::on_moved(mail::QueueId queue_id, mail::Location location) {
  const auto it = index_.find(queue_id);
  if (it == index_.end()) return;
  POSTERN_CHECK(location.log == queue_id.log(), "a message moves within its log");
  messages_[*it].position = location.position;
  messages_[*it].length = location.length;
}

// --- destinations and routes

std::uint32_t OwnerQueue::intern(std::string_view text) {
  const auto it = destination_index_.find(text);
  if (it != destination_index_.end()) {
    Destination& known = destinations_[*it];
    if (known.recipients++ == 0 && !known.asked) {
      IdleList::remove(destinations_, idle_destinations_, *it);
      --idle_destination_count_;
    }
    return *it;
  }
  const std::uint32_t index = destinations_.take();
  Destination& destination = destinations_[index];
  destination = {};
  destination.text = text;
  destination.recipients = 1;
  text_bytes_ += destination.text.capacity();
  destination_index_.insert(index);
  return index;
}

void OwnerQueue::keep_or_forget(std::uint32_t index) {
  Destination& destination = destinations_[index];
  if (destination.recipients != 0 || destination.asked) return;
  if (destination.valid_until == Instant::min()) {
    forget(index);
    return;
  }
  IdleList::push_back(destinations_, idle_destinations_, index);
  if (++idle_destination_count_ > options_.idle_destinations_max) {
    --idle_destination_count_;
    forget(IdleList::pop_front(destinations_, idle_destinations_));
  }
}

void OwnerQueue::forget(std::uint32_t index) {
  destination_index_.erase(index);
  text_bytes_ -= destinations_[index].text.capacity();
  destinations_[index] = {};
  destinations_.free(index);
}

std::optional<DestinationToRoute> OwnerQueue::take_destination_to_route() {
  while (!to_route_.empty()) {
    const std::uint32_t index = *to_route_.take();
    Destination& destination = destinations_[index];
    if (!destination.due.empty()) return DestinationToRoute{.id = {index}, .text = destination.text};
    destination.asked = false;  // those that were due have expired
    keep_or_forget(index);
  }
  return std::nullopt;
}

void OwnerQueue::on_routed(DestinationId id, SiteId site, Instant valid_until, ClockPair now) {
  Destination& destination = destinations_[id.value];
  POSTERN_CHECK(destination.asked);
  destination.asked = false;
  destination.site = site;
  destination.valid_until = valid_until;
  Batch batch{.kind = BatchKind::route, .entries = std::exchange(destination.due, {}), .site = site, .reply = {}};
  keep_or_forget(id.value);
  begin(std::move(batch), now);
}

void OwnerQueue::on_route_deferred(DestinationId id, const mail::Reply& reply, ClockPair now) {
  on_no_route(id, BatchKind::defer, reply, now);
}

void OwnerQueue::on_route_failed(DestinationId id, const mail::Reply& reply, ClockPair now) {
  on_no_route(id, BatchKind::fail, reply, now);
}

void OwnerQueue::on_no_route(DestinationId id, BatchKind kind, const mail::Reply& reply, ClockPair now) {
  Destination& destination = destinations_[id.value];
  POSTERN_CHECK(destination.asked);
  destination.asked = false;
  destination.valid_until = Instant::min();
  Batch batch{.kind = kind, .entries = std::exchange(destination.due, {}), .site = {}, .reply = reply};
  keep_or_forget(id.value);
  begin(std::move(batch), now);
}

// --- from state to state. Each leaves the entry in exactly one list and armed, or in flight, or gone.

void OwnerQueue::schedule(std::uint32_t index, std::int64_t due) {
  Entry& entry = entries_[index];
  enter(entry, State::scheduled);
  EntryList::push_back(entries_, destinations_[entry.destination].scheduled, index);
  wheel_.arm(index, due);
}

void OwnerQueue::become_due(std::uint32_t index, ClockPair now) {
  Entry& entry = entries_[index];
  messages_[entry.message].held = false;
  const std::int64_t give_up_at = messages_[entry.message].give_up_at();
  if (give_up_at <= ns_of(now.monotonic)) {
    expire(index);
    return;
  }
  Destination& destination = destinations_[entry.destination];
  if (destination.valid_until > now.monotonic) {
    make_ready(index, destination.site, false);
    return;
  }
  wait_for_route(index);
  ask_route(entry.destination);
}

void OwnerQueue::wait_for_route(std::uint32_t index) {
  Entry& entry = entries_[index];
  enter(entry, State::routing);
  EntryList::push_back(entries_, destinations_[entry.destination].due, index);
  wheel_.arm(index, patience_ends(entry));
}

void OwnerQueue::ask_route(std::uint32_t index) {
  Destination& destination = destinations_[index];
  if (destination.asked) return;
  destination.asked = true;
  to_route_.push(index);
}

void OwnerQueue::release(ClockPair now) {
  gathering_ = false;
  released_ = 0;
  release_end_ = destinations_.made();
  release_began_ = now.monotonic;
  release_some(now);
}

// As many destinations as their share of the span by now, the first at once. Each route is asked for, also where one is
// known still: the answer is what moves those that wait.
void OwnerQueue::release_some(ClockPair now) {
  using std::chrono::milliseconds;
  const auto span = std::chrono::duration_cast<milliseconds>(options_.restart_spread).count();
  const auto passed = std::chrono::duration_cast<milliseconds>(now.monotonic - release_began_).count();
  std::uint32_t goal = release_end_;
  if (passed < span && release_end_ > 0) {
    goal = 1 + static_cast<std::uint32_t>(std::uint64_t{release_end_ - 1} * static_cast<std::uint64_t>(passed) /
                                          static_cast<std::uint64_t>(span));
  }
  std::size_t looked_at = 0;
  for (; released_ < goal && looked_at < options_.batch_max; ++released_, ++looked_at) {
    if (!destinations_[released_].due.empty()) ask_route(released_);
  }
  release_next_ = released_ < goal ? Instant::min() : now.monotonic + milliseconds(10);
}

void OwnerQueue::make_ready(std::uint32_t index, SiteId site_id, bool in_front) {
  Entry& entry = entries_[index];
  const Message& message = messages_[entry.message];
  entry.site = site_for(site_id);
  Site& site = sites_[entry.site];
  enter(entry, State::ready);
  IndexList& list = lanes_[lane_for(site, message)].entries;

  std::uint32_t after = in_front ? no_index : list.tail;
  if (message.many) {
    const auto [it, first] = bundles_.try_emplace(bundle_key(entry.message, entry.site), index);
    if (!first) after = std::exchange(it->second, index);
  }
  EntryList::insert_after(entries_, list, after, index);
  wheel_.arm(index, patience_ends(entry));
  ++site.ready;
  if (!site.noticed) {
    site.noticed = true;
    notices_.push(site_id);
  }
}

// Takes a ready entry whose timer has fired out of its lane.
void OwnerQueue::leave_ready(std::uint32_t index) {
  const Entry& entry = entries_[index];
  const Message& message = messages_[entry.message];
  Site& site = sites_[entry.site];
  const std::uint32_t lane = lane_for(site, message);
  if (message.many) {
    const auto it = bundles_.find(bundle_key(entry.message, entry.site));
    if (it->second == index) {
      const std::uint32_t previous = entry.list.previous;
      if (previous != no_index && entries_[previous].message == entry.message) {
        it->second = previous;
      } else {
        bundles_.erase(it);
      }
    }
  }
  EntryList::remove(entries_, lanes_[lane].entries, index);
  drop_lane_if_empty(site, lane);
  if (--site.ready == 0) site.noticed = false;
  drop_site_if_unused(entry.site);
}

void OwnerQueue::defer(std::uint32_t index, mail::Reply reply, ClockPair now, std::uint64_t seed) {
  Entry& entry = entries_[index];
  const Message& message = messages_[entry.message];
  if (message.give_up_at() <= ns_of(now.monotonic)) {
    settle(index, SettledAs::expired, std::move(reply));
    return;
  }
  // One draw per message: its recipients for one site come due together and travel together again.
  Random random(seed ^ message.queue_id.value);
  const Duration wait = options_.schedule.wait_after(entry.attempts, random);
  std::int64_t due = std::min(ns_of(now.monotonic + wait), message.give_up_at());
  const bool warn = entry.warn && message.warn_at() <= ns_of(now.monotonic);
  if (warn) entry.warn = false;
  // An attempt at that time: so the sender is told in time, with words that are fresh.
  if (entry.warn) due = std::min(due, message.warn_at());
  retry_updates_.push({.queue_id = message.queue_id,
                       .location = message.location(),
                       .recipient = entry.recipient,
                       .warn = warn,
                       .give_up_at = now.to_wall(Instant(Duration(message.give_up_at()))),
                       .state = {.attempts = entry.attempts,
                                 .due = now.to_wall(Instant(Duration(due))),
                                 .last_reply = std::move(reply),
                                 .warned = !entry.warn}});
  schedule(index, due);
}

std::int64_t OwnerQueue::patience_ends(const Entry& entry) const {
  const Message& message = messages_[entry.message];
  if (!entry.warn || message.warn_before == 0) return message.give_up_at();
  return std::min(message.warn_at() + options_.warn_patience.count(), message.give_up_at());
}

void OwnerQueue::tell_of_wait(std::uint32_t index, ClockPair now) {
  Entry& entry = entries_[index];
  const Message& message = messages_[entry.message];
  entry.warn = false;
  retry_updates_.push({.queue_id = message.queue_id,
                       .location = message.location(),
                       .recipient = entry.recipient,
                       .warn = true,
                       .attempted = false,
                       .give_up_at = now.to_wall(Instant(Duration(message.give_up_at()))),
                       .state = {.attempts = entry.attempts, .due = now.wall, .last_reply = {}, .warned = true}});
  wheel_.arm(index, message.give_up_at());
}

void OwnerQueue::settle(std::uint32_t index, SettledAs outcome, mail::Reply reply) {
  const Entry& entry = entries_[index];
  Message& message = messages_[entry.message];
  const bool last = --message.outstanding == 0;
  settlements_.push({.queue_id = message.queue_id,
                     .location = message.location(),
                     .recipient = entry.recipient,
                     .attempts = entry.attempts,
                     .outcome = outcome,
                     .null_sender = message.null_sender,
                     .last_of_message = last,
                     .reply = std::move(reply)});
  --count_of(entry.state);
  if (last) {
    index_.erase(entry.message);
    messages_.free(entry.message);
  }
  --destinations_[entry.destination].recipients;
  keep_or_forget(entry.destination);
  entries_.free(index);
}

void OwnerQueue::expire(std::uint32_t index) {
  settle(index, SettledAs::expired, expired_reply());
}

// --- sites, lanes, deliveries

std::uint32_t OwnerQueue::site_for(SiteId id) {
  const auto [it, is_new] = site_index_.try_emplace(id, no_index);
  if (is_new) {
    it->second = sites_.take();
    sites_[it->second] = {};
    sites_[it->second].id = id;
  }
  return it->second;
}

void OwnerQueue::drop_site_if_unused(std::uint32_t index) {
  const Site& site = sites_[index];
  if (site.ready != 0 || site.in_flight != 0) return;
  if (!site.dissolving) site_index_.erase(site.id);
  sites_.free(index);
}

std::uint32_t OwnerQueue::lane_for(Site& site, const Message& message) {
  std::uint32_t after = no_index;
  for (std::uint32_t i = site.lanes.head; i != no_index; i = lanes_[i].link.next) {
    const Lane& lane = lanes_[i];
    if (lane.priority < message.priority) break;
    if (lane.priority == message.priority && lane.tenant == message.tenant) return i;
    after = i;
  }
  const std::uint32_t index = lanes_.take();
  lanes_[index] = {.tenant = message.tenant,
                   .priority = message.priority,
                   .credit = turn_of(message.tenant),
                   .entries = {},
                   .link = {}};
  LaneList::insert_after(lanes_, site.lanes, after, index);
  return index;
}

std::int64_t OwnerQueue::turn_of(std::uint32_t tenant) const {
  for (const TenantWeight& weight : options_.tenant_weights) {
    if (weight.tenant == tenant) return turn_recipients * weight.weight;
  }
  return turn_recipients;
}

// The first lane of the highest priority that has credit; those without pay for their next turn behind the others. It
// ends: a lane's debt is at most one delivery, and each round pays off a turn.
std::uint32_t OwnerQueue::lane_whose_turn_it_is(Site& site) {
  for (;;) {
    const std::uint32_t first = site.lanes.head;
    Lane& lane = lanes_[first];
    if (lane.credit > 0) return first;
    lane.credit += turn_of(lane.tenant);
    std::uint32_t last = first;
    while (lanes_[last].link.next != no_index && lanes_[lanes_[last].link.next].priority == lane.priority) {
      last = lanes_[last].link.next;
    }
    if (last == first) {
      lane.credit = std::max<std::int64_t>(lane.credit, 1);  // alone: there is nobody to be fair to
      return first;
    }
    LaneList::remove(lanes_, site.lanes, first);
    LaneList::insert_after(lanes_, site.lanes, last, first);
  }
}

void OwnerQueue::drop_lane_if_empty(Site& site, std::uint32_t index) {
  if (!lanes_[index].entries.empty()) return;
  LaneList::remove(lanes_, site.lanes, index);
  lanes_.free(index);
}

std::optional<SiteId> OwnerQueue::take_notice() {
  return notices_.take();
}

std::uint32_t OwnerQueue::ready(SiteId id) const {
  const auto it = site_index_.find(id);
  return it == site_index_.end() ? 0 : sites_[it->second].ready;
}

std::optional<mail::QueueId> OwnerQueue::next_ready(SiteId id) {
  const auto it = site_index_.find(id);
  if (it == site_index_.end() || sites_[it->second].ready == 0) return std::nullopt;
  const Lane& lane = lanes_[lane_whose_turn_it_is(sites_[it->second])];
  return messages_[entries_[lane.entries.head].message].queue_id;
}

std::optional<Work> OwnerQueue::pull(SiteId id, std::uint32_t recipients_max) {
  const auto it = site_index_.find(id);
  if (it == site_index_.end() || sites_[it->second].ready == 0) return std::nullopt;
  const std::uint32_t site_at = it->second;
  Site& site = sites_[site_at];
  const std::uint32_t lane_at = lane_whose_turn_it_is(site);
  Lane& lane = lanes_[lane_at];

  const std::uint32_t delivery_at = deliveries_.take();
  Delivery& delivery = deliveries_[delivery_at];
  if (++delivery.generation == 0) delivery.generation = 1;  // ids are not 0
  delivery.site = site_at;
  delivery.live = true;
  delivery.entries = {};

  const std::uint32_t message_at = entries_[lane.entries.head].message;
  const Message& message = messages_[message_at];
  Work work{.delivery = {std::uint64_t{delivery.generation} << 32 | delivery_at},
            .site = id,
            .queue_id = message.queue_id,
            .location = message.location(),
            .recipients = {}};
  bool same_message = true;
  while (same_message && work.recipients.size() < std::max(recipients_max, 1u)) {
    const std::uint32_t index = EntryList::pop_front(entries_, lane.entries);
    Entry& entry = entries_[index];
    wheel_.cancel(index);
    enter(entry, State::in_flight);
    EntryList::push_back(entries_, delivery.entries, index);
    work.recipients.push_back(entry.recipient);
    same_message = !lane.entries.empty() && entries_[lane.entries.head].message == message_at;
  }
  if (message.many && !same_message) bundles_.erase(bundle_key(message_at, site_at));

  const auto count = static_cast<std::uint32_t>(work.recipients.size());
  lane.credit -= count;
  drop_lane_if_empty(site, lane_at);
  site.in_flight += count;
  site.ready -= count;
  if (site.ready == 0) site.noticed = false;
  return work;
}

bool OwnerQueue::on_results(DeliveryId id, std::span<RecipientOutcome> outcomes, ClockPair now) {
  const auto at = static_cast<std::uint32_t>(id.value);
  if (at >= deliveries_.made()) return false;
  Delivery& delivery = deliveries_[at];
  if (!delivery.live || delivery.generation != static_cast<std::uint32_t>(id.value >> 32)) return false;
  IndexList entries = std::exchange(delivery.entries, {});
  const std::uint32_t site_at = delivery.site;
  delivery.live = false;
  deliveries_.free(at);

  const SiteId site_id = sites_[site_at].id;
  const std::uint64_t seed = random_();
  std::uint32_t count = 0;
  std::size_t next = 0;
  while (!entries.empty()) {
    const std::uint32_t index = EntryList::pop_front(entries_, entries);
    Entry& entry = entries_[index];
    ++count;
    if (next == outcomes.size() || outcomes[next].recipient != entry.recipient) {
      if (messages_[entry.message].give_up_at() <= ns_of(now.monotonic)) {
        expire(index);
      } else {
        make_ready(index, site_id, true);
      }
      continue;
    }
    mail::RecipientResult& result = outcomes[next++].result;
    if (entry.attempts != UINT16_MAX) ++entry.attempts;
    switch (result.outcome) {
      case mail::Outcome::relayed:
        settle(index, SettledAs::relayed, std::move(result.reply));
        break;
      case mail::Outcome::failed:
        settle(index, SettledAs::failed, std::move(result.reply));
        break;
      case mail::Outcome::deferred:
        defer(index, std::move(result.reply), now, seed);
        break;
    }
  }
  POSTERN_CHECK(next == outcomes.size(), "an outcome of a recipient that is not in the delivery, or out of order");
  sites_[site_at].in_flight -= count;
  drop_site_if_unused(site_at);
  return true;
}

// --- answers that concern many

void OwnerQueue::defer_site(SiteId id, const mail::Reply& reply, ClockPair now) {
  const auto it = site_index_.find(id);
  if (it == site_index_.end() || sites_[it->second].ready == 0) return;
  const std::uint32_t at = it->second;
  Site& site = sites_[at];
  // What becomes ready from now on stands in a new record. So nothing has to be marked, however many wait here.
  site_index_.erase(it);
  site.dissolving = true;
  Batch batch{.kind = BatchKind::defer, .entries = {}, .site = {}, .dissolving = at, .reply = reply};
  while (!site.lanes.empty()) {
    const std::uint32_t lane = LaneList::pop_front(lanes_, site.lanes);
    EntryList::splice_back(entries_, batch.entries, lanes_[lane].entries);
    lanes_.free(lane);
  }
  begin(std::move(batch), now);
}

bool OwnerQueue::flush(std::string_view text, Duration spread, ClockPair now) {
  const auto it = destination_index_.find(text);
  if (it == destination_index_.end()) return false;
  const bool gathered = !destinations_[*it].due.empty() && !destinations_[*it].asked;
  if (gathered) ask_route(*it);
  if (destinations_[*it].scheduled.empty()) return gathered;
  begin({.kind = BatchKind::flush,
         .entries = std::exchange(destinations_[*it].scheduled, {}),
         .site = {},
         .reply = {},
         .spread = spread},
        now);
  return true;
}

void OwnerQueue::begin(Batch batch, ClockPair now) {
  if (batch.entries.empty()) return;
  batch.seed = random_();
  batches_.push(std::move(batch));
  run_batches(now);
}

void OwnerQueue::run_batches(ClockPair now) {
  std::size_t moves = options_.batch_max;
  while (!batches_.empty()) {
    Batch& batch = batches_.front();
    while (!batch.entries.empty()) {
      if (moves-- == 0) return;
      run_batch_on(batch, EntryList::pop_front(entries_, batch.entries), now);
    }
    batches_.pop();
  }
}

void OwnerQueue::run_batch_on(const Batch& batch, std::uint32_t index, ClockPair now) {
  Entry& entry = entries_[index];
  if (wheel_.armed(index)) wheel_.cancel(index);
  if (batch.dissolving != no_index) {
    bundles_.erase(bundle_key(entry.message, batch.dissolving));
    --sites_[batch.dissolving].ready;
    drop_site_if_unused(batch.dissolving);
  }
  const Message& message = messages_[entry.message];
  switch (batch.kind) {
    case BatchKind::route:
      if (message.give_up_at() <= ns_of(now.monotonic)) {
        expire(index);
      } else {
        make_ready(index, batch.site, false);
      }
      break;
    case BatchKind::defer:
      if (entry.attempts != UINT16_MAX) ++entry.attempts;
      defer(index, batch.reply, now, batch.seed);
      break;
    case BatchKind::fail:
      if (entry.attempts != UINT16_MAX) ++entry.attempts;
      settle(index, SettledAs::failed, batch.reply);
      break;
    case BatchKind::flush: {
      if (message.held) return schedule(index, entry.timer_at);
      Random random(batch.seed ^ message.queue_id.value);
      const std::int64_t due = ns_of(now.monotonic + random_below(batch.spread, random));
      schedule(index, std::min(due, entry.timer_at));
      break;
    }
  }
}

// --- time

Instant OwnerQueue::next_deadline() const {
  if (!batches_.empty()) return Instant::min();
  return released_ < release_end_ ? std::min(release_next_, wheel_.next_expiry()) : wheel_.next_expiry();
}

void OwnerQueue::on_deadline(ClockPair now) {
  run_batches(now);
  if (released_ < release_end_ && release_next_ <= now.monotonic) release_some(now);
  std::size_t moves = options_.batch_max;
  for (;;) {
    const std::uint32_t index = wheel_.take_due(now.monotonic, moves);
    if (index == no_index) return;
    on_timer(index, now);
  }
}

void OwnerQueue::on_timer(std::uint32_t index, ClockPair now) {
  const Entry& entry = entries_[index];
  if (entry.state != State::scheduled && messages_[entry.message].give_up_at() > ns_of(now.monotonic)) {
    return tell_of_wait(index, now);
  }
  if (entry.state == State::ready) {
    if (sites_[entry.site].dissolving) return;  // its batch will come to it
    leave_ready(index);
    expire(index);
    return;
  }
  POSTERN_CHECK(entry.state != State::in_flight);
  Destination& destination = destinations_[entry.destination];
  IndexList& list = entry.state == State::scheduled ? destination.scheduled : destination.due;
  // It may be in a batch's list instead, which cannot be told from the middle of a list, where it makes no difference.
  // At the end of a batch's list it is left to the batch.
  if (entry.list.previous == no_index && list.head != index) return;
  if (entry.list.next == no_index && list.tail != index) return;
  EntryList::remove(entries_, list, index);
  if (entry.state == State::scheduled && gathering_ && entry.attempts > 0 &&
      messages_[entry.message].give_up_at() > ns_of(now.monotonic)) {
    wait_for_route(index);
  } else if (entry.state == State::scheduled) {
    become_due(index, now);
  } else {
    expire(index);
  }
}

std::size_t OwnerQueue::memory_bytes() const {
  constexpr std::size_t per_index = sizeof(std::uint32_t) + 1;  // a slot and its control byte
  return entries_.memory_bytes() + messages_.memory_bytes() + destinations_.memory_bytes() + lanes_.memory_bytes() +
         sites_.memory_bytes() + deliveries_.memory_bytes() + text_bytes_ +
         (index_.capacity() + destination_index_.capacity()) * per_index +
         site_index_.capacity() * (sizeof(std::pair<SiteId, std::uint32_t>) + 1) +
         bundles_.capacity() * (sizeof(std::pair<std::uint64_t, std::uint32_t>) + 1) + sizeof(*this);
}

}  // namespace postern::queue
