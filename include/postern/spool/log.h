// The writer of one log, without I/O: takes records, makes them into batches (group commit), emits one durable write at
// a time, prepares, seals and recycles segments, and tells what became durable. One per log, used by one thread.
//
// The driver (src/shard) does this:
//   * before the first append, and whenever wants_key(): add_key() with 16 bytes from the kernel's random source;
//   * after every turn: while (auto r = take_slot_request()) carry it out, then on_slot_done();
//     if (auto w = take_write(now, more_is_coming)) durable_write() it to the slot's file, then on_written();
//     after on_written(): take_durable(), take_moved(), and take_undone() once failed();
//   * calls take_write() again when next_deadline() has passed;
//   * serves take_compaction_read() when the disk has time, at most one at a time;
//   * tells on_space() what is free, and on_folder() whether the files stand where they should, every second or so.
//
// Order is the log's promise: batches reach the disk in the order of the appends, one write at a time, so that whatever
// is durable, everything appended before it is too. A chunk is durable before the message that lists it.
//
// No allocation per message in steady state but the growth of the index's vectors (28 bytes per message, amortized) and
// what is said there for large and partly settled messages. Batch buffers are reused: batches_max × batch_bytes_max.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/base/time.h>
#include <postern/mail/location.h>
#include <postern/mail/outcome.h>
#include <postern/mail/queue_id.h>
#include <postern/spool/aligned_buffer.h>
#include <postern/spool/index.h>
#include <postern/spool/recovery.h>
#include <postern/spool/types.h>

namespace postern::spool {

class Compactor;
class Replay;

// Why newcomers are refused, when they are.
enum class Intake : std::uint8_t {
  open,
  starting,   // the first segment of this start is not durable yet: wait
  space_low,  // only the reserve is left, or the file system is nearly full: 452 4.3.1
  failed,     // a write failed: 451 4.3.0, then exit 74
};

// A message that compaction rewrote: it lives at `to` now, durably. `from` stays readable until the notice is taken and
// its pins are gone, and calls that still name `from` mean `to`.
struct Moved {
  mail::QueueId id;
  mail::Location from;
  mail::Location to;
};

class Log {
 public:
  struct Figures {
    std::uint64_t batches = 0;        // durable
    std::uint64_t bytes_written = 0;  // with headers, padding and summaries
    std::uint64_t messages = 0;       // appended, without rewritten ones
    std::uint64_t messages_moved = 0;
    std::uint64_t messages_unreadable = 0;  // met by compaction: an alarm each
    std::uint64_t segments_sealed = 0;
    std::uint64_t segments_recycled = 0;
  };

  // `recovered` from Recovery::take_result(), with the same options (which must pass check()).
  Log(const Options& options, Recovered recovered);
  ~Log();
  Log(const Log&) = delete;
  Log& operator=(const Log&) = delete;

  [[nodiscard]] std::uint16_t log() const { return log_; }
  [[nodiscard]] std::uint32_t start() const { return start_; }

  // --- may I append? -----------------------------------------------------------------------------------------------
  [[nodiscard]] Intake intake() const;
  [[nodiscard]] bool intake_open() const { return intake() == Intake::open; }
  // Whether records of `bytes` in all (see message_bytes() and so on) can be appended now. False: wait for the write in
  // flight (every on_written() is a reason to ask again), or for space. Intake leaves one batch to internal use.
  [[nodiscard]] bool has_room(std::size_t bytes, Use use) const;
  // A write failed; final. Every append answers kUnavailable from then on, no write is emitted.
  [[nodiscard]] bool failed() const { return !failure_.ok(); }
  [[nodiscard]] const Status& failure() const { return failure_; }

  // --- appends -----------------------------------------------------------------------------------------------------
  // All answer kResourceExhausted when has_room() is false (nothing was appended; try again later), kUnavailable when
  // failed() or starting, kInvalidArgument when a bound is broken. What they are given is copied before they return.
  // `ticket` comes back from take_durable() when the record is durable.

  // The next name; only when intake() is not starting. Never given twice, over all starts of this log.
  [[nodiscard]] mail::QueueId next_queue_id();

  [[nodiscard]] StatusOr<mail::Location> append_message(const MessageRecord& record, Ticket ticket);
  // The recipient needs no further delivery; outcome is relayed or failed. kNotFound: no such message lives here;
  // kFailedPrecondition: settled already. When the last recipient is settled the message is dead.
  [[nodiscard]] Status append_settlement(mail::Location location, mail::QueueId id, std::uint16_t recipient,
                                         mail::Outcome outcome, Bytes opaque, Ticket ticket = {});
  // The recipient's latest state; replaces the one before. `opaque` at most opaque_bytes_limit. Errors as above.
  [[nodiscard]] Status append_retry_state(mail::Location location, mail::QueueId id, std::uint16_t recipient,
                                          Bytes opaque, Ticket ticket = {});

  // What is appended between the two becomes durable together or not at all: a failure's settlements and its DSN.
  // `bytes`: at least the sum of message_bytes(), settlement_bytes()… of what will be appended, at most
  // group_bytes_max(); appends of a group that stays within it succeed (but for broken bounds and unknown messages).
  // A DSN too large for it streams its content first. No take_write() in between.
  [[nodiscard]] Status begin_group(std::size_t bytes, Use use);
  void end_group();
  [[nodiscard]] std::size_t group_bytes_max() const;
  [[nodiscard]] static std::size_t message_bytes(std::size_t envelope_bytes, std::size_t added_fields_bytes,
                                                 std::size_t content_bytes, std::size_t extents = 0);
  [[nodiscard]] static std::size_t settlement_bytes(std::size_t opaque_bytes);
  [[nodiscard]] static std::size_t retry_state_bytes(std::size_t opaque_bytes) {
    return settlement_bytes(opaque_bytes);
  }
  [[nodiscard]] static std::size_t chunk_record_bytes(std::size_t content_bytes) {
    return settlement_bytes(content_bytes);
  }

  // --- large content, while it arrives -----------------------------------------------------------------------------
  [[nodiscard]] ContentId begin_content();
  // Appends the next piece, 1…chunk_bytes_max() bytes (large pieces: less overhead). Once it returns OK the caller's
  // memory is free.
  [[nodiscard]] Status append_chunk(ContentId content, Bytes bytes, Use use = Use::intake);
  [[nodiscard]] std::size_t chunk_bytes_max() const;
  [[nodiscard]] std::uint64_t content_bytes(ContentId content) const;
  [[nodiscard]] std::size_t extent_count(ContentId content) const;
  // The connection died: reclamation takes the chunks back. Unknown ids are ignored.
  void abandon_content(ContentId content);

  // --- writes ------------------------------------------------------------------------------------------------------
  // The next write, when none is in flight and there is one that should not wait. `more_is_coming`: completions are
  // still runnable, so mail may be held for hold_max. Everything that is due goes at once after stop_waiting().
  [[nodiscard]] std::optional<WriteIntent> take_write(Instant now, bool more_is_coming = false);
  // The end of the write in flight. Anything but OK is final.
  void on_written(const Status& status, Instant now);
  // When take_write() may have something that it withheld; `never`: not before an append or on_written().
  [[nodiscard]] Instant next_deadline() const;
  // From now on nothing is held back: for an orderly stop. idle(): all is written.
  void stop_waiting() { hold_nothing_ = true; }
  [[nodiscard]] bool idle() const { return !in_flight_ && writes_.empty(); }
  // Tickets that became durable since the last call, in order of their appends. Valid until the next
  // take_durable() or take_undone().
  [[nodiscard]] std::span<const Ticket> take_durable();
  // After failed(): the tickets that never will be. Valid as above.
  [[nodiscard]] std::span<const Ticket> take_undone();

  // --- segments ----------------------------------------------------------------------------------------------------
  // One at a time; the next comes after on_slot_done().
  [[nodiscard]] std::optional<SlotRequest> take_slot_request();
  // A create that failed is asked for again after on_space() (the file may be left: it will be made anew).
  void on_slot_done(Slot slot, const Status& status);
  // Each new segment takes a key; some are kept in hand.
  [[nodiscard]] bool wants_key() const { return keys_.size() < 2; }
  void add_key(const SegmentKey& key) { keys_.push_back(key); }
  void on_space(std::uint64_t free_bytes);
  // False: what is written to the files that are open may not be found by the next start. Intake is space_low until it
  // is true again; internal use goes on, as it makes less of what could be lost.
  void on_folder(bool there) { folder_there_ = there; }

  // --- reading -----------------------------------------------------------------------------------------------------
  // Where a message's record lies: read `bytes` at `offset` of the slot into aligned memory, then decode_message().
  // kNotFound: no message lives there.
  [[nodiscard]] StatusOr<ReadRange> read_plan(mail::Location location) const;
  // `range_bytes`: what was read for read_plan(location). Views into it. kDataLoss names segment and offset.
  [[nodiscard]] StatusOr<MessageView> decode_message(mail::Location location, Bytes range_bytes) const;
  // The same for one chunk of a message's content. The segment must be pinned (through its message).
  [[nodiscard]] StatusOr<ReadRange> read_plan(const Extent& extent) const;
  [[nodiscard]] StatusOr<Bytes> decode_chunk(const Extent& extent, std::size_t index, Bytes range_bytes) const;
  // The same for the latest state of a message's recipient, as append_retry_state() was given it. kNotFound: there is
  // none.
  [[nodiscard]] StatusOr<ReadRange> read_plan(mail::Location location, std::uint16_t recipient) const;
  [[nodiscard]] StatusOr<Bytes> decode_state(mail::Location location, mail::QueueId id, std::uint16_t recipient,
                                             Bytes range_bytes) const;
  // While pinned, nothing of the message's record and chunks is overwritten, even if it is settled or moved. unpin()
  // takes the pin's token.
  struct Pin {
    std::uint64_t sequence = 0;  // of the oldest segment that holds part of it; 0: none
  };
  [[nodiscard]] Pin pin(mail::Location location);
  void unpin(Pin pin);
  // Where the message is now: `location` itself unless it was moved.
  [[nodiscard]] mail::Location current(mail::Location location) const;
  [[nodiscard]] bool lives(mail::Location location) const;

  // --- reclamation -------------------------------------------------------------------------------------------------
  // Reads that compaction needs, one at a time; nullopt when there is nothing worth emptying (or living messages
  // of before the start were not replayed yet).
  // A read that fails is tried again a minute later; after ten attempts what it was for is given up, with an alarm.
  [[nodiscard]] std::optional<ReadIntent> take_compaction_read(Instant now);
  void on_compaction_read(const Status& status, Instant now);
  [[nodiscard]] std::span<const Moved> take_moved();

  [[nodiscard]] const Index& index() const { return index_; }
  [[nodiscard]] const Figures& figures() const { return figures_; }
  [[nodiscard]] const RecoveryReport& recovery_report() const { return report_; }
  [[nodiscard]] std::size_t free_segments() const { return free_.size(); }
  // What to tell the operator: damage met by compaction. At most RecoveryReport::alarms_max are kept.
  [[nodiscard]] std::vector<std::string> take_alarms() { return std::exchange(alarms_, {}); }

 private:
  friend class Compactor;
  friend class Replay;
  class Replay;

  struct Batch {
    AlignedBuffer buffer;
    Segment* segment = nullptr;
    std::uint64_t offset = 0;
    std::size_t used = 0;
    std::uint64_t oldest = 0;
    std::vector<std::uint64_t> checksums;  // of the records, in order
    std::vector<Ticket> tickets;
    std::vector<Moved> moved;
    Instant opened_at{};
    bool opened = false;     // opened_at is set: by the first take_write() that saw it
    bool urgent = false;     // holds accepted mail
    bool rewritten = false;  // holds what compaction moved
    bool marker = false;     // written to make `oldest` durable
  };
  struct Write {
    enum class Kind : std::uint8_t { batch, header, summary };
    Kind kind = Kind::batch;
    Segment* segment = nullptr;
    std::uint64_t offset = 0;
    std::size_t bytes = 0;
    std::uint64_t oldest = 0;
    AlignedBuffer buffer;          // header, summary
    std::unique_ptr<Batch> batch;  // batch
  };
  struct Content {
    std::vector<Extent> extents;
    std::uint64_t bytes = 0;
    bool unreadable = false;  // a chunk of it: compaction leaves it where it is
  };
  struct Reservation {
    std::size_t bytes = 0;  // of records, padded
    std::uint64_t summary_bytes = 0;
  };

  [[nodiscard]] Status ensure(const Reservation& wanted, Use use);
  [[nodiscard]] bool fits(const Segment& segment, std::uint64_t offset, std::uint64_t used,
                          const Reservation& wanted) const;
  [[nodiscard]] bool fits_open(const Reservation& wanted) const;
  [[nodiscard]] bool can_open(const Reservation& wanted, Use use) const;
  [[nodiscard]] bool can_roll(Use use) const;
  void open_batch();
  void close_batch();
  void roll();
  void begin_segment();
  void push_summary(Segment& segment);
  std::byte* place(std::size_t bytes, std::uint64_t& position);
  void commit_record(std::byte* at, RecordHeader header, std::size_t meta_bytes);
  [[nodiscard]] StatusOr<mail::Location> place_message(const MessageRecord& record, std::span<const Extent> extents,
                                                       std::uint64_t replaces, Bytes settled);
  [[nodiscard]] std::optional<StateRef> state_of(mail::Location location, std::uint16_t recipient) const;
  Status append_small(RecordKind kind, std::uint64_t position, mail::QueueId id, std::uint16_t recipient,
                      std::uint8_t outcome, Bytes opaque, std::uint64_t& at);
  [[nodiscard]] StatusOr<Extent> place_chunk(std::size_t index, std::uint64_t content_id, Bytes bytes, Use use);
  void forget_content(ContentId content, bool died);
  void advance_oldest();
  void retire();
  [[nodiscard]] bool pressed_for_space() const;
  // What compaction puts into memory before it waits for the disk.
  [[nodiscard]] std::size_t step_bytes() const { return std::min(options_.batch_bytes_max / 2, step_bytes_max); }
  [[nodiscard]] bool compaction_may_append() const {
    return !failed() && writes_.empty() && (!open_ || open_->used <= step_bytes());
  }
  [[nodiscard]] bool may_create() const;

  static constexpr std::size_t step_bytes_max = 128u << 10;

  const Options options_;
  const std::uint16_t log_;
  std::uint32_t start_;
  std::uint32_t counter_ = 0;
  std::uint64_t padding_bytes_ = 0;  // of this start's batches, but for those that compaction made
  std::uint64_t next_sequence_;
  std::uint32_t next_slot_;
  Index index_;
  RecoveryReport report_;
  Status failure_;

  std::uint64_t recovered_last_ = 0;  // sequence of the newest segment of before this start
  bool replay_due_ = false;           // it has living messages that Replay did not hand out yet

  Segment* active_ = nullptr;         // where batches go; nullptr: none begun yet
  bool header_durable_ = false;       // the first header of this start
  std::uint64_t oldest_ = 1;          // by what was appended
  std::uint64_t durable_oldest_ = 1;  // by what is durable
  std::uint64_t chain_ = 0;
  std::uint32_t batch_number_ = 0;

  std::deque<Write> writes_;  // closed batches, headers, summaries, in order; front is in flight if in_flight_
  std::unique_ptr<Batch> open_;
  std::vector<std::unique_ptr<Batch>> batch_pool_;
  std::size_t batches_ = 0;  // open and closed
  bool in_flight_ = false;
  bool in_group_ = false;
  bool hold_nothing_ = false;
  std::vector<std::byte> scratch_;
  std::vector<Ticket> durable_, durable_out_, undone_;

  std::deque<SegmentKey> keys_;
  std::deque<Slot> free_;
  std::deque<std::pair<Slot, std::uint64_t>> retired_;  // slot, sequence: free once durable_oldest_ is above it
  std::deque<std::pair<Slot, std::uint64_t>> misfits_;  // the same for files of another size: to be removed
  std::deque<std::pair<Slot, std::uint64_t>> damaged_;  // the same for what could not be read: to be set aside
  std::deque<Slot> to_remove_;
  std::deque<std::pair<Slot, std::uint64_t>> to_set_aside_;
  bool slot_taken_ = false;
  SlotRequest::Kind slot_kind_ = SlotRequest::Kind::create;
  bool folder_there_ = true;
  bool create_failed_ = false;
  std::uint64_t free_bytes_ = UINT64_MAX;

  std::map<std::uint64_t, Content> contents_;
  std::uint64_t next_content_ = 1;
  absl::flat_hash_map<std::uint64_t, mail::Location> forward_;  // moved: old position → new location
  std::vector<Moved> moved_, moved_out_;
  std::unique_ptr<Compactor> compactor_;
  std::vector<std::string> alarms_;
  Figures figures_;
};

}  // namespace postern::spool
