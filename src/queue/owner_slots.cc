#include <algorithm>
#include <utility>

#include <postern/base/check.h>
#include <postern/queue/owner_slots.h>

namespace postern::queue {

void OwnerSlots::on_ready(SiteId site, Instant now) {
  Path& path = paths_[site];
  path.ready = std::max(path.ready, 1u);
  settle(site, path, now);
}

void OwnerSlots::on_slot_grant(const SlotGrant& grant, Instant now) {
  Path& path = paths_[grant.site];
  path.granted += grant.slots;
  path.asked = false;
  path.told_idle = false;
  settle(grant.site, path, now);
}

void OwnerSlots::on_slot_recall(const SlotRecall& recall, Instant now) {
  const auto it = paths_.find(recall.site);
  if (it == paths_.end()) return;  // all had been returned already
  Path& path = it->second;
  path.recalled = std::min(path.recalled + recall.slots, path.granted);
  path.told_idle = path.told_idle || (recall.idle && path.granted > 0);
  settle(recall.site, path, now);
}

void OwnerSlots::on_pulled(SiteId site, bool more, Instant now) {
  Path& path = paths_[site];
  path.asked = more;
  path.ready = more ? 1 : 0;
  settle(site, path, now);
}

void OwnerSlots::on_site_down(SiteId site, bool more, Instant now) {
  Path& path = paths_[site];
  path.asked = false;
  path.ready = more ? 1 : 0;
  settle(site, path, now);
}

void OwnerSlots::on_started(SiteId site, std::uint32_t ready, Instant now) {
  Path& path = paths_[site];
  path.ready = ready;
  path.pulling = false;
  settle(site, path, now);
}

void OwnerSlots::on_connecting(SiteId site, Instant now) {
  Path& path = paths_[site];
  POSTERN_CHECK(path.starting > 0);
  --path.starting;
  ++path.busy;
  std::uint32_t back = 0;
  if (path.idle > 0) {
    --path.idle;
  } else if (path.closing > 0) {
    --path.closing;
    back = 1;
  }
  settle(site, path, now, back);
}

void OwnerSlots::on_start_void(SiteId site, Instant now) {
  Path& path = paths_[site];
  POSTERN_CHECK(path.starting > 0);
  --path.starting;
  settle(site, path, now);
}

void OwnerSlots::on_delivery_done(SiteId site, bool connection_kept, Instant now) {
  Path& path = paths_[site];
  POSTERN_CHECK(path.busy > 0);
  --path.busy;
  if (connection_kept) ++path.idle;
  settle(site, path, now);
}

void OwnerSlots::on_idle_closed(SiteId site, Instant now) {
  Path& path = paths_[site];
  // Whether it closed by itself or was told to: what counts is how many are open.
  if (path.closing > 0) {
    --path.closing;
    settle(site, path, now, 1);
    return;
  }
  POSTERN_CHECK(path.idle > 0, "an idle connection closed that was not counted");
  --path.idle;
  settle(site, path, now);
}

void OwnerSlots::on_path_failed(SiteId site, Instant now, Random& random) {
  Path& path = paths_[site];
  path.backoff.on_failure(now, random);
  settle(site, path, now);
}

void OwnerSlots::on_path_succeeded(SiteId site, Instant now) {
  const auto it = paths_.find(site);
  if (it == paths_.end() || !it->second.backoff.probing()) return;
  it->second.backoff.on_success();
  settle(site, it->second, now);
}

std::optional<OwnerSlots::Output> OwnerSlots::take_output() {
  return outputs_.take();
}

Instant OwnerSlots::next_deadline() const {
  return timers_.empty() ? never : timers_.begin()->first;
}

void OwnerSlots::on_deadline(Instant now) {
  while (!timers_.empty() && timers_.begin()->first <= now) {
    const SiteId site = timers_.begin()->second;
    Path& path = paths_[site];
    set_timer(site, path, never);
    settle(site, path, now);
  }
}

std::uint32_t OwnerSlots::slots_held(SiteId site) const {
  const auto it = paths_.find(site);
  return it == paths_.end() ? 0 : it->second.granted + it->second.closing;
}

void OwnerSlots::settle(SiteId site, Path& path, Instant now, std::uint32_t back) {
  const bool held = path.backoff.held(now);

  const std::uint32_t running = path.busy + path.starting;

  // Slots that others wait for go first, also before work that is ready here: the home has counted.
  const std::uint32_t recalled = std::min(path.recalled, path.granted - running);
  path.recalled -= recalled;
  path.granted -= recalled;
  back += recalled;

  // One at a time: on_started() tells whether there is more.
  const bool patient = path.ready > 0 && !held && !may_start(path, now);
  if (path.ready > 0 && !held && !patient && running < path.granted && !(path.backoff.probing() && running > 0)) {
    ++path.starting;
    path.ready = 0;
    path.pulling = true;
    path.started_at = now;
    outputs_.push(Start{.site = site, .connected = path.idle >= path.starting});
  } else if ((path.ready == 0 && !path.pulling) || held) {
    // Without work, or not to be used, a slot is kept only for its open connection; not even for that for long if
    // others wait.
    std::uint32_t kept = std::max(running, std::min(in_use(path), path.granted));
    if (path.told_idle) kept -= held ? kept - running : unused_for_long(path, kept - running, now);
    back += path.granted - kept;
    path.granted = kept;
    path.recalled = std::min(path.recalled, path.granted);
  }
  if (in_use(path) > path.granted) {
    const std::uint32_t close = in_use(path) - path.granted;
    path.idle -= close;
    path.closing += close;
    back -= close;
    outputs_.push(CloseIdle{.site = site, .connections = close});
  }

  // While probing, one connection is enough; without any slot the home is asked for it.
  const bool wants = path.ready > 0 && !held && !patient && path.busy + path.starting == path.granted &&
                     !(path.backoff.probing() && path.granted > 0);
  const bool ask = wants && !path.asked;
  if (ask) path.asked = true;
  if (back > 0) {
    outputs_.push(SlotReturn{.site = site, .from = self_, .slots = back, .wants = ask});
  } else if (ask && path.granted > 0) {
    outputs_.push(SlotRequest{.site = site, .from = self_});
  } else if (ask) {
    outputs_.push(Notice{.site = site, .from = self_});
  }
  if (path.granted == 0) path.told_idle = false;

  // What it has learnt of failures is remembered for as long as a hold can be; then a new failure is a first one.
  const Instant forget_at = path.backoff.probing() ? path.backoff.hold_until() + PathBackoff::hold_max : now;
  Instant timer = held ? path.backoff.hold_until() : forget_at;
  if (timer <= now) timer = never;
  if (patient) timer = std::min(timer, path.started_at + patience);
  // A window that nobody looked at when it ended (there is work again, but one delivery probes the path first) is over:
  // its end as a timer would be due for ever.
  if (path.granted == running || path.window_end <= now) path.window_end = never;
  set_timer(site, path, std::min(timer, path.window_end));
  if (path.timer == never && path.granted + path.closing == 0 && path.ready == 0 && !path.asked) paths_.erase(site);
}

bool OwnerSlots::may_start(const Path& path, Instant now) {
  const std::uint32_t running = path.busy + path.starting;
  return running == 0 || path.idle > path.starting || path.ready / ready_per_connection >= running ||
         now >= path.started_at + patience;
}

// Of `unused` idle connections, those that may go: as many as were unused throughout the last window.
std::uint32_t OwnerSlots::unused_for_long(Path& path, std::uint32_t unused, Instant now) {
  if (unused == 0) {
    path.window_end = never;
    return 0;
  }
  std::uint32_t go = 0;
  path.unused_min = path.window_end == never ? unused : std::min(path.unused_min, unused);
  if (path.window_end <= now) go = std::exchange(path.unused_min, unused - std::min(path.unused_min, unused));
  if (path.window_end == never || path.window_end <= now) path.window_end = unused > go ? now + idle_window : never;
  return go;
}

void OwnerSlots::set_timer(SiteId site, Path& path, Instant at) {
  if (path.timer == at) return;
  if (path.timer != never) timers_.erase({path.timer, site});
  path.timer = at;
  if (at != never) timers_.insert({at, site});
}

}  // namespace postern::queue
