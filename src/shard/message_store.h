// The mail objects that a shard holds in memory, within its share of the memory budget.
//
// What stands here is also in the spool (but for messages still being received), so anything without a lease may be
// dropped when memory is wanted, the longest unused first.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include <postern/base/intrusive_list.h>
#include <postern/base/memory_budget.h>
#include <postern/mail/message.h>
#include <postern/mail/queue_id.h>

namespace postern::shard {

class MessageStore {
 public:
  static constexpr std::size_t recycled_max = 256;
  // The object, its envelope and its entry here, beside the content.
  static constexpr std::uint64_t overhead_bytes = 1024;

  explicit MessageStore(MemoryBudget& budget) : lease_(budget) {}
  ~MessageStore();
  MessageStore(const MessageStore&) = delete;
  MessageStore& operator=(const MessageStore&) = delete;

  // --- objects and their memory
  [[nodiscard]] std::unique_ptr<mail::Message> new_message(BudgetClass budget_class);
  // `bytes` more for this message; drops others that are in the spool, if need be. False: not now.
  [[nodiscard]] bool take(mail::Message& message, std::uint64_t bytes);
  void give(mail::Message& message, std::uint64_t bytes);
  // Ends an object that is not kept.
  void recycle(std::unique_ptr<mail::Message> message);
  // Whether one more message may be begun: there is memory for it, or something here could go for it.
  [[nodiscard]] bool has_room_for_intake();
  // Something was given back since the last call.
  [[nodiscard]] bool take_freed() { return std::exchange(freed_, false); }
  [[nodiscard]] std::uint64_t used_bytes() const;
  void trim() { lease_.trim(); }

  // --- what is kept
  // By message->id, which is new here.
  mail::Message& keep(std::unique_ptr<mail::Message> message);
  // nullptr: not in memory.
  [[nodiscard]] mail::Message* find(mail::QueueId id);
  // Takes a drop() back that waits for a lease.
  void lease(mail::Message& message);
  void release(mail::Message& message);
  // Not needed any more, or not soon: goes now, or with its last lease.
  void drop(mail::QueueId id);
  // As drop(), and it is not found any more: what it says of the spool is true for its leases only.
  void detach(mail::QueueId id);
  [[nodiscard]] std::size_t size() const { return kept_.size(); }

 private:
  struct Kept : ListHook<> {
    std::unique_ptr<mail::Message> message;
    bool dropped = false;  // goes with its last lease
  };
  [[nodiscard]] bool evict(std::uint64_t bytes, BudgetClass budget_class);
  void remove(mail::QueueId id);
  void discard(std::unique_ptr<Kept> entry);

  BudgetLease lease_;
  absl::flat_hash_map<mail::QueueId, std::unique_ptr<Kept>> kept_;
  IntrusiveList<Kept> unleased_;                 // longest unused first
  std::vector<std::unique_ptr<Kept>> detached_;  // under leases
  std::vector<std::unique_ptr<mail::Message>> recycled_;
  std::vector<std::unique_ptr<Kept>> recycled_entries_;
  bool freed_ = false;
};

}  // namespace postern::shard
