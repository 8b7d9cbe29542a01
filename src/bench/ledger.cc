#include "bench/ledger.h"

#include <algorithm>

namespace postern::bench {
namespace {

std::uint64_t nanoseconds(Instant at) {
  return static_cast<std::uint64_t>(at.time_since_epoch().count());
}

}  // namespace

// nullptr: no place for it.
Ledger::Entry* Ledger::entry(const RecipientNumber& recipient, std::uint32_t recipients) {
  if (recipients_ == 0) recipients_ = recipients;
  if (recipients != recipients_ || recipient.index >= recipients || !holds(recipient.message, recipients)) {
    return nullptr;
  }
  const std::uint64_t place = std::uint64_t{recipient.message} * recipients + recipient.index;
  if (place >= entries_.size()) {
    // A number far ahead must not cost one step per number in between, and growth shall be rare.
    const std::uint64_t wanted = std::max<std::uint64_t>(place + 1, entries_.size() * 2);
    entries_.resize(std::min(std::max<std::uint64_t>(wanted, 1024), deliveries_max));
  }
  return &entries_[place];
}

void Ledger::on_accepted(const RecipientNumber& recipient, std::uint32_t recipients, Instant at) {
  Entry* const kept = entry(recipient, recipients);
  if (kept == nullptr || (*kept & accepted_bit) != 0) return;
  ++counts_.accepted;
  if ((*kept & arrived_bit) != 0) {
    transit_.add(Duration::zero());
    *kept |= accepted_bit;
  } else {
    ++accepted_only_;
    *kept = accepted_bit | (nanoseconds(at) & time_mask);
  }
}

void Ledger::on_arrived(const ContentCheck::Result& content, const std::optional<RecipientNumber>& recipient,
                        Instant at) {
  if (!content.mark) {
    ++counts_.foreign;
    return;
  }
  if (!run_) run_ = content.mark->run;
  Entry* const kept = recipient && content.mark->run == *run_ ? entry(*recipient, content.mark->recipients) : nullptr;
  if (kept == nullptr) {
    ++counts_.foreign;
    return;
  }
  first_arrival_ = std::min(first_arrival_, at);
  last_arrival_ = std::max(last_arrival_, at);
  messages_seen_ = std::max<std::uint64_t>(messages_seen_, std::uint64_t{recipient->message} + 1);
  if (!content.intact || content.mark->message != recipient->message) ++counts_.changed;
  if ((*kept & arrived_bit) != 0) {
    ++counts_.twice;
    return;
  }
  ++counts_.arrived;
  if ((*kept & accepted_bit) != 0) {
    --accepted_only_;
    transit_.add(Duration(static_cast<std::int64_t>(nanoseconds(at) - (*kept & time_mask))));
    *kept |= arrived_bit;
  } else {
    *kept = arrived_bit | (nanoseconds(at) & time_mask);
  }
}

std::uint64_t Ledger::missing(std::uint64_t messages) const {
  const std::uint64_t wanted = messages * recipients_per_message();
  const std::uint64_t looked_at = std::min<std::uint64_t>(wanted, entries_.size());
  const auto arrived = std::count_if(entries_.begin(), entries_.begin() + static_cast<std::ptrdiff_t>(looked_at),
                                     [](Entry kept) { return (kept & arrived_bit) != 0; });
  return wanted - static_cast<std::uint64_t>(arrived);
}

}  // namespace postern::bench
