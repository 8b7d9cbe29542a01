// Reads the living messages of a log after a start, in order of location, while the log is already in use: for the
// queue to take them up again. Without I/O; the driver serves one read at a time (several Replays, of several logs, may
// run side by side).
//
//   while (!replay.done()) { if (auto m = replay.take_message()) … else if (auto r = replay.take_read()) read,
//   on_read(); }
//
// Only messages that were there when the log was recovered; each once; those settled meanwhile are left out. The log
// does not compact until it is done.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/spool/aligned_buffer.h>
#include <postern/spool/log.h>

namespace postern::spool {

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
  [[nodiscard]] bool find_next();
  void finish();
  void next_message();
  void pass_over(const Segment& segment, const Entry& entry, std::string_view what);
  [[nodiscard]] bool gather(std::uint64_t position, const Entry& entry);
  // Reads `bytes` at `from`, and on to `to` where the disk allows.
  void ask(Window& window, const Segment& segment, std::uint64_t from, std::uint64_t bytes, std::uint64_t to);
  [[nodiscard]] std::uint64_t message_window_end(const Segment& segment, std::uint64_t head_bytes) const;

  Log* log_;
  std::uint64_t last_sequence_ = 0;
  std::uint64_t sequence_ = 0;  // cursor: segment and entry
  std::size_t entry_ = 0;
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
};

}  // namespace postern::spool
