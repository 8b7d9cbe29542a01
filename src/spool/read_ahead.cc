#include <algorithm>

#include <postern/base/check.h>
#include <postern/spool/format.h>
#include <postern/spool/read_ahead.h>

namespace postern::spool {

void ReadWindow::ask(Slot segment_slot, std::uint64_t segment_sequence, std::uint64_t segment_bytes, std::uint64_t from,
                     std::uint64_t to) {
  POSTERN_CHECK(state != State::reading);
  state = State::asked;
  slot = segment_slot;
  sequence = segment_sequence;
  offset = round_down(from, block_bytes);
  bytes = std::min(round_up(to, block_bytes), segment_bytes) - offset;
}

ReadIntent ReadWindow::begin_reading() {
  POSTERN_CHECK(state == State::asked);
  if (buffer.size() < bytes) buffer = AlignedBuffer(bytes);
  state = State::reading;
  return {slot, offset, buffer.bytes().first(bytes)};
}

ReadWindow& ReadAhead::add() {
  POSTERN_CHECK(has_room());
  return windows_[(first_ + count_++) % windows_max];
}

void ReadAhead::pop() {
  front().state = ReadWindow::State::empty;
  first_ = (first_ + 1) % windows_max;
  --count_;
}

ReadAhead::Found ReadAhead::find(std::uint64_t sequence, std::uint64_t from, std::uint64_t size) {
  for (; count_ > 0; pop()) {
    const ReadWindow& window = front();
    const bool before =
        window.sequence < sequence || (window.sequence == sequence && window.offset + window.bytes <= from);
    if (!before) {
      if (!window.covers(sequence, from, size) || window.state == ReadWindow::State::failed) return {};
      if (window.state != ReadWindow::State::filled) return {.wait = true};
      return {.window = &window};
    }
    if (window.state == ReadWindow::State::reading) return {.wait = true};
  }
  return {};
}

bool ReadAhead::clear() {
  for (; count_ > 0; pop()) {
    if (front().state == ReadWindow::State::reading) return false;
  }
  return true;
}

std::optional<ReadAhead::Read> ReadAhead::take_read() {
  for (unsigned i = 0; i < count_; ++i) {
    const unsigned at = (first_ + i) % windows_max;
    if (windows_[at].state == ReadWindow::State::asked) return Read{at, windows_[at].begin_reading()};
  }
  return std::nullopt;
}

void ReadAhead::on_read(unsigned window, const Status& status) {
  POSTERN_CHECK(window < windows_max && windows_[window].state == ReadWindow::State::reading);
  windows_[window].state = status.ok() ? ReadWindow::State::filled : ReadWindow::State::failed;
}

}  // namespace postern::spool
