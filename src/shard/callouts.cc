#include "shard/callouts.h"

#include <algorithm>
#include <utility>

#include <postern/base/check.h>
#include <postern/route/domain.h>

namespace postern::shard {
namespace {

using HopAnswer = ingress::Door::HopAnswer;

const mail::Reply not_known{450, {4, 4, 3}, "Whether this recipient exists cannot be found out now, try again later"};
const mail::Reply timed_out{0, {4, 4, 2}, "no answer in time"};
const mail::Reply given_up{0, {4, 3, 2}, "shutting down"};

policy::CalloutCache::Options cache_options(const CalloutOptions& options) {
  return {.entries_max = options.cache, .taken_life = options.positive, .refused_life = options.negative};
}

}  // namespace

// Of one address. While it is lent, the shard that asks has what it inherits.
class Callouts::Question final : public egress::Delivery, private TimerHandler {
 public:
  enum class Stage : std::uint8_t { routing, ready, lent };

  Question(Callouts& callouts, std::string about, SnapshotPtr of, const route::Via& via, std::string_view domain,
           Instant now)
      : address(std::move(about)),
        snapshot(std::move(of)),
        resolution(via, domain, snapshot->resolution),
        asked_at(now),
        callouts_(callouts),
        timer_(*this) {}

  void start_limit(Instant at) {
    limit = at;
    callouts_.timers_.arm(timer_, at);
  }

  const std::string address;  // local@domain, the domain normalised
  SnapshotPtr snapshot;       // the resolution refers to it
  route::Resolution resolution;
  const Instant asked_at;
  Instant limit = never;
  Stage stage = Stage::routing;
  bool over = false;  // its time is; only lent ones live on
  std::uint64_t cookie = 0;
  mail::SiteId site{};
  std::string site_key;
  std::vector<ingress::Asker> askers;

 private:
  void on_timer(Timer& /*timer*/, Instant /*now*/) override { callouts_.on_limit(*this); }

  Callouts& callouts_;
  Timer timer_;
};

Callouts::Callouts(const Setup& setup)
    : self_(setup.self),
      loop_(setup.loop),
      resolver_(setup.resolver),
      timers_(setup.timers),
      metrics_(setup.metrics),
      events_(setup.events),
      user_(setup.user),
      random_(setup.random),
      cache_({}) {}

Callouts::~Callouts() {
  resolver_.forget(*this);
}

void Callouts::set_snapshot(SnapshotPtr snapshot) {
  const bool same = snapshot_ != nullptr && snapshot_->options == snapshot->options;
  snapshot_ = std::move(snapshot);
  if (same) return;
  const Options& options = *snapshot_->options;
  cache_.reset(cache_options(options.recipients.callout));
  silent_.clear();
  enabled_ = options.recipients.callout.usual || std::ranges::any_of(options.routes, [](const RouteOptions& route) {
               return route.callout.value_or(false);
             });
}

// --- questions -------------------------------------------------------------------------------------------------------

HopAnswer Callouts::unknown() const {
  using Failure = CalloutOptions::Failure;
  if (snapshot_->options->recipients.callout.failure == Failure::accept) return {};
  return {.kind = HopAnswer::Kind::refused, .refusal = &not_known};
}

HopAnswer Callouts::ask(const mail::PathView& forward_path, const ingress::Asker& asker, Instant since) {
  const CalloutOptions& options = snapshot_->options->recipients.callout;
  const route::Via& via = snapshot_->routes->find(forward_path);
  if (!via.has_next_hops() || !via.callout.value_or(options.usual)) return {};
  const StatusOr<std::string> domain = route::normalise_domain(forward_path.domain());
  if (!domain.ok()) return {};
  std::string address(forward_path.local_part());
  address.append("@").append(*domain);

  const Instant now = loop_.now();
  if (const policy::CalloutAnswer* known = cache_.find(address, now)) {
    metrics_.callout_cache_hits.add();
    if (known->kind == policy::CalloutAnswer::Kind::taken) return {};
    return {.kind = HopAnswer::Kind::refused, .refusal = &known->reply};
  }
  if (const auto asked = questions_.find(address); asked != questions_.end() && !asked->second->over) {
    asked->second->askers.push_back(asker);
    return {.kind = HopAnswer::Kind::later};
  } else if (asked != questions_.end() || stopping_ || since + options.timeout <= now ||
             questions_.size() >= questions_max) {
    metrics_.callouts_unknown.add();
    return unknown();
  }

  auto made = std::make_unique<Question>(*this, address, snapshot_, via, *domain, now);
  Question& question = *made;
  question.owner = self_;
  question.question = forward_path.text;
  question.work.recipients.push_back(0);
  question.cookie = ++last_cookie_;
  question.start_limit(since + options.timeout);
  question.answer_by = question.limit;
  questions_.emplace(std::move(address), std::move(made));
  routing_.emplace(question.cookie, &question);
  metrics_.callouts_outstanding.set(static_cast<std::int64_t>(questions_.size()));
  if (!route(question)) {
    end(question, {}, {});  // nobody has asked yet
    return unknown();
  }
  question.askers.push_back(asker);
  return {.kind = HopAnswer::Kind::later};
}

bool Callouts::route(Question& question) {
  while (!question.resolution.done()) {
    const std::optional<dns::Question> wanted = question.resolution.take_question();
    if (!wanted) return true;  // answers are awaited
    if (const dns::Answer* answer = resolver_.lookup(*wanted, *this, question.cookie)) {
      question.resolution.on_answer(*wanted, *answer, random_);
    }
  }
  routing_.erase(question.cookie);
  return on_routed(question, question.resolution.take_route());
}

bool Callouts::on_routed(Question& question, route::Route route) {
  if (route.verdict != route::Route::Verdict::deliver) return false;
  const mail::SiteId site = route.site;
  if (const auto silent = silent_.find(site); silent != silent_.end() && silent->second > loop_.now()) return false;
  question.stage = Question::Stage::ready;
  question.site = site;
  question.site_key = route.site_key;
  question.work.site = site;
  question.route = std::make_shared<const route::Route>(std::move(route));
  ready_[site].push_back(&question);
  notices_.push_back(site);
  return true;
}

void Callouts::on_answer(const dns::Question& question, const dns::Answer& answer, std::uint64_t cookie) {
  const auto found = routing_.find(cookie);
  if (found == routing_.end()) return;  // decided without this answer, or given up
  Question& waiting = *found->second;
  waiting.resolution.on_answer(question, answer, random_);
  if (!route(waiting)) end(waiting, {}, {});
}

std::optional<mail::SiteId> Callouts::take_notice() {
  while (!notices_.empty()) {
    const mail::SiteId site = notices_.back();
    notices_.pop_back();
    if (ready_.contains(site)) return site;
  }
  return std::nullopt;
}

std::uint32_t Callouts::ready(mail::SiteId site) const {
  const auto found = ready_.find(site);
  return found == ready_.end() ? 0 : static_cast<std::uint32_t>(found->second.size());
}

void Callouts::leave_ready(Question& question) {
  const auto found = ready_.find(question.site);
  std::erase(found->second, &question);
  if (!found->second.empty()) return;
  ready_.erase(found);
  mail_next_.erase(question.site);
}

bool Callouts::is_next(mail::SiteId site, bool mail_waits) const {
  return ready_.contains(site) && !(mail_waits && mail_next_.contains(site));
}

egress::Delivery* Callouts::take(mail::SiteId site, bool mail_waits) {
  if (!is_next(site, mail_waits)) {
    mail_next_.erase(site);
    return nullptr;
  }
  Question& question = *ready_.at(site).front();
  leave_ready(question);
  if (mail_waits && ready_.contains(site)) mail_next_.insert(site);
  question.stage = Question::Stage::lent;
  ++lent_;
  ++lent_at_[site];
  return &question;
}

// --- answers ---------------------------------------------------------------------------------------------------------

void Callouts::take_back(egress::Delivery& delivery) {
  auto& question = static_cast<Question&>(delivery);
  --lent_;
  if (--lent_at_[question.site] == 0) lent_at_.erase(question.site);
  mail::Reply said = timed_out;
  if (!delivery.outcomes.empty()) said = delivery.outcomes.front().result.reply;
  policy::CalloutAnswer answer;
  if (delivery.rcpt_answered) answer = policy::judge_callout(said);
  // What depends on the address must not keep others from being asked: clients choose it.
  const bool of_the_site = delivery.outcomes.empty() || delivery.path == egress::PathState::failed ||
                           (!delivery.rcpt_answered && said.code >= 400 && said.code != 421);
  if (of_the_site && !stopping_) note_silent(question.site);
  // Of another configuration, it answers who asked, and nobody else.
  if (question.snapshot->options == snapshot_->options) cache_.keep(question.address, answer, loop_.now());
  end(question, answer, said);
}

void Callouts::on_site_failed(mail::SiteId site, const mail::Reply& reply) {
  const auto found = ready_.find(site);
  if (found == ready_.end()) return;
  note_silent(site);
  const std::deque<Question*> waiting = std::move(found->second);
  ready_.erase(found);
  mail_next_.erase(site);
  for (Question* const question : waiting) end(*question, {}, reply);
}

void Callouts::on_limit(Question& question) {
  // Where others are being asked meanwhile, it was only too far behind them.
  const bool unheard = question.stage == Question::Stage::ready && !lent_at_.contains(question.site);
  if (unheard || question.stage == Question::Stage::lent) note_silent(question.site);
  if (question.stage == Question::Stage::ready) leave_ready(question);
  if (question.stage != Question::Stage::lent) return end(question, {}, timed_out);
  question.over = true;  // whoever asks is about to give it up
  tell(std::exchange(question.askers, {}), {});
}

void Callouts::end(Question& question, const policy::CalloutAnswer& answer, const mail::Reply& said) {
  record(question, answer, said);
  routing_.erase(question.cookie);
  const auto found = questions_.find(question.address);
  POSTERN_CHECK(found != questions_.end() && found->second.get() == &question);
  const std::unique_ptr<Question> ended = std::move(found->second);
  questions_.erase(found);
  metrics_.callouts_outstanding.set(static_cast<std::int64_t>(questions_.size()));
  tell(ended->askers, answer);
}

void Callouts::tell(const std::vector<ingress::Asker>& askers, const policy::CalloutAnswer& answer) {
  using Kind = policy::CalloutAnswer::Kind;
  HopAnswer told;
  if (answer.kind == Kind::unknown) told = unknown();
  if (answer.kind == Kind::refused || answer.kind == Kind::put_off) told.refusal = &answer.reply;
  for (const ingress::Asker& asker : askers) user_.on_recipient_answered(asker, told.refusal);
}

void Callouts::record(const Question& question, const policy::CalloutAnswer& answer, const mail::Reply& said) {
  using Kind = policy::CalloutAnswer::Kind;
  switch (answer.kind) {
    case Kind::taken:
      metrics_.callouts_taken.add();
      break;
    case Kind::refused:
      metrics_.callouts_refused.add();
      break;
    case Kind::put_off:
      metrics_.callouts_put_off.add();
      break;
    case Kind::unknown:
      metrics_.callouts_unknown.add();
      break;
  }
  if (question.site_key.empty()) return;  // it got no further than DNS
  const std::string words = said.to_log_text();
  events_.record({.kind = EventKind::asked,
                  .time = loop_.clocks().wall,
                  .to = question.address,
                  .site = question.site_key,
                  .peer = question.next_hop,
                  .reply = words,
                  .elapsed = loop_.now() - question.asked_at});
}

void Callouts::note_silent(mail::SiteId site) {
  const Instant now = loop_.now();
  if (silent_.size() >= silent_max) absl::erase_if(silent_, [now](const auto& entry) { return entry.second <= now; });
  if (silent_.size() < silent_max || silent_.contains(site)) silent_[site] = now + silence;
}

// --- the end ---------------------------------------------------------------------------------------------------------

void Callouts::stop() {
  stopping_ = true;
  ready_.clear();
  mail_next_.clear();
  notices_.clear();
  std::vector<Question*> all;
  for (const auto& [address, question] : questions_) all.push_back(question.get());
  // The simulator's runs must not depend on the order of a hash table.
  std::ranges::sort(all, {}, &Question::cookie);
  for (Question* const question : all) {
    if (question->stage != Question::Stage::lent) {
      end(*question, {}, given_up);
    } else {
      question->over = true;
      tell(std::exchange(question->askers, {}), {});
    }
  }
}

}  // namespace postern::shard
