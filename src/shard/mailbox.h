// The mailboxes between shards: one bounded lock-free queue for each ordered pair, and an overflow list at the sender.
//
// A shard never waits for room. What does not fit into a queue waits in the sender's outbox for the next turn; how long
// an outbox can get is bounded by what its messages stand for (queue/messages.h reserves each kind's room: one notice
// per owner and site, one answer per pull, one result per delivery in flight), so two full mailboxes cannot block each
// other. Messages of one pair keep their order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <postern/base/spsc_queue.h>
#include <postern/base/status.h>
#include <postern/dns/message.h>
#include <postern/queue/messages.h>

#include "egress/delivery.h"
#include "io/loop.h"

namespace postern::shard {

// Answers one PullRequest. The delivery is lent to the home until it comes back as DeliveryBack.
struct PullAnswer {
  queue::SiteId site;
  queue::ShardIndex from = 0;
  bool more = false;
  egress::Delivery* delivery = nullptr;  // null: nothing was left
};

// The delivery's outcomes stand in it; it is its owner's again.
struct DeliveryBack {
  egress::Delivery* delivery = nullptr;
};

struct DnsNotice {
  std::unique_ptr<dns::Question> question;
};

struct SiteDownNotice {
  std::unique_ptr<queue::SiteDown> down;
};

// What waits for a domain is to be tried now.
struct WakeNotice {
  std::unique_ptr<std::string> domain;
};

// A delivering shard asks the owner for a piece of content in the spool; `job` names the asker's interest.
struct PieceRequest {
  const egress::Delivery* delivery = nullptr;
  std::uint32_t index = 0;
  std::uint32_t job_slot = 0;
  std::uint32_t job_generation = 0;
  queue::ShardIndex from = 0;
};
struct PieceReply {
  std::uint32_t job_slot = 0;
  std::uint32_t job_generation = 0;
  std::unique_ptr<StatusOr<std::string>> piece;
};

using Letter = std::variant<std::monostate, queue::Notice, queue::SlotRequest, queue::SlotReturn, queue::SlotGrant,
                            queue::SlotRecall, queue::PullRequest, PullAnswer, DeliveryBack, DnsNotice, SiteDownNotice,
                            WakeNotice, PieceRequest, PieceReply>;
static_assert(sizeof(Letter) <= 40, "a mailbox is shards² × capacity × this");

// All queues. Made before the shards' threads start, outlives them.
class Mailboxes {
 public:
  // Letters per pair: what one turn of a busy shard sends, and some.
  static constexpr std::size_t capacity_default = 128;

  explicit Mailboxes(queue::ShardIndex shards, std::size_t capacity = capacity_default);
  [[nodiscard]] queue::ShardIndex shards() const { return shards_; }
  // Once per shard, before any of them sends: where to ring.
  void set_waker(queue::ShardIndex shard, io::Waker& waker) { wakers_[shard] = &waker; }
  // From any thread, once all wakers are set.
  void wake_all() {
    for (io::Waker* waker : wakers_) waker->wake();
  }

 private:
  friend class MailboxEnd;
  [[nodiscard]] SpscQueue<Letter>& queue(queue::ShardIndex from, queue::ShardIndex to) {
    return *queues_[std::size_t{from} * shards_ + to];
  }

  queue::ShardIndex shards_;
  std::vector<std::unique_ptr<SpscQueue<Letter>>> queues_;
  std::vector<io::Waker*> wakers_;
};

// One shard's end: sends to all others and to itself, receives from all.
class MailboxEnd {
 public:
  MailboxEnd(Mailboxes& mailboxes, queue::ShardIndex self);

  // Never fails and never blocks. To oneself: received in this shard's next receive().
  void send(queue::ShardIndex to, Letter letter);
  // End of a turn: pushes what waits and rings those shards that got something. True when letters still wait for room:
  // call again within a millisecond.
  bool flush();
  // Hands at most `count_max` letters to `receiver(Letter&&)`, taking turns between senders. Returns how many.
  template <class Receiver>
  std::size_t receive(std::size_t count_max, Receiver&& receiver);
  [[nodiscard]] bool pending();  // receive() would hand out something

 private:
  Mailboxes& mailboxes_;
  queue::ShardIndex self_;
  queue::ShardIndex turn_ = 0;
  std::vector<std::deque<Letter>> outbox_;  // per target; outbox_[self_]: letters to oneself
  std::vector<bool> to_ring_;
  bool any_to_ring_ = false;
  std::size_t waiting_ = 0;  // letters in outboxes to others
};

template <class Receiver>
std::size_t MailboxEnd::receive(std::size_t count_max, Receiver&& receiver) {
  std::size_t count = 0;
  std::deque<Letter>& own = outbox_[self_];
  // Letters that the receiver sends to itself meanwhile wait for the next call: a turn ends.
  for (std::size_t left = std::min(own.size(), count_max); left > 0; --left, ++count) {
    Letter letter = std::move(own.front());
    own.pop_front();
    receiver(std::move(letter));
  }
  for (queue::ShardIndex i = 0; i < mailboxes_.shards_ && count < count_max; ++i) {
    turn_ = static_cast<queue::ShardIndex>((turn_ + 1) % mailboxes_.shards_);
    if (turn_ == self_) continue;
    count += mailboxes_.queue(turn_, self_).pop_batch(count_max - count, receiver);
  }
  return count;
}

}  // namespace postern::shard
