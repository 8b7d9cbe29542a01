// Carries the question whether a next hop takes a recipient: from RCPT (ingress) to a connection of the path (egress),
// and the answer back. One per shard.
//
// A question is routed as mail for that address is, then waits like ready mail of its site, and takes turns with that
// in the site's slots: limits, TLS and back-off are the path's own. Equal questions asked at a time are
// one. What the next hop said is kept (policy::CalloutCache); a site that gave no answer, whoever was asked for, is
// not asked again for some seconds, and its recipients are answered by callout_failure at once.
//
// Bounds: questions_max at a time, each for the configured time at most; clients waiting, by their connections.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <postern/base/hash.h>
#include <postern/base/random.h>
#include <postern/base/timer_wheel.h>
#include <postern/policy/callout.h>
#include <postern/route/resolution.h>

#include "egress/delivery.h"
#include "ingress/door.h"
#include "io/loop.h"
#include "resolver/resolver.h"
#include "shard/event_log.h"
#include "shard/metrics.h"
#include "shard/snapshot.h"

namespace postern::shard {

class CalloutUser {
 public:
  // What ask() left open. Null: taken.
  virtual void on_recipient_answered(const ingress::Asker& asker, const mail::Reply* refusal) = 0;

 protected:
  ~CalloutUser() = default;
};

class Callouts final : private resolver::Waiter {
 public:
  static constexpr std::size_t questions_max = 1024;
  // A site that had no answer is left alone so long; so many are remembered.
  static constexpr Duration silence = std::chrono::seconds(10);
  static constexpr std::size_t silent_max = 1024;

  // All outlive it.
  struct Setup {
    queue::ShardIndex self = 0;
    io::Loop& loop;
    resolver::Resolver& resolver;
    TimerWheel& timers;
    Metrics& metrics;
    EventBuffer& events;
    CalloutUser& user;
    Random random;
  };
  explicit Callouts(const Setup& setup);
  ~Callouts();
  Callouts(const Callouts&) = delete;
  Callouts& operator=(const Callouts&) = delete;

  // What was known counts no more when the configuration changed, but does when only the recipients' file did.
  void set_snapshot(SnapshotPtr snapshot);

  // --- from the door (ingress::Door has the contract)
  [[nodiscard]] bool enabled() const { return enabled_; }
  [[nodiscard]] ingress::Door::HopAnswer ask(const mail::PathView& forward_path, const ingress::Asker& asker,
                                             Instant since);

  // --- towards the next hops
  // A site that a question has come up for since the last call: there is work for it.
  [[nodiscard]] std::optional<mail::SiteId> take_notice();
  [[nodiscard]] std::uint32_t ready(mail::SiteId site) const;
  // Whether the next start at `site` is a question's: with mail that waits there they take turns, so that neither a
  // flood of made-up addresses holds up mail nor mail the clients that wait.
  [[nodiscard]] bool is_next(mail::SiteId site, bool mail_waits) const;
  // That question, lent until take_back(); null: it is not. Owner, route and work are set.
  [[nodiscard]] egress::Delivery* take(mail::SiteId site, bool mail_waits);
  void take_back(egress::Delivery& delivery);
  // No next hop of `site` can be reached: what waits for it is answered.
  void on_site_failed(mail::SiteId site, const mail::Reply& reply);

  // Answers all who wait, and asks nobody any more.
  void stop();
  [[nodiscard]] std::size_t lent() const { return lent_; }

 private:
  class Question;

  void on_answer(const dns::Question& question, const dns::Answer& answer, std::uint64_t cookie) override;
  // The question's route goes on; false: it came to nothing.
  [[nodiscard]] bool route(Question& question);
  [[nodiscard]] bool on_routed(Question& question, route::Route route);
  void on_limit(Question& question);
  // Forgets the question, then tells all who asked.
  void end(Question& question, const policy::CalloutAnswer& answer, const mail::Reply& said);
  void tell(const std::vector<ingress::Asker>& askers, const policy::CalloutAnswer& answer);
  void leave_ready(Question& question);
  void note_silent(mail::SiteId site);
  void record(const Question& question, const policy::CalloutAnswer& answer, const mail::Reply& said);
  [[nodiscard]] ingress::Door::HopAnswer unknown() const;

  queue::ShardIndex self_;
  io::Loop& loop_;
  resolver::Resolver& resolver_;
  TimerWheel& timers_;
  Metrics& metrics_;
  EventBuffer& events_;
  CalloutUser& user_;
  Random random_;
  SnapshotPtr snapshot_;
  bool enabled_ = false;
  bool stopping_ = false;
  policy::CalloutCache cache_;
  TextMap<std::unique_ptr<Question>> questions_;                    // by address; at most questions_max
  absl::flat_hash_map<std::uint64_t, Question*> routing_;           // by cookie
  absl::flat_hash_map<mail::SiteId, std::deque<Question*>> ready_;  // of questions_
  absl::flat_hash_map<mail::SiteId, Instant> silent_;               // until then
  std::vector<mail::SiteId> notices_;
  std::uint64_t last_cookie_ = 0;
  absl::flat_hash_set<mail::SiteId> mail_next_;  // of the sites in ready_
  std::size_t lent_ = 0;
  absl::flat_hash_map<mail::SiteId, std::uint32_t> lent_at_;  // the same, by site
};

}  // namespace postern::shard
