// The spool's values: options, what goes into a record, what is asked of the driver.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/base/strong_id.h>
#include <postern/base/time.h>
#include <postern/mail/content.h>
#include <postern/mail/location.h>
#include <postern/mail/queue_id.h>
#include <postern/spool/format.h>

namespace postern::spool {

struct Options {
  std::uint64_t segment_bytes = 64u << 20;  // a multiple of block_bytes, 4 × batch_bytes_max … segment_bytes_limit
  std::size_t batch_bytes_max = 1u << 20;   // a multiple of block_bytes, 16 KiB … batch_bytes_limit
  std::size_t batches_max = 8;              // in memory per log: the one in flight and those behind it; at least 3
  // Content up to this goes into the message's record; more is streamed by append_chunk(). A record with envelope,
  // added fields and content must fit one batch.
  std::size_t inline_content_max = 256u << 10;
  std::uint32_t reserved_segments = 2;      // kept from newcomers, for settlements, DSNs and compaction
  std::uint32_t spare_segments = 1;         // prepared ahead of need, above the reserve
  std::uint64_t space_limit_bytes = 0;      // of all this log's files; 0: none
  std::uint64_t min_free_bytes = 1u << 30;  // free space of the file system below which newcomers are refused
  Duration settle_delay = std::chrono::milliseconds(10);  // settlements and states alone may wait this long
  Duration hold_max = std::chrono::microseconds(700);     // mail waits this long for more that is known to come
  // Compaction starts when this share (percent) of the bytes of all used segments is garbage: so they hold at most half
  // as much again as what lives. Under pressure of space a quarter of it suffices. It never moves more than three bytes
  // for one that died (under pressure: eight).
  std::uint32_t garbage_percent = 33;
  std::uint32_t compaction_segments_min = 4;  // never below this many used segments

  // kInvalidArgument names the field that is out of bounds.
  [[nodiscard]] Status check() const;
};

// The caller's name for what it waits for; comes back from take_durable(). 0: nothing is waited for.
struct Ticket {
  std::uint64_t value = 0;
  friend constexpr auto operator<=>(Ticket, Ticket) = default;
};

// The number in a file's name. A file keeps it for life; the segment in it changes.
using Slot = StrongId<struct SlotTag, std::uint32_t>;
// Content that is streamed into the log before its message is complete. 0: none.
using ContentId = StrongId<struct ContentIdTag, std::uint64_t>;

// Who wants room: newcomers leave the reserve to those that end a message's life (settlements, DSNs).
enum class Use : std::uint8_t { intake, internal };

struct MessageRecord {
  mail::QueueId id;
  Bytes envelope;                  // opaque
  Bytes added_fields;              // opaque
  std::span<const Bytes> content;  // in order; with `streamed`: what follows the chunks. At most inline_content_max.
  ContentId streamed;              // begin_content()'s; ends with this call when it succeeds
  mail::ContentFacts facts;        // facts.size must be the sum of chunks and content
  std::uint16_t recipients = 1;    // at least 1
  Use use = Use::intake;
};

// Extents as they stand in a record.
class ExtentList {
 public:
  ExtentList() = default;
  explicit ExtentList(Bytes bytes) : bytes_(bytes) {}
  [[nodiscard]] std::size_t size() const { return bytes_.size() / sizeof(Extent); }
  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  [[nodiscard]] Extent operator[](std::size_t index) const;

 private:
  Bytes bytes_;
};

// A message's record, checked; views into the bytes it was decoded from. Content = chunks of `extents`, then `content`.
struct MessageView {
  mail::QueueId id;
  std::uint16_t recipients = 0;
  Bytes envelope;
  Bytes added_fields;
  mail::ContentFacts facts;
  ExtentList extents;
  Bytes content;
  Bytes settled;  // bitmap of recipients that were settled when this record was written; empty: none
};

// --- what the driver is asked to do ---------------------------------------------------------------------------------

// One durable write; one is in flight per log. `data` stays valid and unchanged until on_written().
struct WriteIntent {
  Slot slot;
  std::uint64_t offset = 0;  // offset, size and address of data are multiples of block_bytes
  Bytes data;
};

// A range of a segment file, aligned to blocks, and where in it the record begins.
struct ReadRange {
  Slot slot;
  std::uint64_t offset = 0;
  std::uint32_t bytes = 0;
  std::uint32_t lead = 0;  // bytes before the record
};

// A read into memory of the spool's own. `target` stays valid until the on_*read() that answers it.
struct ReadIntent {
  Slot slot;
  std::uint64_t offset = 0;
  MutableBytes target;
};

struct SlotRequest {
  enum class Kind : std::uint8_t {
    // Make the file anew, whatever lies there: mkdir the log's directory, open(O_CREAT|O_TRUNC), allocate and write
    // zeros over `bytes` of it, fsync it, fsync the directory (and its parent, when the directory is new); then open it
    // for the log. After success every write and read of this slot must work.
    create,
    // Close and unlink the file. Nothing refers to it any more.
    remove,
    // Close and rename the file to `new_path`, fsync the directory: it holds what could not be read, for people.
    set_aside,
  };
  Kind kind = Kind::create;
  Slot slot;
  std::string path;      // relative to data_dir
  std::string new_path;  // set_aside: the same
  std::uint64_t bytes = 0;
};

// "logs/00a", relative to data_dir.
[[nodiscard]] std::string log_directory(std::uint16_t log);
// "logs/00a/0000002a.seg".
[[nodiscard]] std::string slot_path(std::uint16_t log, Slot slot);
// "logs/00a/damaged-17.seg": what was segment 17, set aside.
[[nodiscard]] std::string damaged_path(std::uint16_t log, std::uint64_t sequence);
[[nodiscard]] bool is_damaged_name(std::string_view name);
// The slot of a file name that slot_path() made ("0000002a.seg"); nullopt: not one of ours.
[[nodiscard]] std::optional<Slot> parse_slot_name(std::string_view name);
// The log of a directory name that log_directory() made ("00a"); nullopt: not one of ours.
[[nodiscard]] std::optional<std::uint16_t> parse_log_name(std::string_view name);

}  // namespace postern::spool
