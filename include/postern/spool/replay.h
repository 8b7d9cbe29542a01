// Reads the living messages of a log after a start, in order of location, while the log is already in use: for the
// queue to take them up again. Without I/O; the driver serves one read at a time (several Replays, of several logs, may
// run side by side).
//
//   while (!replay.done()) { if (auto m = replay.take_message()) … else if (auto r = replay.take_read()) read,
//   on_read(); }
//
// Only messages that were there when the log was recovered; each once; those settled meanwhile are left out. The log
// does not compact until it is done.
//
// Retry states lie where the attempts happened, in an order of their own. So the states of some hundred thousand
// recipients are read first, in the order of the disk, and then the messages are handed out, in theirs: both are long
// reads. Between these take_message() and take_read() may both have nothing although it is not done(): call again.
//
// Memory: two windows of 256 KiB, and the states of one round: state_round_bytes, what one more message may have, and
// 16 bytes for each.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/spool/aligned_buffer.h>
#include <postern/spool/log.h>

namespace postern::spool {

inline constexpr std::uint64_t state_round_bytes = 48u << 20;

struct ReplayedRecipient {
  std::uint16_t index = 0;
  Bytes state;  // what append_retry_state() was last given; empty: no attempt was recorded
};

// Views stay valid until the next non-const call.
struct ReplayedMessage {
  mail::Location location;
  mail::QueueId id;
  std::uint16_t recipients = 0;
  Bytes envelope;
  mail::ContentFacts facts;
  std::span<const ReplayedRecipient> unsettled;  // by ascending index; never empty
};

class Replay {
 public:
  // `log` outlives it. One per Log, at any time after its making.
  explicit Replay(Log& log);

  // The next message when what it needs has been read; nullopt: serve take_read(), or done().
  [[nodiscard]] std::optional<ReplayedMessage> take_message();
  [[nodiscard]] std::optional<ReadIntent> take_read();
  // Anything but OK: that range can not be read; its messages are passed over (see unreadable()).
  void on_read(const Status& status);
  [[nodiscard]] bool done() const { return done_; }

  struct Unreadable {
    mail::Location location;
    mail::QueueId id;
    Status status;  // kDataLoss, with segment and offset
  };
  // Messages that were passed over: they stay in the log, not in the queue; an alarm each. Grows while replaying.
  [[nodiscard]] const std::vector<Unreadable>& unreadable() const { return unreadable_; }

 private:
  struct Window {
    AlignedBuffer buffer;
    std::uint64_t sequence = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;  // 0: nothing is in it
    [[nodiscard]] bool holds(std::uint64_t sequence_wanted, std::uint64_t from, std::uint64_t size) const {
      return sequence == sequence_wanted && from >= offset && from + size <= offset + bytes;
    }
  };
  // A retry state that this round needs.
  struct StateRef {
    std::uint64_t position = 0;
    std::uint32_t begin = 0;  // in round_bytes_, once it is read
    std::uint32_t bytes = 0;  // of the record; once it is read: of the state
  };
  // A living message of before the start.
  struct Cursor {
    std::uint64_t sequence = 0;
    std::size_t entry = 0;
    friend constexpr auto operator<=>(const Cursor&, const Cursor&) = default;
  };
  // Puts the cursor on a living message; false: there is none any more.
  [[nodiscard]] bool find_living(Cursor& cursor) const;
  void collect_round();
  // Takes what the states window holds; false: a read is needed.
  [[nodiscard]] bool read_round();
  [[nodiscard]] const StateRef* find_in_round(std::uint64_t position) const;
  void finish();
  void next_message();
  void pass_over(const Segment& segment, const Entry& entry, std::string_view what);
  [[nodiscard]] bool gather(std::uint64_t position, const Entry& entry);
  // Reads `bytes` at `from`, and on to `to` where the disk allows.
  void ask(Window& window, const Segment& segment, std::uint64_t from, std::uint64_t bytes, std::uint64_t to);
  [[nodiscard]] std::uint64_t message_window_end(const Segment& segment, std::uint64_t head_bytes) const;

  Log* log_;
  std::uint64_t last_sequence_ = 0;
  Cursor next_;                  // to be handed out
  std::uint32_t recipient_ = 0;  // cursor within the message: states before it are gathered
  bool gathering_ = false;       // the head is in the message window; states are being read
  bool done_ = false;
  std::uint64_t head_bytes_ = 0;  // of the current message, once its header is known

  Window messages_, states_;
  Window* asked_ = nullptr;
  bool read_taken_ = false;
  std::uint64_t asked_offset_ = 0;
  std::uint64_t asked_bytes_ = 0;
  std::uint64_t asked_least_ = 0;
  std::uint64_t asked_sequence_ = 0;
  Slot asked_slot_;
  std::vector<ReplayedRecipient> unsettled_;
  std::vector<std::byte> state_bytes_;
  std::vector<std::pair<std::size_t, std::size_t>> state_pieces_;
  std::vector<Unreadable> unreadable_;

  enum class Round : std::uint8_t { collecting, reading, handing_out };
  Round round_ = Round::collecting;
  Cursor collected_;  // messages before it are in this round
  std::uint64_t round_size_ = 0;
  std::vector<StateRef> refs_;  // by position, once collected
  std::size_t ref_ = 0;         // to be read
  std::vector<std::byte> round_bytes_;
};

}  // namespace postern::spool
