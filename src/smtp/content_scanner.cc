// Bytes are taken 64 at a time as bit masks (where is a CR, an LF, a dot); what a mask cannot decide alone (a dot line
// that may be the terminator, a field name across the end of the piece) and the rest of a piece go byte by byte through
// step(), which alone defines what every byte means.
#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include <postern/base/check.h>
#include <postern/base/planted.h>
#include <postern/smtp/content_scanner.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "src/smtp/content_scanner.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace postern::smtp {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using State = ContentScanner::State;

// Vectors of at most 64 bytes: one, two or four make a block.
using Tag = hn::CappedTag<std::uint8_t, 64>;
constexpr std::size_t block_bytes = 64;

HWY_INLINE std::uint64_t bits_of(Tag tag, hn::Mask<Tag> mask) {
  constexpr std::size_t lanes_max = hn::MaxLanes(Tag());
  using Word = std::conditional_t<(lanes_max > 32), std::uint64_t,
                                  std::conditional_t<(lanes_max > 16), std::uint32_t,
                                                     std::conditional_t<(lanes_max > 8), std::uint16_t, std::uint8_t>>>;
  Word word = 0;
  std::uint8_t bytes[sizeof(Word)] = {};
  (void)hn::StoreMaskBits(tag, mask, bytes);
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

struct BlockMasks {
  std::uint64_t cr = 0;
  std::uint64_t lf = 0;
  std::uint64_t dot = 0;
};

HWY_INLINE BlockMasks masks_of(const std::uint8_t* block) {
  const Tag tag;
  const std::size_t lanes = hn::Lanes(tag);
  const auto cr = hn::Set(tag, '\r');
  const auto lf = hn::Set(tag, '\n');
  const auto dot = hn::Set(tag, '.');
  BlockMasks masks;
  HWY_UNROLL(4)
  for (std::size_t at = 0; at < block_bytes; at += lanes) {
    const auto bytes = hn::LoadU(tag, block + at);
    masks.cr |= bits_of(tag, hn::Eq(bytes, cr)) << at;
    masks.lf |= bits_of(tag, hn::Eq(bytes, lf)) << at;
    masks.dot |= bits_of(tag, hn::Eq(bytes, dot)) << at;
  }
  return masks;
}

// The scanner over one piece. Positions are indices into the piece.
class PieceScan {
 public:
  PieceScan(const std::uint8_t* piece, std::size_t size, State& state, mail::ContentFacts& facts)
      : piece_(piece),
        size_(size),
        stuffed_(facts.form == mail::ContentForm::dot_stuffed),
        base_(facts.size + state.held),
        state_(state),
        facts_(facts) {}

  // Returns how many bytes were consumed; fewer than all, or done(), when the terminator ends there.
  std::size_t run() {
    while (at_ < size_) {
      if (state_.held == 0 && (!state_.received_possible || state_.line_bytes == 0)) {
        if (state_.in_header) scan_blocks<true>();
        if (!state_.in_header) scan_blocks<false>();
      }
      // The block that is not for masks, or the rest.
      const std::size_t stop = std::min(size_, at_ + block_bytes);
      while (at_ < stop) {
        step(piece_[at_]);
        ++at_;
        if (done_) return at_;
      }
    }
    return at_;
  }

  [[nodiscard]] bool done() const { return done_; }

 private:
  HWY_INLINE void step(std::uint8_t byte) {
    if (state_.held != 0) {
      if (state_.held == 1 && byte == '\r') {
        state_.held = 2;
      } else if (state_.held == 2 && byte == '\n') {
        done_ = true;
        return;
      } else {
        state_.held = 0;
        facts_.line_starts_with_dot = true;
      }
    } else if (byte == '.' && state_.line_bytes == 0) {
      if (stuffed_) {
        state_.held = 1;
      } else {
        facts_.line_starts_with_dot = true;
      }
    }

    if (byte == '\n') {
      if (state_.previous_cr) {
        end_line(state_.line_bytes - 1, at_ - 1);
        return;
      }
      facts_.has_bare_lf = true;
    } else if (state_.previous_cr) {
      facts_.has_bare_cr = true;
    }
    state_.previous_cr = byte == '\r';
    if (byte >= 0x80) facts_.has_eight_bit = true;
    if (byte == 0) facts_.has_nul = true;
    if (state_.received_possible) match_received(byte);
    ++state_.line_bytes;
  }

  // `line_end` is the position of the CR; it wraps when that came with an earlier piece.
  HWY_INLINE void end_line(std::uint64_t length, std::size_t line_end) {
    facts_.longest_line = std::max(facts_.longest_line, length);
    if (length == 0 && state_.in_header) {
      state_.in_header = false;
      facts_.header_bytes = base_ + line_end;
    }
    state_.line_bytes = 0;
    state_.previous_cr = false;
    state_.received_possible = state_.in_header;
  }

  // WSP between a field's name and its colon is obsolete and still read [RFC 5322 §4.5].
  HWY_INLINE void match_received(std::uint8_t byte) {
    constexpr std::string_view name = "received";
    if (state_.line_bytes < name.size()) {
      state_.received_possible = (byte | 0x20) == static_cast<std::uint8_t>(name[state_.line_bytes]);
    } else if (byte == ':') {
      ++facts_.received_count;
      state_.received_possible = false;
    } else {
      state_.received_possible = byte == ' ' || byte == '\t';
    }
  }

  // Takes whole blocks until fewer are left, the header ends, or a block is not for masks.
  template <bool in_header>
  void scan_blocks() {
    const Tag tag;
    const std::size_t lanes = hn::Lanes(tag);
    auto any = hn::Zero(tag);
    auto least = hn::Set(tag, 0xff);
    std::uint64_t bare_cr = 0;
    std::uint64_t bare_lf = 0;
    bool dot_lines = false;
    std::uint64_t carry_cr = state_.previous_cr ? 1 : 0;
    std::uint64_t carry_start = state_.line_bytes == 0 ? 1 : 0;
    // Positions relative to the piece; the line may have begun before it.
    std::uint64_t line_start = at_ - state_.line_bytes;
    std::uint64_t longest = facts_.longest_line;
    std::size_t at = at_;
    bool header_ended = false;

    while (size_ - at >= block_bytes && !header_ended) {
      const std::uint8_t* block = piece_ + at;
      const BlockMasks masks = masks_of(block);
      const std::uint64_t behind_cr = masks.cr << 1 | carry_cr;
      const std::uint64_t line_ends = masks.lf & behind_cr;  // at the LF
      const std::uint64_t line_starts = line_ends << 1 | carry_start;
      const std::uint64_t dot_starts = masks.dot & line_starts;
      if (dot_starts != 0) [[unlikely]] {
        if (stuffed_ && may_hold_terminator(at, dot_starts)) break;
        dot_lines = true;
      }

      if constexpr (in_header) {
        std::uint64_t header_starts = line_starts;
        std::uint64_t start = line_start;
        std::uint64_t longest_here = longest;
        std::uint64_t header_bytes = 0;
        for (std::uint64_t ends = line_ends; ends != 0; ends &= ends - 1) {
          const auto bit = static_cast<unsigned>(std::countr_zero(ends));
          const std::uint64_t length = at + bit - 1 - start;
          if (length == 0 && !header_ended) {
            header_ended = true;
            header_bytes = base_ + start;
            header_starts &= (std::uint64_t{1} << bit) - 1;
          }
          longest_here = std::max(longest_here, length);
          start = at + bit + 1;
        }
        std::uint32_t received = 0;
        if (!count_received(at, header_starts, received)) {
          header_ended = false;
          break;
        }
        facts_.received_count += received;
        if (header_ended) {
          state_.in_header = false;
          facts_.header_bytes = header_bytes;
        }
        longest = longest_here;
        line_start = start;
      } else {
        // Text has about one line end per block, and where it lies nobody can predict: no branch may hang on it.
        // Without a line end `first` is 64, and the length is what the line has at least.
        const auto first = static_cast<unsigned>(std::countr_zero(line_ends));
        longest = std::max<std::uint64_t>(longest, at + first - 1 - line_start);
        const std::uint64_t found = std::uint64_t{0} - static_cast<std::uint64_t>(line_ends != 0);  // all bits or none
        line_start ^= (line_start ^ (at + first + 1)) & found;
        for (std::uint64_t ends = line_ends & (line_ends - 1); ends != 0; ends &= ends - 1) {
          const auto bit = static_cast<unsigned>(std::countr_zero(ends));
          longest = std::max<std::uint64_t>(longest, at + bit - 1 - line_start);
          line_start = at + bit + 1;
        }
      }

      if (masks.lf != behind_cr) [[unlikely]] {
        bare_lf |= masks.lf & ~behind_cr;
        bare_cr |= behind_cr & ~masks.lf;
      }
      carry_cr = masks.cr >> 63;
      carry_start = line_ends >> 63;
      HWY_UNROLL(4)
      for (std::size_t part = 0; part < block_bytes; part += lanes) {
        const auto bytes = hn::LoadU(tag, block + part);
        any = hn::Or(any, bytes);
        least = hn::Min(least, bytes);
      }
      at += block_bytes;
    }

    at_ = at;
    state_.previous_cr = carry_cr != 0;
    state_.line_bytes = at - line_start;
    state_.received_possible = state_.in_header && state_.line_bytes == 0;
    facts_.longest_line = longest;
    facts_.has_bare_lf |= bare_lf != 0;
    facts_.has_bare_cr |= bare_cr != 0;
    facts_.line_starts_with_dot |= dot_lines;
    facts_.has_eight_bit |= !hn::AllFalse(tag, hn::TestBit(any, hn::Set(tag, 0x80)));
    facts_.has_nul |= !hn::AllFalse(tag, hn::Eq(least, hn::Zero(tag)));
  }

  // Some dot line of the block at `at` is followed by CR, or by the end of the piece.
  HWY_INLINE bool may_hold_terminator(std::size_t at, std::uint64_t dot_starts) const {
    for (; dot_starts != 0; dot_starts &= dot_starts - 1) {
      const std::size_t next = at + static_cast<unsigned>(std::countr_zero(dot_starts)) + 1;
      if (next == size_ || piece_[next] == '\r') return true;
    }
    return false;
  }

  // Counts the lines at `starts` that begin with "Received:". False when one cannot be decided here: it goes on behind
  // the piece, or has WSP before its colon.
  HWY_INLINE bool count_received(std::size_t at, std::uint64_t starts, std::uint32_t& count) const {
    constexpr std::string_view name = "received";
    for (; starts != 0; starts &= starts - 1) {
      const std::uint8_t* line = piece_ + at + static_cast<unsigned>(std::countr_zero(starts));
      if ((*line | 0x20) != 'r') continue;
      const auto left = static_cast<std::size_t>(piece_ + size_ - line);
      if (left <= name.size()) return false;
      std::size_t same = 1;
      while (same < name.size() && (line[same] | 0x20) == static_cast<std::uint8_t>(name[same])) ++same;
      if (same < name.size()) continue;
      if (line[same] == ':') {
        ++count;
      } else if (line[same] == ' ' || line[same] == '\t') {
        return false;
      }
    }
    return true;
  }

  const std::uint8_t* piece_;
  std::size_t size_;
  bool stuffed_;
  bool done_ = false;
  std::size_t at_ = 0;
  std::uint64_t base_;  // position of the piece in the content
  State& state_;
  mail::ContentFacts& facts_;
};

// Returns the bytes consumed; `done` says that the terminator ends there.
std::size_t scan_piece(const std::uint8_t* piece, std::size_t size, State& state, mail::ContentFacts& facts,
                       bool& done) {
  // Copies, so that the compiler may keep them in registers.
  State state_here = state;
  if (POSTERN_PLANTED(dot_at_chunk_border)) state_here.line_bytes = 0;
  mail::ContentFacts facts_here = facts;
  PieceScan scan(piece, size, state_here, facts_here);
  const std::size_t consumed = scan.run();
  done = scan.done();
  state = state_here;
  facts = facts_here;
  return consumed;
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace postern::smtp
HWY_AFTER_NAMESPACE();

#if HWY_ONCE

namespace postern::smtp {
namespace {

HWY_EXPORT(scan_piece);

constexpr std::string_view terminator = ".\r\n";

}  // namespace

void ContentScanner::reset(mail::ContentForm form) {
  facts_ = {};
  facts_.form = form;
  facts_.ends_with_crlf = true;
  state_ = {};
  done_ = false;
}

ContentScanner::Piece ContentScanner::scan(Bytes piece) {
  POSTERN_CHECK(!done_, "scan() behind the end of the content");
  const std::size_t held_before = state_.held;
  Piece result;
  if (piece.empty()) return result;
  result.consumed = HWY_DYNAMIC_DISPATCH(scan_piece)(reinterpret_cast<const std::uint8_t*>(piece.data()), piece.size(),
                                                     state_, facts_, done_);
  // The last bytes are not content (the terminator) or not yet (held back); they may have begun before this piece.
  const std::size_t withheld = done_ ? terminator.size() : state_.held;
  if (withheld <= result.consumed) {
    result.held = terminator.substr(0, held_before);
    result.content = result.consumed - withheld;
  }
  facts_.size += result.held.size() + result.content;
  if (!done_ && state_.held == 0) {
    const std::uint64_t unfinished = state_.line_bytes - (state_.previous_cr ? 1 : 0);
    facts_.longest_line = std::max(facts_.longest_line, unfinished);
    facts_.ends_with_crlf = state_.line_bytes == 0;
  } else {
    // What is withheld stands at the start of a line.
    facts_.ends_with_crlf = true;
  }
  if (state_.in_header) facts_.header_bytes = facts_.size;
  return result;
}

void ContentScanner::finish() {
  POSTERN_CHECK(facts_.form != mail::ContentForm::dot_stuffed, "only the terminator ends DATA");
  POSTERN_CHECK(!done_, "finish() twice");
  done_ = true;
  if (state_.previous_cr) {
    facts_.has_bare_cr = true;
    facts_.longest_line = std::max(facts_.longest_line, state_.line_bytes);
  }
}

}  // namespace postern::smtp

#endif  // HWY_ONCE
