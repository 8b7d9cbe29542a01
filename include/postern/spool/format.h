// The bytes of a segment file: constants and structures of src/spool/FORMAT.md, and nothing that acts on them.
//
// Everything is little endian and every structure is copied in and out with memcpy: nothing here is overlaid on a
// buffer. A checksum always comes first in its structure and covers what follows, so that one pass over contiguous
// bytes makes and checks it.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace postern::spool {

static_assert(std::endian::native == std::endian::little, "the format is little endian and copied as it is");

inline constexpr std::uint32_t format_version = 1;

// Offsets, lengths and memory of every write are multiples of it (what O_DIRECT asks of 4 KiB-sector disks).
inline constexpr std::size_t block_bytes = 4096;
// Records start at multiples of it: what a 24-bit offset of mail::Location counts.
inline constexpr std::size_t record_alignment = 64;
inline constexpr std::uint64_t segment_bytes_limit = std::uint64_t{record_alignment} << 24;
static_assert(segment_bytes_limit == 1u << 30);
// Two copies of the segment header, one block each; batches begin behind them.
inline constexpr std::uint64_t batches_offset = 2 * block_bytes;
inline constexpr std::size_t batch_bytes_limit = 4u << 20;  // a reader's window; a writer's batch is at most this
inline constexpr std::uint64_t sequence_limit = std::uint64_t{1} << 40;

using SegmentKey = std::array<std::byte, 16>;

// At the start of blocks 0 and 1 of a segment file. Checksum under the fixed format secret: it is read before any key
// is known, and nothing a peer sends ever lands in these blocks.
struct SegmentHeader {
  std::uint64_t checksum = 0;  // of the 120 bytes behind it
  std::array<char, 8> magic{'P', 'O', 'S', 'T', 'E', 'R', 'N', 'S'};
  std::uint32_t version = format_version;
  std::uint32_t log = 0;       // 12 bits
  std::uint32_t slot = 0;      // the number in the file's name
  std::uint32_t start = 0;     // the log's start counter when this segment was begun (20 bits)
  std::uint64_t sequence = 0;  // 1…2^40−1, never used twice in a log
  std::uint64_t previous = 0;  // sequence of the segment before; 0: none
  std::uint64_t oldest = 0;    // segments with a smaller sequence are dead
  std::uint64_t segment_bytes = 0;
  std::uint64_t previous_end = 0;  // where the batches of the segment before end
  SegmentKey key{};                // secret; fresh for each use of the file
  std::array<std::uint8_t, 40> reserved{};
};
static_assert(sizeof(SegmentHeader) == 128 && sizeof(SegmentHeader) <= 512, "within one sector, so it is not torn");

// At the start of a batch, which starts on a block and fills whole blocks.
struct BatchHeader {
  std::uint64_t checksum = 0;  // keyed: of the 56 bytes behind it, followed by the checksums of the records, in order
  std::uint64_t chain = 0;     // checksum of the batch before; of the segment header for the first
  std::uint64_t oldest = 0;    // as in SegmentHeader, as of this batch
  std::uint64_t sequence = 0;  // of the segment
  std::uint32_t magic = 0x31544142;  // "BAT1"
  std::uint32_t number = 0;          // 0, 1, 2… within the segment
  std::uint32_t bytes = 0;           // of the batch with this header and its padding; a multiple of block_bytes
  std::uint32_t used = 0;            // of the batch with this header, up to the end of the last record's padding
  std::uint32_t records = 0;
  std::uint32_t offset_blocks = 0;  // where the batch stands in the segment, in blocks
  std::uint64_t reserved = 0;
};
static_assert(sizeof(BatchHeader) == 64);

enum class RecordKind : std::uint8_t {
  message = 1,      // an accepted message
  chunk = 2,        // a piece of content, appended before its message
  settled = 3,      // a recipient that needs no more deliveries
  retry_state = 4,  // a recipient that waits: the queue's words on it
};

struct RecordHeader {
  static constexpr std::uint8_t ignorable =
      1;  // a reader that does not know the kind skips it; without: refuses to start

  std::uint64_t checksum = 0;        // keyed: of the 56 bytes behind it and the `meta_bytes` that follow
  std::uint32_t magic = 0x31434552;  // "REC1"
  RecordKind kind = RecordKind::message;
  std::uint8_t flags = 0;
  std::uint16_t recipient = 0;  // settled, retry_state: index. message: how many there are
  std::uint32_t bytes = 0;      // this header, meta, content; without the padding to record_alignment
  std::uint32_t meta_bytes = 0;
  std::uint64_t position = 0;  // of this record: sequence << 24 | offset / record_alignment
  std::uint64_t queue_id = 0;  // chunk: number of the content, unique within (log, start)
  std::uint64_t subject = 0;   // settled, retry_state: position of the message. message: position of the record that
                               // this one replaces, or 0. chunk: index of the chunk in its content
  std::uint64_t content_checksum = 0;  // keyed: of the content behind meta; 0 when there is none
  std::uint8_t outcome = 0;            // settled: mail::Outcome
  std::array<std::uint8_t, 7> reserved{};
};
static_assert(sizeof(RecordHeader) == 64);
static_assert(sizeof(RecordHeader) == record_alignment);

// Where a chunk of content lies.
struct Extent {
  std::uint64_t position = 0;  // of its record, as mail::Location::position
  std::uint32_t bytes = 0;     // of content in it, 1…chunk_bytes_limit
  std::uint32_t reserved = 0;
};
static_assert(sizeof(Extent) == 16);

// Meta of a message record: this, then extent_count Extents, then settled_bytes of bitmap (bit i, from the least
// significant of byte 0: recipient i is settled), then the envelope, then the added fields.
struct MessageMeta {
  static constexpr std::uint8_t line_starts_with_dot = 1, has_bare_cr = 2, has_bare_lf = 4, has_nul = 8,
                                has_eight_bit = 16, ends_with_crlf = 32;
  std::uint8_t content_form = 0;  // mail::ContentForm
  std::uint8_t content_flags = 0;
  std::uint16_t reserved = 0;
  std::uint32_t received_count = 0;
  std::uint64_t longest_line = 0;
  std::uint64_t header_bytes = 0;
  std::uint64_t content_size = 0;  // = extents' bytes + the record's content
  std::uint32_t extent_count = 0;
  std::uint32_t settled_bytes = 0;  // 0, or ⌈recipients / 8⌉
  std::uint32_t envelope_bytes = 0;
  std::uint32_t added_fields_bytes = 0;
};
static_assert(sizeof(MessageMeta) == 48);

// The last block of a sealed segment ends with this footer; the summary's entries stand directly before that block.
// Written as one write that ends at the segment's end.
struct SummaryFooter {
  std::uint64_t checksum = 0;          // keyed: of the 56 bytes behind it
  std::uint64_t entries_checksum = 0;  // keyed: of the entries
  std::uint64_t sequence = 0;
  std::uint64_t oldest = 0;          // as in SegmentHeader, when sealed
  std::uint64_t end = 0;             // batches end here; what lies between is no part of the log
  std::uint32_t magic = 0x314D5553;  // "SUM1"
  std::uint32_t entries_bytes = 0;   // they start at segment_bytes − block_bytes − ⌈entries_bytes⌉ to blocks
  std::uint32_t entries = 0;
  std::uint32_t flags = 0;
  std::array<std::uint32_t, 2> reserved{};

  static constexpr std::uint32_t set_aside = 1;  // holds what could not be read: never recycled
};
static_assert(sizeof(SummaryFooter) == 64);

enum class SummaryKind : std::uint8_t {
  message = 1,      // a message of this segment that lives; `extra_bytes` of ChunkUse and bitmap follow
  settled = 2,      // a settlement in this segment for a message of an older one
  gone = 3,         // a message of an older segment that a message of this one replaces
  retry_state = 4,  // the latest state of a recipient that lies in this segment
};

struct SummaryEntry {
  SummaryKind kind = SummaryKind::message;
  std::uint8_t reserved = 0;
  std::uint16_t recipient = 0;  // message: how many there are; else the index
  std::uint32_t bytes = 0;      // message, retry_state: of the record
  std::uint64_t queue_id = 0;
  std::uint64_t position = 0;  // message, retry_state: of the record; settled, gone: of the message
  // message: how many ChunkUse follow. retry_state: the position of the message, its lower half.
  std::uint32_t chunk_uses = 0;
  // message: bytes of bitmap, behind those, padded to 8. retry_state: the upper half.
  std::uint32_t settled_bytes = 0;

  // retry_state
  [[nodiscard]] constexpr std::uint64_t message() const { return std::uint64_t{settled_bytes} << 32 | chunk_uses; }
  constexpr void set_message(std::uint64_t at) {
    chunk_uses = static_cast<std::uint32_t>(at);
    settled_bytes = static_cast<std::uint32_t>(at >> 32);
  }
};
static_assert(sizeof(SummaryEntry) == 32);

// How much of a message's content lies as chunks in one segment.
struct ChunkUse {
  std::uint64_t sequence = 0;
  std::uint32_t chunks = 0;
  std::uint32_t bytes = 0;
};
static_assert(sizeof(ChunkUse) == 16);

inline constexpr std::size_t opaque_bytes_limit = 512;  // of a retry state and of a settlement
inline constexpr std::size_t chunk_bytes_limit = 256u << 10;
inline constexpr std::size_t recipients_limit = 65'535;

[[nodiscard]] constexpr std::uint64_t make_position(std::uint64_t sequence, std::uint64_t offset) {
  return (sequence << 24) | (offset / record_alignment);
}
[[nodiscard]] constexpr std::uint64_t sequence_of(std::uint64_t position) {
  return position >> 24;
}
[[nodiscard]] constexpr std::uint64_t offset_of(std::uint64_t position) {
  return (position & 0xFFFFFF) * record_alignment;
}
[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t bytes, std::uint64_t to) {
  return (bytes + to - 1) / to * to;
}
[[nodiscard]] constexpr std::uint64_t round_down(std::uint64_t bytes, std::uint64_t to) {
  return bytes / to * to;
}

}  // namespace postern::spool
