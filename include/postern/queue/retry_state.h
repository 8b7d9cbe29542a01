// What the spool keeps of a recipient that waits for its next attempt: an opaque value to the spool.
#pragma once

#include <cstdint>
#include <string>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/base/time.h>
#include <postern/mail/reply.h>

namespace postern::queue {

struct RetryState {
  std::uint16_t attempts = 0;  // made so far; sticks at 65,535
  WallTime due{};              // of the next one
  mail::Reply last_reply{};    // why the last one did not succeed
  bool warned = false;         // its sender has been told of the delay, or does not want to be: never again
};

// version (1) | attempts (2) | due, ns since the epoch (8) | code (2) | status (1 + 2 + 2) | text size (2) | text;
// numbers little-endian. The text is cut so that the whole stays within the bound. The version is 2 where `warned` is
// set, else 1: a reader that knows 1 alone loses the time of an attempt, nothing else.
inline constexpr std::size_t retry_state_bytes_max = 512;
inline constexpr std::size_t retry_state_head_bytes = 1 + 2 + 8 + 2 + 5 + 2;
inline constexpr std::size_t retry_reply_text_max = retry_state_bytes_max - retry_state_head_bytes;

// Appends to `out`.
void encode_retry_state(const RetryState& state, std::string& out);
// Reads what encode_retry_state() wrote; bytes from the disk are not trusted. kDataLoss names what is wrong.
[[nodiscard]] StatusOr<RetryState> decode_retry_state(Bytes bytes);

}  // namespace postern::queue
