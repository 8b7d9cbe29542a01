#include "bench/source.h"

#include <algorithm>
#include <utility>

#include <postern/base/text.h>
#include <postern/base/units.h>

#include "bench/source_session.h"

namespace postern::bench {

Source::Source(Engine& engine, SourceOptions options, Ledger* ledger)
    : engine_(engine),
      options_(std::move(options)),
      maker_(options_.content, options_.sizes),
      ledger_(ledger),
      random_(options_.seed) {
  session_options_.ehlo_name = "source.postern-bench.test";
  session_options_.use_pipelining = options_.pipelining;
  session_options_.use_chunking = options_.chunking;
}

Source::~Source() = default;

void Source::start() {
  const Instant now = engine_.loop->clocks().monotonic;
  began_at_ = last_reply_at_ = now;
  started_ = true;
  sessions_open_ = options_.sessions;
  for (std::uint32_t i = 0; i < options_.sessions; ++i) {
    sessions_.push_back(std::make_unique<SourceSession>(*this, now));
  }
  for (const auto& session : sessions_) session->connect();
}

void Source::stop() {
  stopping_ = true;
}

Instant Source::due_at(std::uint64_t index) const {
  return began_at_ + Duration(static_cast<std::int64_t>(static_cast<double>(index) * 1e9 / options_.rate));
}

bool Source::finished(Instant now) const {
  if (stopping_ || (options_.count > 0 && counts_.begun >= options_.count)) return true;
  if (!Ledger::holds(static_cast<MessageNumber>(options_.first + counts_.begun), options_.content.recipients)) {
    return true;
  }
  if (options_.duration == Duration::zero()) return false;
  const Instant end = began_at_ + options_.duration;
  // What was due before the end is sent, however late.
  return options_.rate > 0 ? due_at(counts_.begun) >= end : now >= end;
}

std::optional<Source::Job> Source::next_job(Instant now) {
  if (finished(now)) return std::nullopt;
  const Instant due = options_.rate > 0 ? due_at(counts_.begun) : now;
  if (due > now) return std::nullopt;
  return Job{.message = static_cast<MessageNumber>(options_.first + counts_.begun++), .due = due};
}

Instant Source::next_due() const {
  if (idle_.empty()) return never;
  const Instant now = engine_.loop->now();
  return finished(now) ? now : due_at(counts_.begun);
}

std::uint64_t Source::overdue(Instant now) const {
  if (options_.rate <= 0 || now <= began_at_ || finished(now)) return 0;
  if (options_.duration > Duration::zero()) now = std::min(now, began_at_ + options_.duration);
  const double due = std::chrono::duration<double>(now - began_at_).count() * options_.rate;
  const auto whole = static_cast<std::uint64_t>(due);
  return whole > counts_.begun ? whole - counts_.begun : 0;
}

void Source::on_turn() {
  const Instant now = engine_.loop->now();
  while (!idle_.empty() && (finished(now) || due_at(counts_.begun) <= now)) {
    SourceSession* const session = idle_.back();
    idle_.pop_back();
    session->wake();
  }
  // Some relays greet a part of their clients minutes late: with nothing left to send, nobody waits for that.
  if (finished(now)) {
    for (const auto& session : sessions_) session->leave_unused(now);
  }
}

void Source::on_result(const Job& job, Instant begun_at, std::uint64_t bytes, const smtp::DeliveryResult& result,
                       Instant now) {
  std::uint64_t accepted = 0;
  for (std::size_t i = 0; i < result.recipients.size(); ++i) {
    const mail::RecipientResult& one = result.recipients[i];
    ++replies_[one.reply.code];
    if (one.outcome == mail::Outcome::relayed) {
      ++accepted;
      if (ledger_ != nullptr) {
        ledger_->on_accepted({.message = job.message, .index = static_cast<std::uint32_t>(i)},
                             options_.content.recipients, now);
      }
    } else if (first_trouble_.empty()) {
      first_trouble_ = one.reply.to_log_text();
    }
  }
  last_reply_at_ = now;
  if (accepted == 0) {
    ++counts_.refused;
    return;
  }
  ++counts_.accepted;
  counts_.recipients_accepted += accepted;
  counts_.bytes += bytes;
  latency_.add(now - job.due);
  service_time_.add(now - begun_at);
}

void Source::on_connection_failed(std::string_view reason) {
  ++counts_.connections_failed;
  if (first_trouble_.empty()) first_trouble_ = log_escaped(reason);
  const Instant now = engine_.loop->now();
  failing_since_ = std::min(failing_since_, now);
  if (now - failing_since_ < unreachable_max || stopping_) return;
  stopping_ = true;
  status_ = error(StatusCode::kUnavailable, options_.target.to_string() + " could not be reached for " +
                                                format_duration(unreachable_max) + ": " + log_escaped(reason));
}

}  // namespace postern::bench
