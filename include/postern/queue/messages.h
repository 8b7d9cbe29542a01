// What shards say to each other about deliveries: plain values for the shards' mailboxes.
//
// Owner: the shard that accepted the message and holds its record, memory and settlements. Home: the shard that decides
// about a site. A shard may be both; it then sends these to itself or the driver short-cuts them.
//
// No wake-up is lost. Between a pair of shards messages keep their order. An owner with ready work for a site and no
// slot to use has told the home (Notice, SlotRequest, or SlotReturn with `wants`), and remembers that it did until it
// is answered; the home remembers it until it answers, by SlotGrant, or by PullRequests until a PullReply says `more` =
// false, or by SiteDown. Each side forgets at the moment when its answer leaves, the other when it arrives, and new
// work after that is said anew. A message that crossed with its answer costs one empty pull or one idle slot, never a
// wait.
//
// No mailbox can deadlock. Nobody waits for room: each kind has a bound per owner and site, and who starts something
// has reserved the room for its end.
//   owner → home: 1 Notice or SlotRequest; SlotReturns ≤ slots granted; 1 PullReply per PullRequest
//   home → owner: 1 SlotGrant per Notice or SlotRequest; SlotRecalls ≤ slots granted + 1; 1 PullRequest at a time;
//                 1 SiteDown per Notice; 1 Results per Work sent in a PullReply
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <absl/container/inlined_vector.h>

#include <postern/base/strong_id.h>
#include <postern/mail/location.h>
#include <postern/mail/outcome.h>
#include <postern/mail/queue_id.h>
#include <postern/mail/site.h>

namespace postern::queue {

using mail::SiteId;

// Position of a shard, 0…shards−1.
using ShardIndex = std::uint16_t;

[[nodiscard]] constexpr ShardIndex home_of(SiteId site, ShardIndex shards) {
  return static_cast<ShardIndex>(site.value % shards);
}

// A delivery in flight, as its owner names it: slot (32 bits) and generation. Never 0.
struct DeliveryIdTag;
using DeliveryId = StrongId<DeliveryIdTag, std::uint64_t>;

// Recipients of one message for one site, to be attempted together. It is in flight until its owner's queue hears
// on_results() or on_not_attempted(), exactly once.
struct Work {
  DeliveryId delivery{};
  SiteId site{};
  mail::QueueId queue_id{};
  mail::Location location{};
  absl::InlinedVector<std::uint16_t, 8> recipients{};  // indexes into the envelope
};

// What became of one recipient of a Work.
struct RecipientOutcome {
  std::uint16_t recipient = 0;  // index into the envelope
  mail::RecipientResult result{};
};

// owner → home: there is ready work for `site` here.
struct Notice {
  SiteId site{};
  ShardIndex from = 0;
};

// owner → home: as Notice, from an owner that holds slots, all of them busy.
struct SlotRequest {
  SiteId site{};
  ShardIndex from = 0;
};

// home → owner: `slots` (≥ 1) more connections to `site` are yours; answers one Notice or SlotRequest.
struct SlotGrant {
  SiteId site{};
  std::uint32_t slots = 0;
};

// owner → home: `slots` (≥ 1) come back; no connection uses them any more. `wants`: and there is ready work left.
struct SlotReturn {
  SiteId site{};
  ShardIndex from = 0;
  std::uint32_t slots = 0;
  bool wants = false;
};

// home → owner: others wait. `slots` (may be 0) come back as soon as they are not delivering, whatever work there is.
// `idle`: until the next SlotGrant, slots without work come back at once instead of keeping their connections.
struct SlotRecall {
  SiteId site{};
  std::uint32_t slots = 0;
  bool idle = false;
};

// home → owner: give me work for one connection to `site`.
struct PullRequest {
  SiteId site{};
  std::uint32_t recipients_max = 0;
  bool connected = false;  // an idle connection waits for it
};

// owner → home: answers one PullRequest.
struct PullReply {
  SiteId site{};
  ShardIndex from = 0;
  std::optional<Work> work{};
  bool more = false;  // ready work is left
};

// home → owner: ends one delivery; `outcomes` as OwnerQueue::on_results() takes them, empty: not attempted.
struct Results {
  DeliveryId delivery{};
  std::vector<RecipientOutcome> outcomes{};
};

// home → owner: no next hop of `site` can be reached; defer what is ready for it.
struct SiteDown {
  SiteId site{};
  mail::Reply reply{};
};

}  // namespace postern::queue
