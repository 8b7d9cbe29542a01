#include "tests/sim/oracle.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace postern::sim {
namespace {

constexpr std::size_t violations_max = 20;

std::string header_value(std::string_view content, std::string_view name) {
  const std::size_t end = content.find("\r\n\r\n");
  const std::string_view header = content.substr(0, end);
  const std::string wanted = "\r\n" + std::string(name) + ": ";
  const std::size_t at = std::string("\r\n").append(header).find(wanted);
  if (at == std::string::npos) return {};
  const std::string_view rest = header.substr(at + wanted.size() - 2);
  return std::string(rest.substr(0, rest.find("\r\n")));
}

}  // namespace

void Oracle::violation(std::string text) {
  if (on_violation) on_violation(text);
  if (violations_.size() < violations_max) violations_.push_back(std::move(text));
}

Mail& Oracle::add(std::string sender, std::string content, std::vector<std::string> recipients) {
  auto mail = std::make_unique<Mail>();
  mail->number = static_cast<std::uint32_t>(mails_.size());
  mail->sender = std::move(sender);
  mail->content = std::move(content);
  for (std::string& address : recipients) {
    by_address_[address] = {mails_.size(), mail->recipients.size()};
    mail->recipients.push_back({.address = std::move(address)});
  }
  if (!mail->sender.empty()) by_sender_[mail->sender] = mails_.size();
  mails_.push_back(std::move(mail));
  return *mails_.back();
}

void Oracle::on_fate(Mail& mail, Mail::Fate fate, std::string_view queue_id, Instant now) {
  mail.fate = fate;
  mail.accepted_at = now;
  if (fate != Mail::Fate::accepted) return;
  mail.queue_id = queue_id;
  if (!queue_ids_.insert(mail.queue_id).second) violation("queue id " + mail.queue_id + " was given out twice");
}

Rcpt* Oracle::find(std::string_view address, Mail** mail) {
  const auto found = by_address_.find(address);
  if (found == by_address_.end()) return nullptr;
  *mail = mails_[found->second.first].get();
  return &(*mail)->recipients[found->second.second];
}

bool Oracle::explained_by_crash(Instant delivered_at, Instant again_at) const {
  return std::any_of(crashes_.begin(), crashes_.end(), [&](Instant crash) {
    return crash >= delivered_at && crash <= again_at && crash - delivered_at <= rules.unsettled_max;
  });
}

void Oracle::check_content(const Mail& mail, std::string_view content) {
  const std::string name = "message " + std::to_string(mail.number);
  if (!content.ends_with(mail.content)) {
    return violation(name + ": content changed (" + std::to_string(content.size()) + " bytes of " +
                     std::to_string(mail.content.size()) + ")");
  }
  const std::string_view added = content.substr(0, content.size() - mail.content.size());
  if (!added.starts_with("Received: ") && added.find("\r\nReceived: ") == std::string_view::npos) {
    violation(name + ": no Received field before its content");
  }
  if (added.size() > 2048 || added.find("\r\n\r\n") != std::string_view::npos) {
    violation(name + ": more than fields before its content");
  }
}

Oracle::Ticket Oracle::on_delivered(std::string_view reverse_path, const std::vector<std::string>& recipients,
                                    std::string_view content, Instant now) {
  std::vector<Place> places;
  bool checked = false;
  for (const std::string& address : recipients) {
    if (reverse_path.empty() && by_sender_.contains(address)) {
      on_report(address, content, now);
      continue;
    }
    Mail* mail = nullptr;
    Rcpt* const recipient = find(address, &mail);
    if (recipient == nullptr) {
      violation("mail for <" + address + "> from <" + std::string(reverse_path) + ">, which nobody sent");
      continue;
    }
    const std::string name = "message " + std::to_string(mail->number) + " for <" + address + ">";
    if (mail->sender != reverse_path) violation(name + ": reverse-path <" + std::string(reverse_path) + ">");
    if (!std::exchange(checked, true)) check_content(*mail, content);
    if (mail->fate == Mail::Fate::refused && !rules.answers_may_lie) violation(name + ": delivered though refused");
    for (const Rcpt::Delivery& before : recipient->deliveries) {
      // A flipped bit may have hit the settlement.
      if (before.confirmed && !flipped_ && !explained_by_crash(before.at, now)) violation(name + ": delivered twice");
    }
    places.push_back({by_address_.find(address)->second.first, by_address_.find(address)->second.second,
                      recipient->deliveries.size()});
    recipient->deliveries.push_back({.at = now});
  }
  tickets_.push_back(std::move(places));
  return tickets_.size() - 1;
}

void Oracle::confirm(Ticket ticket) {
  for (const Place& place : tickets_[ticket]) {
    mails_[place.mail]->recipients[place.recipient].deliveries[place.delivery].confirmed = true;
  }
}

void Oracle::on_refused(const std::string& address) {
  Mail* mail = nullptr;
  if (Rcpt* const recipient = find(address, &mail); recipient != nullptr) recipient->refused_for_good = true;
  if (by_sender_.contains(address)) refused_.insert(address);
}

void Oracle::on_sender_refused(const std::string& reverse_path) {
  const auto found = by_sender_.find(reverse_path);
  if (found == by_sender_.end()) return;
  for (Rcpt& recipient : mails_[found->second]->recipients) recipient.refused_for_good = true;
}

void Oracle::on_report(std::string_view sender, std::string_view content, Instant now) {
  const Mail& mail = *mails_[by_sender_.find(sender)->second];
  const std::string name = "DSN for message " + std::to_string(mail.number);
  const std::string id = header_value(content, "Message-ID");
  if (id.empty()) violation(name + ": no Message-ID");
  constexpr std::string_view field = "\r\nFinal-Recipient: rfc822; ";
  std::size_t at = 0;
  std::size_t named = 0;
  while ((at = content.find(field, at)) != std::string_view::npos) {
    at += field.size();
    const std::string address(content.substr(at, content.find("\r\n", at) - at));
    ++named;
    Mail* of = nullptr;
    Rcpt* const recipient = find(address, &of);
    if (recipient == nullptr || of != &mail) {
      violation(name + " names <" + address + ">, which is not of it");
      continue;
    }
    constexpr std::string_view action_field = "\r\nAction: ";
    const std::size_t action_at = content.find(action_field, at) + action_field.size();
    const std::string_view action = content.substr(action_at, content.find("\r\n", action_at) - action_at);
    if (action == "relayed" || action == "delivered") {
      recipient->successes.insert(id);
      if (!recipient->wants_success()) violation(name + ": <" + address + "> told of success, unasked");
      // Where its way ends: in a Maildir, or in a mail store.
      const bool final = address.ends_with("@maildir.test") || address.ends_with("@store.test");
      if ((action == "delivered") != final) {
        violation(name + ": <" + address + "> " + std::string(action));
      }
      continue;
    }
    if (action != "failed") violation(name + ": action " + std::string(action));
    if (!recipient->wants_failure()) violation(name + ": <" + address + "> told of failure, against its NOTIFY");
    recipient->reports.insert(id);
    const Duration age = now - mail.accepted_at;
    const bool expired =
        mail.fate != Mail::Fate::accepted || age + rules.transaction_max >= rules.give_up_after || rules.hours_may_jump;
    if (!recipient->refused_for_good && !expired) violation(name + ": <" + address + "> failed without a cause");
  }
  if (named == 0) violation(name + " names no recipient");
}

void Oracle::judge(bool drained, Instant now) {
  for (const auto& mail : mails_) {
    for (const Rcpt& recipient : mail->recipients) {
      const std::string name =
          "message " + std::to_string(mail->number) + " (" + mail->queue_id + ") for <" + recipient.address + ">";
      // A flipped bit may have hit the batch that holds the settlement and the DSN, of which the DSN is salvaged.
      if (!recipient.successes.empty() && recipient.deliveries.empty() && !flipped_) {
        violation(name + ": told of a success that was none");
      }
      if (recipient.successes.size() > 1 && !flipped_) violation(name + ": success told in two DSNs");
      if (recipient.reports.size() > 1 && !flipped_) violation(name + ": reported in two DSNs");
      if (!recipient.reports.empty() &&
          std::any_of(recipient.deliveries.begin(), recipient.deliveries.end(),
                      [](const Rcpt::Delivery& each) { return each.confirmed; }) &&
          crashes_.empty() && !flipped_) {
        violation(name + ": delivered and reported as failed");
      }
      if (recipient.refused && !recipient.deliveries.empty())
        violation(name + ": delivered though its RCPT was refused");
      if (mail->fate == Mail::Fate::unsent && !recipient.deliveries.empty()) {
        violation(name + ": delivered though it never came whole");
      }
      if (mail->fate != Mail::Fate::accepted || !recipient.accepted || !drained || flipped_) continue;
      const bool failed =
          recipient.refused_for_good || rules.hours_may_jump || now - mail->accepted_at >= rules.give_up_after;
      const bool silent = (mail->sender.empty() || !recipient.wants_failure()) && failed;
      const bool sender_refused = refused_.contains(mail->sender) && failed;
      if (recipient.deliveries.empty() && recipient.reports.empty() && !silent && !sender_refused) {
        violation(name + ": accepted, then neither delivered nor reported");
      }
      // A crash between a delivery and its settlement makes another attempt, which may fail: then that is told.
      if (recipient.wants_success() && !recipient.deliveries.empty() && !mail->sender.empty() && !failed &&
          !refused_.contains(mail->sender) && recipient.successes.empty()) {
        violation(name + ": delivered, and its sender was not told, who had asked");
      }
    }
  }
}

Oracle::Counts Oracle::counts() const {
  Counts counts;
  for (const auto& mail : mails_) {
    if (mail->fate == Mail::Fate::accepted) ++counts.accepted;
    if (mail->fate == Mail::Fate::refused) ++counts.refused;
    if (mail->fate == Mail::Fate::unknown) ++counts.unknown;
    if (mail->fate == Mail::Fate::unsent) ++counts.unsent;
    for (const Rcpt& recipient : mail->recipients) {
      if (!recipient.deliveries.empty()) ++counts.delivered;
      if (recipient.deliveries.size() > 1) ++counts.doubled;
      if (!recipient.reports.empty()) ++counts.reported;
      if (!recipient.successes.empty()) ++counts.successes;
      if (mail->fate != Mail::Fate::accepted || !recipient.accepted) continue;
      if (recipient.deliveries.empty() && recipient.reports.empty())
        ++(flipped_ ? counts.lost_to_flips : counts.silent);
    }
  }
  return counts;
}

}  // namespace postern::sim
