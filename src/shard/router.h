// Finds the site of a destination: runs route::Resolution over the shard's resolver, and remembers the routes of the
// sites that have mail here.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <absl/container/flat_hash_map.h>

#include <postern/base/random.h>
#include <postern/base/time.h>
#include <postern/queue/owner_queue.h>
#include <postern/route/resolution.h>
#include <postern/route/route.h>

#include "resolver/resolver.h"
#include "shard/snapshot.h"

namespace postern::shard {

class Router final : private resolver::Waiter {
 public:
  Router(queue::OwnerQueue& queue, resolver::Resolver& resolver, io::Loop& loop, Random random)
      : queue_(queue), resolver_(resolver), loop_(loop), random_(random) {}
  ~Router();

  // Routes found before are found anew as their destinations come up.
  void set_snapshot(SnapshotPtr snapshot) { snapshot_ = std::move(snapshot); }

  // The text under which the queue keeps recipients of this path together: its normalised domain, or local@domain where
  // a route speaks of that mailbox. kInvalidArgument: neither a domain nor an address literal.
  [[nodiscard]] StatusOr<std::string> destination_of(const mail::PathView& forward_path) const;
  [[nodiscard]] const route::Via& via_of(const mail::PathView& forward_path) const;

  // Whether one more may be begun. After a restart hundreds of thousands of domains come due together, none of them in
  // the cache: what the resolver cannot take on yet waits in the queue, which is no attempt.
  [[nodiscard]] bool has_room() const { return tasks_.size() < tasks_max; }
  // Ends in one of the queue's on_routed…(), now or later. When has_room().
  void route(const queue::DestinationToRoute& destination);

  // The route of a site that has ready work.
  [[nodiscard]] const std::shared_ptr<const route::Route>& route_of(mail::SiteId site) const;
  // Forgets routes of sites that have nothing ready. Once a minute or so.
  void sweep();
  [[nodiscard]] std::size_t route_count() const { return routes_.size(); }

  // With a mail exchanger's few addresses each, well below the resolver's waiters_max.
  static constexpr std::size_t tasks_max = 1024;

 private:
  struct Task {
    Task(SnapshotPtr of, const route::Via& via, std::string_view domain)
        : snapshot(std::move(of)), resolution(via, domain, snapshot->resolution) {}
    SnapshotPtr snapshot;  // the resolution refers to it
    route::Resolution resolution;
  };

  void on_answer(const dns::Question& question, const dns::Answer& answer, std::uint64_t cookie) override;
  void ask(Task& task, std::uint64_t cookie);
  void finish(queue::DestinationId id, route::Route route);

  queue::OwnerQueue& queue_;
  resolver::Resolver& resolver_;
  io::Loop& loop_;
  Random random_;
  SnapshotPtr snapshot_;
  absl::flat_hash_map<std::uint32_t, std::unique_ptr<Task>> tasks_;  // by destination id; at most tasks_max
  absl::flat_hash_map<mail::SiteId, std::shared_ptr<const route::Route>> routes_;
};

}  // namespace postern::shard
