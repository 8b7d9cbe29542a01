#include "shard/router.h"

#include <utility>
#include <vector>

#include <postern/base/check.h>
#include <postern/route/domain.h>

namespace postern::shard {
namespace {

// A route that no DNS answer shaped changes with the configuration only.
constexpr Duration static_route_life = std::chrono::minutes(5);

}  // namespace

Router::~Router() {
  resolver_.forget(*this);
}

const route::Via& Router::via_of(const mail::PathView& forward_path) const {
  return snapshot_->routes->find(forward_path);
}

StatusOr<std::string> Router::destination_of(const mail::PathView& forward_path) const {
  std::string_view written = forward_path.domain();
  if (written.empty()) written = snapshot_->relay_policy->postmaster_domain();
  StatusOr<std::string> domain = route::normalise_domain(written);
  if (!domain.ok()) return domain.status();
  // A rule for this very mailbox sends it another way than the rest of its domain.
  const std::string local = route::unquote_local_part(forward_path.local_part());
  if (&snapshot_->routes->find(local, *domain) == &snapshot_->routes->find({}, *domain)) return domain;
  return local + "@" + *domain;
}

void Router::route(const queue::DestinationToRoute& destination) {
  const std::size_t at = destination.text.rfind('@');
  const std::string_view local = at == std::string_view::npos ? std::string_view{} : destination.text.substr(0, at);
  const std::string_view domain = at == std::string_view::npos ? destination.text : destination.text.substr(at + 1);
  const std::uint32_t cookie = destination.id.value;
  const auto [place, fresh] =
      tasks_.try_emplace(cookie, std::make_unique<Task>(snapshot_, snapshot_->routes->find(local, domain), domain));
  POSTERN_CHECK(fresh, "a destination is routed twice at once");
  ask(*place->second, cookie);
}

void Router::ask(Task& task, std::uint64_t cookie) {
  while (!task.resolution.done()) {
    const std::optional<dns::Question> question = task.resolution.take_question();
    if (!question) return;  // answers are awaited
    if (const dns::Answer* answer = resolver_.lookup(*question, *this, cookie)) {
      task.resolution.on_answer(*question, *answer, random_);
    }
  }
  route::Route route = task.resolution.take_route();
  const queue::DestinationId id{static_cast<std::uint32_t>(cookie)};
  tasks_.erase(id.value);
  finish(id, std::move(route));
}

void Router::on_answer(const dns::Question& question, const dns::Answer& answer, std::uint64_t cookie) {
  const auto found = tasks_.find(static_cast<std::uint32_t>(cookie));
  if (found == tasks_.end()) return;  // decided without this answer
  found->second->resolution.on_answer(question, answer, random_);
  ask(*found->second, cookie);
}

void Router::finish(queue::DestinationId id, route::Route route) {
  const ClockPair now = loop_.clocks();
  switch (route.verdict) {
    case route::Route::Verdict::deliver: {
      const mail::SiteId site = route.site;
      const Instant until = std::min(route.expires_at, now.monotonic + static_route_life);
      routes_[site] = std::make_shared<const route::Route>(std::move(route));
      queue_.on_routed(id, site, until, now);
      return;
    }
    case route::Route::Verdict::defer:
      queue_.on_route_deferred(id, route.reply, now);
      return;
    case route::Route::Verdict::fail:
      queue_.on_route_failed(id, route.reply, now);
      return;
  }
}

const std::shared_ptr<const route::Route>& Router::route_of(mail::SiteId site) const {
  const auto found = routes_.find(site);
  POSTERN_CHECK(found != routes_.end(), "ready work for a site that was never routed");
  return found->second;
}

void Router::sweep() {
  const Instant now = loop_.now();
  std::vector<mail::SiteId> unused;
  for (const auto& [site, route] : routes_) {
    // The queue may still put recipients there by a destination's route until that expires.
    const Instant until = route->expires_at == never ? now : route->expires_at;
    if (until + static_route_life < now && !queue_.has_ready(site)) unused.push_back(site);
  }
  for (const mail::SiteId site : unused) routes_.erase(site);
}

}  // namespace postern::shard
