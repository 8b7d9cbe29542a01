#include <algorithm>

#include <postern/base/check.h>
#include <postern/queue/slot_broker.h>

namespace postern::queue {

SlotBroker::SlotBroker(const Options& options)
    : options_(options), leases_(options.connections_per_path >= 2u * options.shards) {
  POSTERN_CHECK(options.shards > 0 && options.connections_per_path > 0);
}

SlotBroker::Path& SlotBroker::path(SiteId site) {
  std::unique_ptr<Path>& path = paths_[site];
  if (!path) {
    path = std::make_unique<Path>();
    path->owners.resize(options_.shards);
  }
  return *path;
}

SlotBroker::Path& SlotBroker::existing(SiteId site) {
  const auto it = paths_.find(site);
  POSTERN_CHECK(it != paths_.end(), "no such path");
  return *it->second;
}

void SlotBroker::set_wants(Path& path, ShardIndex shard, bool wants) {
  POSTERN_CHECK(shard < options_.shards);
  bool& now = path.owners[shard].wants;
  if (wants != now) path.wanting += wants ? 1u : -1u;
  now = wants;
}

void SlotBroker::on_notice(const Notice& notice, Instant now) {
  Path& at = path(notice.site);
  set_wants(at, notice.from, true);
  serve(notice.site, at, now);
}

void SlotBroker::on_slot_request(const SlotRequest& request, Instant now) {
  Path& at = path(request.site);
  set_wants(at, request.from, true);
  serve(request.site, at, now);
}

void SlotBroker::on_slot_return(const SlotReturn& slots, Instant now) {
  Path& at = existing(slots.site);
  POSTERN_CHECK(slots.from < options_.shards);
  Owner& owner = at.owners[slots.from];
  POSTERN_CHECK(owner.leased >= slots.slots, "more slots returned than were leased");
  owner.leased -= slots.slots;
  at.leased -= slots.slots;
  // What it gave of its own accord counts as well; a recall that crossed with it costs one request more, not a slot.
  owner.recalled = std::min(owner.recalled - std::min(owner.recalled, slots.slots), owner.leased);
  if (slots.wants) set_wants(at, slots.from, true);
  serve(slots.site, at, now);
}

void SlotBroker::on_pull_reply(const PullReply& reply, Instant now) {
  Path& at = existing(reply.site);
  POSTERN_CHECK(reply.from < options_.shards && at.owners[reply.from].pulling, "a pull reply without a pull");
  at.owners[reply.from].pulling = false;
  --at.pulls;
  if (reply.work) {
    ++at.deliveries;
    if (at.idle > 0) --at.idle;
  }
  set_wants(at, reply.from, reply.more);
  serve(reply.site, at, now);
}

void SlotBroker::on_delivery_done(SiteId site, bool connection_kept, Instant now) {
  Path& at = existing(site);
  POSTERN_CHECK(at.deliveries > 0);
  --at.deliveries;
  if (connection_kept) ++at.idle;
  serve(site, at, now);
}

void SlotBroker::on_idle_closed(SiteId site, Instant now) {
  Path& at = existing(site);
  POSTERN_CHECK(at.idle > 0, "an idle connection closed that was not counted");
  --at.idle;
  serve(site, at, now);
}

void SlotBroker::on_path_failed(SiteId site, const mail::Reply& reply, Instant now, Random& random) {
  Path& at = existing(site);
  at.backoff.on_failure(now, random);
  for (ShardIndex shard = 0; shard < options_.shards; ++shard) {
    if (!at.owners[shard].wants) continue;
    set_wants(at, shard, false);
    actions_.push({.to = shard, .message = SiteDown{.site = site, .reply = reply}});
  }
  serve(site, at, now);
}

void SlotBroker::on_path_succeeded(SiteId site, Instant now) {
  Path& at = existing(site);
  if (!at.backoff.probing()) return;
  at.backoff.on_success();
  serve(site, at, now);
}

std::optional<SlotBroker::Action> SlotBroker::take_action() {
  return actions_.take();
}

Instant SlotBroker::next_deadline() const {
  return timers_.empty() ? never : timers_.begin()->first;
}

void SlotBroker::on_deadline(Instant now) {
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const SiteId site = timers_.begin()->second;
    Path& at = existing(site);
    set_timer(site, at, never);
    serve(site, at, now);
  }
}

SlotBroker::Usage SlotBroker::usage(SiteId site) const {
  Usage usage{.limit = options_.connections_per_path};
  const auto it = paths_.find(site);
  if (it == paths_.end()) return usage;
  const Path& path = *it->second;
  usage.leased = path.leased;
  usage.deliveries = path.deliveries;
  usage.pulls = path.pulls;
  usage.idle = path.idle;
  return usage;
}

void SlotBroker::serve(SiteId site, Path& path, Instant now) {
  if (leases_) {
    serve_leased(site, path);
  } else {
    serve_pulled(site, path, now);
  }
  POSTERN_CHECK(path.leased + path.deliveries + std::max(path.pulls, path.idle) <= options_.connections_per_path,
                "more connections than the path's limit");

  // What it has learnt of failures is remembered for as long as a hold can be; then a new failure is a first one.
  const Instant forget_at = path.backoff.probing() ? path.backoff.hold_until() + PathBackoff::hold_max : now;
  const Instant timer = path.backoff.held(now) ? path.backoff.hold_until() : forget_at;
  set_timer(site, path, timer > now ? timer : never);
  if (path.timer == never && path.leased + path.deliveries + path.pulls + path.idle + path.wanting == 0) {
    paths_.erase(site);
  }
}

// The first owner from path.turn on that wants and is not being pulled from; options_.shards when there is none.
ShardIndex SlotBroker::next_owner(Path& path) const {
  for (ShardIndex i = 0; i < options_.shards; ++i) {
    const auto shard = static_cast<ShardIndex>((path.turn + i) % options_.shards);
    if (path.owners[shard].wants && !path.owners[shard].pulling) {
      path.turn = static_cast<ShardIndex>((shard + 1) % options_.shards);
      return shard;
    }
  }
  return options_.shards;
}

void SlotBroker::serve_leased(SiteId site, Path& path) {
  if (path.wanting == 0) return;
  std::uint32_t claimants = 0;
  for (const Owner& owner : path.owners) claimants += owner.wants || owner.leased > 0;
  const std::uint32_t share = options_.connections_per_path / claimants;  // ≥ 2

  while (path.wanting > 0) {
    const std::uint32_t free = options_.connections_per_path - path.leased;
    if (free == 0) {
      recall(site, path, share);
      return;
    }
    const ShardIndex shard = next_owner(path);
    Owner& owner = path.owners[shard];
    // Twice what it has, so that few requests are needed, but no more than its share at a stroke; beyond its share one
    // at a time: nothing lies idle, and little has to be recalled when others come.
    const std::uint32_t room = owner.leased < share ? share - owner.leased : 1;
    const std::uint32_t slots = std::min({std::max(owner.leased, 1u), room, free});
    owner.leased += slots;
    owner.told_idle = false;
    path.leased += slots;
    set_wants(path, shard, false);
    actions_.push({.to = shard, .message = SlotGrant{.site = site, .slots = slots}});
  }
}

// Everything is given out and somebody wants more: all are told not to keep slots without work, and as many slots are
// recalled from those above their share as there are wanting owners below it.
void SlotBroker::recall(SiteId site, Path& path, std::uint32_t share) {
  std::uint32_t recalled = 0;
  std::uint32_t below = 0;
  for (ShardIndex shard = 0; shard < options_.shards; ++shard) {
    Owner& owner = path.owners[shard];
    recalled += owner.recalled;
    below += owner.wants && owner.leased < share;
    const bool others_want = path.wanting > (owner.wants ? 1u : 0u);
    if (owner.leased > 0 && others_want && !owner.told_idle) {
      owner.told_idle = true;
      actions_.push({.to = shard, .message = SlotRecall{.site = site, .slots = 0, .idle = true}});
    }
  }
  for (; recalled < below; ++recalled) {
    const auto kept = [](const Owner& owner) { return owner.leased - owner.recalled; };
    const auto richest = std::max_element(path.owners.begin(), path.owners.end(),
                                          [&](const Owner& a, const Owner& b) { return kept(a) < kept(b); });
    if (kept(*richest) <= share) return;
    ++richest->recalled;
    actions_.push({.to = static_cast<ShardIndex>(richest - path.owners.begin()),
                   .message = SlotRecall{.site = site, .slots = 1, .idle = richest->told_idle}});
  }
}

void SlotBroker::serve_pulled(SiteId site, Path& path, Instant now) {
  if (path.backoff.held(now)) return;  // on_deadline() goes on
  for (;;) {
    if (path.deliveries + std::max(path.pulls + 1, path.idle) > options_.connections_per_path) return;
    if (path.backoff.probing() && path.deliveries + path.pulls > 0) return;
    const ShardIndex shard = next_owner(path);
    if (shard == options_.shards) return;
    path.owners[shard].pulling = true;
    const bool connected = path.idle > path.pulls++;
    actions_.push(
        {.to = shard,
         .message = PullRequest{.site = site, .recipients_max = options_.recipients_max, .connected = connected}});
  }
}

void SlotBroker::set_timer(SiteId site, Path& path, Instant at) {
  if (path.timer == at) return;
  if (path.timer != never) timers_.erase({path.timer, site});
  path.timer = at;
  if (at != never) timers_.insert({at, site});
}

}  // namespace postern::queue
