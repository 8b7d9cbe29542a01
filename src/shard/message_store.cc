#include "shard/message_store.h"

#include <algorithm>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/planted.h>

namespace postern::shard {

MessageStore::~MessageStore() {
  for (auto& [id, kept] : kept_) lease_.give(kept->message->budget_class, kept->message->budget_bytes);
  for (auto& kept : detached_) lease_.give(kept->message->budget_class, kept->message->budget_bytes);
}

std::unique_ptr<mail::Message> MessageStore::new_message(BudgetClass budget_class) {
  std::unique_ptr<mail::Message> message;
  if (recycled_.empty()) {
    message = std::make_unique<mail::Message>();
  } else {
    message = std::move(recycled_.back());
    recycled_.pop_back();
  }
  message->budget_class = budget_class;
  return message;
}

bool MessageStore::take(mail::Message& message, std::uint64_t bytes) {
  if (bytes == 0) return true;
  if (!lease_.take(message.budget_class, bytes) && !evict(bytes, message.budget_class)) return false;
  message.budget_bytes += bytes;
  return true;
}

bool MessageStore::evict(std::uint64_t bytes, BudgetClass budget_class) {
  while (Kept* oldest = unleased_.front()) {
    remove(oldest->message->id);
    if (lease_.take(budget_class, bytes)) return true;
  }
  return false;
}

bool MessageStore::has_room_for_intake() {
  if (!lease_.take(BudgetClass::intake, overhead_bytes) && !evict(overhead_bytes, BudgetClass::intake)) return false;
  lease_.give(BudgetClass::intake, overhead_bytes);
  return true;
}

void MessageStore::give(mail::Message& message, std::uint64_t bytes) {
  POSTERN_CHECK(bytes <= message.budget_bytes);
  message.budget_bytes -= bytes;
  lease_.give(message.budget_class, bytes);
  freed_ = true;
}

void MessageStore::recycle(std::unique_ptr<mail::Message> message) {
  if (POSTERN_PLANTED(chunk_leak) && !message->spooled.empty()) message->budget_bytes = 0;
  give(*message, message->budget_bytes);
  message->clear();
  if (recycled_.size() < recycled_max) recycled_.push_back(std::move(message));
}

std::uint64_t MessageStore::used_bytes() const {
  return lease_.used_bytes(BudgetClass::intake) + lease_.used_bytes(BudgetClass::delivery) +
         lease_.used_bytes(BudgetClass::control);
}

mail::Message& MessageStore::keep(std::unique_ptr<mail::Message> message) {
  std::unique_ptr<Kept> entry;
  if (recycled_entries_.empty()) {
    entry = std::make_unique<Kept>();
  } else {
    entry = std::move(recycled_entries_.back());
    recycled_entries_.pop_back();
  }
  entry->message = std::move(message);
  entry->dropped = false;
  mail::Message& kept = *entry->message;
  unleased_.push_back(*entry);
  const bool fresh = kept_.emplace(kept.id, std::move(entry)).second;
  POSTERN_CHECK(fresh, "a queue id came twice");
  return kept;
}

mail::Message* MessageStore::find(mail::QueueId id) {
  const auto found = kept_.find(id);
  return found == kept_.end() ? nullptr : found->second->message.get();
}

void MessageStore::lease(mail::Message& message) {
  Kept& kept = *kept_.at(message.id);
  POSTERN_CHECK(kept.message.get() == &message, "a detached message gets no new lease");
  kept.dropped = false;  // it is wanted again before its last lease was over
  if (message.leases++ == 0 && !POSTERN_PLANTED(evicted_under_lease)) kept.unlink();
}

void MessageStore::release(mail::Message& message) {
  POSTERN_CHECK(message.leases > 0);
  if (--message.leases > 0) return;
  const auto kept = kept_.find(message.id);
  if (kept == kept_.end() || kept->second->message.get() != &message) {
    const auto detached =
        std::ranges::find_if(detached_, [&](const auto& entry) { return entry->message.get() == &message; });
    POSTERN_CHECK(detached != detached_.end(), "a lease of a message that is not kept");
    std::unique_ptr<Kept> entry = std::move(*detached);
    detached_.erase(detached);
    discard(std::move(entry));
  } else if (kept->second->dropped) {
    remove(message.id);
  } else {
    if (POSTERN_PLANTED(evicted_under_lease)) kept->second->unlink();
    unleased_.push_back(*kept->second);
  }
}

void MessageStore::drop(mail::QueueId id) {
  const auto found = kept_.find(id);
  if (found == kept_.end()) return;
  if (found->second->message->leases > 0) {
    found->second->dropped = true;
  } else {
    remove(id);
  }
}

void MessageStore::detach(mail::QueueId id) {
  const auto found = kept_.find(id);
  if (found == kept_.end()) return;
  if (found->second->message->leases == 0) return remove(id);
  detached_.push_back(std::move(found->second));
  kept_.erase(found);
}

void MessageStore::remove(mail::QueueId id) {
  const auto found = kept_.find(id);
  std::unique_ptr<Kept> entry = std::move(found->second);
  kept_.erase(found);
  discard(std::move(entry));
}

void MessageStore::discard(std::unique_ptr<Kept> entry) {
  entry->unlink();
  recycle(std::move(entry->message));
  if (recycled_entries_.size() < recycled_max) recycled_entries_.push_back(std::move(entry));
}

}  // namespace postern::shard
