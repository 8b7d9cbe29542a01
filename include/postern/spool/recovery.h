// Finds out what a log holds after a start, without I/O: from the segment files' headers, the summaries of the sealed
// segments and all batches of the one that was not sealed.
//
// The driver lists log_directory(), gives names and sizes of the files that parse_slot_name() knows, then serves one
// read at a time until done(); then builds a Log from take_result(). A new log is one with no files. Logs recover
// independently of each other; Replay then reads the living messages while new mail is taken.
//
// What is recovered: every message whose append was reported durable, and perhaps some that were written but not
// reported; each with all settlements that were reported, and perhaps more. Nothing in halves. A batch that does not
// validate is the torn tail when no valid batch follows it in the log (it was never acknowledged: dropped, and shut out
// for good by the summary that Log writes first), and damage when one does: then the messages in it that validate by
// themselves are kept, the rest counted and described.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <postern/base/status.h>
#include <postern/spool/aligned_buffer.h>
#include <postern/spool/index.h>
#include <postern/spool/types.h>

namespace postern::spool {

struct SlotFile {
  Slot slot;
  std::uint64_t bytes = 0;
};

// For the operator's log and for counters.
struct RecoveryReport {
  std::uint64_t segments = 0;          // in use
  std::uint64_t segments_scanned = 0;  // read whole, for want of a valid summary
  std::uint64_t bytes_read = 0;
  std::uint64_t messages = 0;            // that live
  std::uint64_t torn_bytes = 0;          // of the unacknowledged tail: normal after a crash
  std::uint64_t damaged_bytes = 0;       // lost, with what was in them: an alarm
  std::uint64_t salvaged_messages = 0;   // found in damaged batches
  std::uint64_t unreadable_bytes = 0;    // the disk would not read them
  std::uint64_t segments_set_aside = 0;  // files left alone: their headers are damaged, or they are missing
  std::vector<std::string> alarms;       // what was damaged and where; at most alarms_max
  static constexpr std::size_t alarms_max = 64;

  void alarm(std::string text);
};

// What Recovery hands to Log.
struct Recovered {
  std::uint16_t log = 0;
  std::uint32_t next_start = 1;  // start counter for the new start
  std::uint64_t next_sequence = 1;
  std::uint64_t oldest = 1;     // durable: segments below are dead
  std::uint32_t next_slot = 0;  // above all slots in use or set aside
  Index index;
  std::deque<Slot> free_slots;          // files of the right size that hold nothing alive, to be recycled in this order
  std::vector<Slot> stale_slots;        // files to be made anew (never finished) or removed (other size)
  std::vector<std::uint64_t> unsealed;  // sequences whose summary must be written first
  RecoveryReport report;
};

class Recovery {
 public:
  // `files` in any order. Options as for the Log.
  Recovery(std::uint16_t log, const Options& options, std::vector<SlotFile> files);

  // The read to make next; nullopt while one is under way, and when done.
  [[nodiscard]] std::optional<ReadIntent> take_read();
  // Its end. Anything but OK: could not be read; recovery goes on around it.
  void on_read(const Status& status);
  [[nodiscard]] bool done() const { return step_ == Step::done; }
  // OK; or why this log must not be used: a format or record kind of a newer version (kFailedPrecondition), its start
  // counter used up (kResourceExhausted). The operator decides; starting without it would leave mail behind.
  [[nodiscard]] const Status& status() const { return status_; }
  // Only when done() and status() is OK; once.
  [[nodiscard]] Recovered take_result();

 private:
  enum class Step : std::uint8_t { headers, footer, entries, scan, done };
  struct Candidate {
    SegmentHeader header;
    Slot slot;
  };
  void next_file();
  void on_header();
  void begin_segments();
  void begin_segment();
  void free_slot(Slot slot, std::uint64_t bytes);
  void on_footer();
  void on_entries();
  void end_segment();
  void begin_scan();
  void on_scan();
  void take_batch(const BatchHeader& header, Bytes batch);
  void take_record(const RecordHeader& header, Bytes record);
  [[nodiscard]] bool salvage();
  void end_scan();
  void finish();
  void fail(Status status);
  void begin_read(Slot slot, std::uint64_t offset, std::size_t bytes);
  // Whether the range of the current segment is in the window; false: its read was begun.
  [[nodiscard]] bool want(std::uint64_t offset, std::uint64_t bytes);
  [[nodiscard]] Bytes window_at(std::uint64_t offset, std::uint64_t bytes) const;

  const Options options_;
  Recovered result_;
  Status status_;
  Step step_ = Step::headers;
  std::vector<SlotFile> files_;
  std::size_t file_ = 0;
  std::vector<Candidate> candidates_;
  std::size_t candidate_ = 0;
  Segment* segment_ = nullptr;
  SummaryFooter footer_;
  std::uint64_t unreadable_before_ = 0;

  // The read under way, made in pieces when the disk fails parts of it.
  AlignedBuffer window_;
  Slot window_slot_;
  std::uint64_t window_offset_ = 0;
  std::uint64_t window_bytes_ = 0;
  std::uint64_t filled_ = 0;
  std::size_t piece_ = 0;
  bool reading_ = false;
  bool pending_ = false;

  // The scan of an unsealed segment.
  std::uint64_t scan_offset_ = 0;
  std::uint64_t chain_ = 0;
  std::uint32_t number_ = 0;
  std::optional<std::uint64_t> gap_from_;  // a batch there did not validate; looking for a valid one behind it
  std::uint64_t gap_bytes_ = 0;            // of the batch that seems to stand there
  std::uint64_t scan_limit_ = 0;
  bool limited_ = false;  // scan_limit_ is where the next segment's header says the batches end
  bool salvaging_ = false;
  std::uint64_t salvage_at_ = 0;
  std::uint64_t salvage_to_ = 0;
  std::vector<std::byte> scratch_;
};

}  // namespace postern::spool
