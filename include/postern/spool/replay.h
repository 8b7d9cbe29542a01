// Reads the living messages of a log after a start, in order of location, while the log is already in use: for the
// queue to take them up again. Without I/O; the driver makes the reads, as many at a time as it is given, and answers
// them in any order (several Replays, of several logs, may run side by side).
//
//   while (!replay.done()) { if (auto m = replay.take_message()) … else if (auto r = replay.take_read()) read,
//   on_read(r->window); else wait for a read under way, if there is any; }
//
// Only messages that were there when the log was recovered; each once; those settled meanwhile are left out. The log
// does not compact until it is done.
//
// Retry states lie where the attempts happened, in an order of their own. So the states of some hundred thousand
// recipients are read first, in the order of the disk, and then the messages are handed out, in theirs: both are long
// reads, eight of up to 256 KiB at a time, as the driver's turns may be long and the disk's answers slow. Between these
// take_message() and take_read() may both have nothing although it is not done() and no read is under way: call again.
//
// Memory: the windows (2 MiB, and a head that is larger), and the states of one round: state_round_bytes, what one more
// message may have, and 16 bytes for each.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/spool/log.h>
#include <postern/spool/read_ahead.h>

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
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  // The next message when what it needs has been read; nullopt: serve take_read(), or done().
  [[nodiscard]] std::optional<ReplayedMessage> take_message();
  using Read = ReadAhead::Read;
  static constexpr unsigned windows_max = ReadAhead::windows_max + 2;  // reads under way at a time
  [[nodiscard]] std::optional<Read> take_read();
  // Anything but OK: that range can not be read. Each of its messages is read again by itself, and passed over when
  // that fails too (see unreadable()).
  void on_read(unsigned window, const Status& status);
  [[nodiscard]] bool done() const { return done_; }

  struct Unreadable {
    mail::Location location;
    mail::QueueId id;
    Status status;  // kDataLoss, with segment and offset
  };
  // Messages that were passed over: they stay in the log, not in the queue; an alarm each. Grows while replaying.
  [[nodiscard]] const std::vector<Unreadable>& unreadable() const { return unreadable_; }

 private:
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
  // Takes what has been read; false: a read is needed.
  [[nodiscard]] bool read_round();
  // Ask for what comes next, as far as there are windows.
  void plan_states();
  void plan_messages();
  [[nodiscard]] const StateRef* find_in_round(std::uint64_t position) const;
  [[nodiscard]] bool nothing_is_read();
  void finish();
  void next_message();
  void pass_over(const Segment& segment, const Entry& entry, std::string_view what);
  [[nodiscard]] bool gather(std::uint64_t position, const Entry& entry);
  // What lies in the segment there, out of the windows read ahead or, where these do not have it, out of `single`;
  // nullopt: a read is needed.
  [[nodiscard]] std::optional<Bytes> bytes_at(ReadWindow& single, const Segment& segment, std::uint64_t from,
                                              std::uint64_t size);
  [[nodiscard]] std::optional<Bytes> single_at(ReadWindow& single, const Segment& segment, std::uint64_t from,
                                               std::uint64_t size);

  Log* log_;
  std::uint64_t last_sequence_ = 0;
  Cursor next_;                  // to be handed out
  std::uint32_t recipient_ = 0;  // cursor within the message: states before it are gathered
  bool gathering_ = false;       // the head is in the message window; states are being read
  bool done_ = false;
  std::uint64_t head_bytes_ = 0;  // of the current message, once its header is known

  ReadAhead ahead_;
  Cursor planned_messages_;  // those before it are in windows, or were
  std::size_t planned_states_ = 0;
  // Of what the windows do not have: a head larger than most or in a range that failed, and such a state or one that is
  // newer than the round.
  ReadWindow single_head_, single_state_;
  const std::array<ReadWindow*, 2> singles_{&single_head_, &single_state_};
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
