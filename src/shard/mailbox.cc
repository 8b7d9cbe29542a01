#include "shard/mailbox.h"

#include <utility>

#include <postern/base/planted.h>

namespace postern::shard {

Mailboxes::Mailboxes(queue::ShardIndex shards, std::size_t capacity) : shards_(shards), wakers_(shards, nullptr) {
  queues_.reserve(std::size_t{shards} * shards);
  for (std::size_t from = 0; from < shards; ++from) {
    for (std::size_t to = 0; to < shards; ++to) {
      queues_.push_back(from == to ? nullptr : std::make_unique<SpscQueue<Letter>>(capacity));
    }
  }
}

MailboxEnd::MailboxEnd(Mailboxes& mailboxes, queue::ShardIndex self)
    : mailboxes_(mailboxes), self_(self), outbox_(mailboxes.shards()), to_ring_(mailboxes.shards(), false) {}

void MailboxEnd::send(queue::ShardIndex to, Letter letter) {
  std::deque<Letter>& outbox = outbox_[to];
  if (to == self_) {
    outbox.push_back(std::move(letter));
    return;
  }
  to_ring_[to] = true;
  any_to_ring_ = true;
  if (outbox.empty() && mailboxes_.queue(self_, to).push(std::move(letter))) return;
  if (POSTERN_PLANTED(mailbox_full)) return;
  outbox.push_back(std::move(letter));  // NOLINT(bugprone-use-after-move): a push that fails leaves it untouched
  ++waiting_;
}

bool MailboxEnd::flush() {
  if (waiting_ > 0) {
    for (queue::ShardIndex to = 0; to < mailboxes_.shards(); ++to) {
      if (to == self_) continue;
      std::deque<Letter>& outbox = outbox_[to];
      while (!outbox.empty() && mailboxes_.queue(self_, to).push(std::move(outbox.front()))) {
        outbox.pop_front();
        --waiting_;
        to_ring_[to] = true;
        any_to_ring_ = true;
      }
    }
  }
  if (any_to_ring_) {
    for (queue::ShardIndex to = 0; to < mailboxes_.shards(); ++to) {
      if (to_ring_[to] && !POSTERN_PLANTED(lost_doorbell)) mailboxes_.wakers_[to]->wake();
      to_ring_[to] = false;
    }
    any_to_ring_ = false;
  }
  return waiting_ > 0;
}

bool MailboxEnd::pending() {
  if (!outbox_[self_].empty()) return true;
  for (queue::ShardIndex from = 0; from < mailboxes_.shards(); ++from) {
    if (from != self_ && !mailboxes_.queue(from, self_).empty()) return true;
  }
  return false;
}

}  // namespace postern::shard
