#include <algorithm>
#include <utility>

#include <postern/base/check.h>
#include <postern/policy/callout.h>

namespace postern::policy {
namespace {

bool about_addresses(const mail::EnhancedStatus& status) {
  return status.present() && status.subject == 1;
}

mail::Reply ours(mail::ReplyCode code, mail::EnhancedStatus otherwise, const mail::Reply& said) {
  mail::Reply reply{.code = code, .status = otherwise, .text = {}};
  if (said.status.class_digit == code / 100) reply.status = said.status;
  const std::string_view line = std::string_view(said.text).substr(0, said.text.find('\n'));
  for (const char c : line.substr(0, callout_text_max)) reply.text += c >= 0x20 && c < 0x7F ? c : '?';
  if (reply.text.find_first_not_of(' ') == std::string::npos) reply.text = "The next hop does not take this recipient";
  return reply;
}

}  // namespace

CalloutAnswer judge_callout(const mail::Reply& said) {
  using Kind = CalloutAnswer::Kind;
  if (said.code / 100 == 2) return {.kind = Kind::taken};
  if (said.transient() && said.code != 421) return {.kind = Kind::put_off, .reply = ours(450, {4, 1, 1}, said)};
  if (!said.permanent()) return {};
  const bool of_the_command = said.code <= 504 || (said.code >= 530 && said.code <= 538);
  if (of_the_command && !about_addresses(said.status)) return {};
  // Some say 552 for a mailbox that is full, or for too many recipients [RFC 5321 §4.5.3.1.10]: neither lasts.
  if (said.code == 552) {
    mail::Reply later = said;
    later.status = {};
    return {.kind = Kind::put_off, .reply = ours(450, {4, 2, 2}, later)};
  }
  return {.kind = Kind::refused, .reply = ours(550, {5, 1, 1}, said)};
}

CalloutCache::CalloutCache(const Options& options) : options_(options) {
  POSTERN_CHECK(options.entries_max >= 2);
}

const CalloutAnswer* CalloutCache::find(std::string_view address, Instant now) {
  const auto found = entries_.find(address);
  if (found == entries_.end()) return nullptr;
  Entry& entry = *found->second;
  if (entry.until <= now) {
    remove(entry);
    return nullptr;
  }
  return &entry.answer;
}

void CalloutCache::keep(std::string_view address, const CalloutAnswer& answer, Instant now) {
  const bool taken = answer.kind == CalloutAnswer::Kind::taken;
  if (!taken && answer.kind != CalloutAnswer::Kind::refused) return;
  if (const auto known = entries_.find(address); known != entries_.end()) remove(*known->second);
  Kept& others = taken ? taken_ : refused_;
  if (others.size == options_.entries_max / 2) remove(*others.by_age.front());
  auto entry = std::make_unique<Entry>();
  entry->address = address;
  entry->answer = answer;
  entry->until = now + (taken ? options_.taken_life : options_.refused_life);
  others.by_age.push_back(*entry);
  ++others.size;
  const std::string_view key = entry->address;
  entries_.emplace(key, std::move(entry));
}

void CalloutCache::reset(const Options& options) {
  POSTERN_CHECK(options.entries_max >= 2);
  options_ = options;
  entries_.clear();
  taken_.size = refused_.size = 0;
}

void CalloutCache::remove(Entry& entry) {
  --kept(entry).size;
  entries_.erase(entries_.find(std::string_view(entry.address)));
}

}  // namespace postern::policy
