// Planted bugs, for the build that tests the simulator (-Dplanted_bugs=true): each is what some mail transfer agent did
// wrong, and postern-sim must find it. Every other build contains nothing of them: the condition is a constant.
//
// tests/sim/README.md has the list, and how many seeds it takes to find each.
#pragma once

#ifdef POSTERN_PLANTED_BUGS

#include <cstdint>

namespace postern {

enum class Planted : std::uint8_t {
  none,
  ack_before_sync,               // 250 although the log was opened without O_DSYNC
  settlement_lost_by_recycling,  // a segment is used again while its settlements are needed
  torn_tail_accepted,            // recovery believes a batch without its checksums
  old_batch_validated,           // … and one that a recycled segment held before
  retry_forgotten,               // after a restart what was deferred is not taken up
  evicted_under_lease,           // content is dropped from memory while it is being delivered
  buffer_reused_early,           // a receive buffer is given back before its bytes were read
  mailbox_full,                  // a letter that finds its mailbox full is lost
  limit_ignored_by_one_shard,    // one home grants a connection more than there may be
  lost_doorbell,                 // a letter does not wake its receiver
  dsn_for_dsn,                   // a failed DSN is answered by a DSN
  dot_at_chunk_border,           // the scanner forgets between two chunks where in a line it was
  timeout_never_fired,           // a next hop that falls silent is waited for
  reply_out_of_order,            // replies overtake the 250 that waits for the disk
  clock_step,                    // the queue runs on wall time
  chunk_leak,                    // memory of streamed content is not given back
  failure_without_dsn,           // of two that fail together, the sender hears of none
};

inline Planted planted_bug = Planted::none;  // set once, before anything runs

}  // namespace postern

#define POSTERN_PLANTED(bug) (::postern::planted_bug == ::postern::Planted::bug)

#else

#define POSTERN_PLANTED(bug) false

#endif
