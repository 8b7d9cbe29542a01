// Windows onto a log's segments, for a reader that knows in which order it needs what lies in them: several are being
// read while it works on what has come. Without I/O. Used by Replay.
//
// Memory: windows_max buffers of the largest ranges asked for.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/spool/aligned_buffer.h>
#include <postern/spool/types.h>

namespace postern::spool {

// A range of a segment in memory, or on its way there. `offset` and `bytes` are multiples of block_bytes.
struct ReadWindow {
  enum class State : std::uint8_t { empty, asked, reading, filled, failed };

  AlignedBuffer buffer;
  State state = State::empty;
  Slot slot;
  std::uint64_t sequence = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;

  // Only while it is not reading. What covers [from, to) of the segment, within its `segment_bytes`.
  void ask(Slot segment_slot, std::uint64_t segment_sequence, std::uint64_t segment_bytes, std::uint64_t from,
           std::uint64_t to);
  [[nodiscard]] bool covers(std::uint64_t wanted_sequence, std::uint64_t from, std::uint64_t size) const {
    return state != State::empty && sequence == wanted_sequence && from >= offset && from + size <= offset + bytes;
  }
  // Within what it covers.
  [[nodiscard]] Bytes at(std::uint64_t from, std::uint64_t size) const {
    return buffer.first(bytes).subspan(from - offset, size);
  }
  [[nodiscard]] ReadIntent begin_reading();
};

class ReadAhead {
 public:
  static constexpr unsigned windows_max = 8;

  [[nodiscard]] bool has_room() const { return count_ < windows_max; }
  // One more window, behind all others: ranges are asked for in the order of the log.
  [[nodiscard]] ReadWindow& add();

  struct Found {
    bool wait = false;           // it is being read, or what lies before it is
    const ReadWindow* window{};  // filled, and covers it; null, and not `wait`: none does
  };
  // The range [from, from + size) of a segment. Windows that end before it are given up.
  [[nodiscard]] Found find(std::uint64_t sequence, std::uint64_t from, std::uint64_t size);
  // Gives up all windows. False: one is being read yet; call again when it has come.
  [[nodiscard]] bool clear();

  // The next read to be made, and the name of its window for on_read().
  struct Read {
    unsigned window = 0;
    ReadIntent intent;
  };
  [[nodiscard]] std::optional<Read> take_read();
  void on_read(unsigned window, const Status& status);

 private:
  [[nodiscard]] ReadWindow& front() { return windows_[first_]; }
  void pop();

  std::array<ReadWindow, windows_max> windows_;
  unsigned first_ = 0;
  unsigned count_ = 0;
};

}  // namespace postern::spool
