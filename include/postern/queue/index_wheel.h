// A hierarchical timing wheel over the objects of a Slab: O(1) to arm and cancel, 18 bytes per object and none besides.
//
// base/timer_wheel.h serves hundreds of thousands of deadlines inside objects with addresses; this one serves millions
// of waiting recipients by index, coarser, and hands out what is due in pieces of a size that the caller chooses.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include <postern/base/time.h>
#include <postern/queue/index_list.h>

namespace postern::queue {

// `link`, `at` (ns on the monotonic clock) and `slot` are the wheel's members of each object; `at` may be read by
// others.
template <class Object, IndexLink Object::* link, std::int64_t Object::* at, std::uint16_t Object::* slot>
class IndexWheel {
 public:
  // 2^24 ns = 16.8 ms; nothing fires early, and nothing later than one tick. Six levels of 64 slots: 2^60 ns = 36
  // years.
  static constexpr unsigned tick_bits = 24;
  static constexpr unsigned level_bits = 6;
  static constexpr unsigned levels = 6;
  static constexpr std::uint16_t not_armed = UINT16_MAX;

  explicit IndexWheel(Slab<Object>& objects) : objects_(objects) {}
  IndexWheel(const IndexWheel&) = delete;
  IndexWheel& operator=(const IndexWheel&) = delete;

  // Makes it due at `time` (≥ 0). The object is not armed.
  void arm(std::uint32_t index, std::int64_t time) {
    objects_[index].*at = time;
    insert(index);
    ++armed_;
  }
  void cancel(std::uint32_t index) {
    remove(index);
    --armed_;
  }
  [[nodiscard]] bool armed(std::uint32_t index) const { return objects_[index].*slot != not_armed; }
  [[nodiscard]] std::size_t size() const { return armed_; }

  // The next one whose time has come, disarmed; no_index when there is none. Each call moves at most `moves` objects
  // down the wheel (the count is taken off); with none left it returns no_index, and next_expiry() says "at once".
  [[nodiscard]] std::uint32_t take_due(Instant now, std::size_t& moves) {
    // Ticks below this one have ended.
    const std::uint64_t end =
        static_cast<std::uint64_t>(std::max<std::int64_t>(now.time_since_epoch().count(), 0)) >> tick_bits;
    while (moves > 0) {
      if (due_.empty() && !collect(end)) return no_index;
      --moves;
      const std::uint32_t index = List::pop_front(objects_, due_);
      objects_[index].*slot = not_armed;
      if (tick_of(objects_[index].*at) < end) {
        --armed_;
        return index;
      }
      insert(index);
    }
    return no_index;
  }

  // When take_due() has something to do: exact for what is less than a second away, else possibly early.
  [[nodiscard]] Instant next_expiry() const {
    if (!due_.empty()) return Instant::min();
    for (unsigned level = 0; level < levels; ++level) {
      if (used_[level] == 0) continue;
      const std::uint64_t start = start_of(level, first_used(level));
      return Instant(Duration(static_cast<std::int64_t>((level == 0 ? start + 1 : start) << tick_bits)));
    }
    return never;
  }

 private:
  using List = IndexListOf<Object, link>;
  static constexpr std::uint64_t slots = 1u << level_bits;

  static std::uint64_t tick_of(std::int64_t time) { return static_cast<std::uint64_t>(time) >> tick_bits; }

  void insert(std::uint32_t index) {
    // What has passed goes to the current tick; what lies beyond the wheel to its end, from where it is put in again.
    constexpr std::uint64_t span = (std::uint64_t{1} << (levels * level_bits)) - 1;
    const std::uint64_t tick = std::clamp(tick_of(objects_[index].*at), tick_, tick_ | span);
    // The level is that of the highest digit in which it differs from now.
    const std::uint64_t different = tick ^ tick_;
    const unsigned level = different == 0 ? 0 : static_cast<unsigned>(std::bit_width(different) - 1) / level_bits;
    const auto digit = static_cast<unsigned>((tick >> (level * level_bits)) % slots);
    objects_[index].*slot = static_cast<std::uint16_t>(level * slots + digit);
    List::push_back(objects_, lists_[level * slots + digit], index);
    used_[level] |= std::uint64_t{1} << digit;
  }

  // What is in due_ keeps the slot that it came from, which may have new tenants: a list is only touched at its ends,
  // so these tell which of the two it is.
  void remove(std::uint32_t index) {
    const std::uint16_t from = objects_[index].*slot;
    IndexList& list = due_.head == index || due_.tail == index ? due_ : lists_[from];
    List::remove(objects_, list, index);
    if (lists_[from].empty()) used_[from / slots] &= ~(std::uint64_t{1} << (from % slots));
    objects_[index].*slot = not_armed;
  }

  [[nodiscard]] unsigned first_used(unsigned level) const {
    return static_cast<unsigned>(std::countr_zero(used_[level]));
  }
  // First tick of a slot; used slots are never behind tick_ within their level.
  [[nodiscard]] std::uint64_t start_of(unsigned level, unsigned digit) const {
    const unsigned shift = level * level_bits;
    return ((tick_ >> shift >> level_bits << level_bits) | digit) << shift;
  }

  // Moves on to `end`, but not over a used slot: that one becomes due_. False when there is none before `end`.
  [[nodiscard]] bool collect(std::uint64_t end) {
    for (unsigned level = 0; level < levels; ++level) {
      if (used_[level] == 0) continue;  // what lies in a higher level comes later
      const unsigned digit = first_used(level);
      const std::uint64_t start = start_of(level, digit);
      if (level == 0 ? start >= end : start > end) break;
      tick_ = std::max(tick_, start);
      IndexList& list = lists_[level * slots + digit];
      due_ = list;
      list = {};
      used_[level] &= ~(std::uint64_t{1} << digit);
      return true;
    }
    tick_ = std::max(tick_, end);
    return false;
  }

  Slab<Object>& objects_;
  std::array<IndexList, levels * slots> lists_{};
  std::array<std::uint64_t, levels> used_{};  // bit: the slot's list is not empty
  IndexList due_;                             // collected from a slot: due, or to be put in again further down
  std::uint64_t tick_ = 0;                    // all before it have been handed out
  std::size_t armed_ = 0;
};

}  // namespace postern::queue
