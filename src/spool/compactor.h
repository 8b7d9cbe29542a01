// Empties the oldest segment of a log by rewriting the few that live there at the log's end: messages with their merged
// state (settled recipients in the record, retry states behind it), chunks of messages and of content that still
// arrives. Part of Log, which drives it; asks for one read at a time.
//
// What is damaged is given up at once: an alarm, and its file is left aside. A read that fails may be the fault of a
// cable or a controller and be over soon: the segment is left for a while, and given up only after `attempts`.
//
// It reads the segment in windows and rewrites what lies in one without another read, so its batches are dense; it
// stops when `Log::step_bytes()` wait to be written, so accepted mail never stands behind more than that.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/time.h>
#include <postern/mail/location.h>
#include <postern/spool/aligned_buffer.h>
#include <postern/spool/log.h>

namespace postern::spool {

class Compactor {
 public:
  explicit Compactor(Log& log) : log_(log), allowance_(log.index_.segment_bytes()) {}

  // Rewrites what it can without a read first.
  [[nodiscard]] std::optional<ReadIntent> take_read(Instant now);
  void on_read(const Status& status, Instant now);

  static constexpr unsigned attempts = 10;
  static constexpr Duration pause = std::chrono::minutes(1);  // between them

 private:
  enum class Step : std::uint8_t {
    idle,           // no segment is being emptied
    next,           // take the next job
    record,         // the message's record is to be read
    chunks,         // chunk_ is to be read and copied
    states,         // the state of recipient_ is to be read
    append,         // all is read: the message is to be appended, when there is room
    append_states,  // then its states
    content,        // a chunk of content that still arrives is to be read and copied
  };
  struct Job {
    std::uint64_t position = 0;  // of a message; 0: a chunk of content that still arrives
    std::uint64_t content = 0;
    std::size_t index = 0;
  };
  struct State {
    std::uint16_t recipient = 0;
    std::uint64_t position = 0;
    std::size_t begin = 0;  // in state_bytes_
    std::size_t size = 0;
    bool usable = false;  // it could be read
  };

  [[nodiscard]] bool worthwhile() const;
  [[nodiscard]] bool begin_segment();
  void end_segment();
  void begin_job();
  void end_job();
  void leave_for_now(Instant now);
  void give_up(std::string_view why);
  void stall(std::string_view why);
  [[nodiscard]] bool alive() const;
  // Moves on without a read as far as possible; false: waits for room (or is idle).
  [[nodiscard]] bool advance();
  [[nodiscard]] bool find_state();
  [[nodiscard]] bool states_current() const;
  void keep_state(std::optional<Bytes> opaque);
  [[nodiscard]] bool append_message();
  [[nodiscard]] bool append_states();
  // What the current step has to read; nullopt: it is not on the disk yet.
  struct Wanted {
    const Segment* segment = nullptr;
    std::uint64_t offset = 0;  // of the blocks that hold it
    std::uint64_t end = 0;
    std::uint64_t lead = 0;  // bytes of the first block before it
    std::uint64_t bytes = 0;
  };
  [[nodiscard]] std::optional<Wanted> wanted();
  // Whether the window has it; then range_ and read_bytes_ are views of it.
  [[nodiscard]] bool in_window(const Wanted& wanted);
  [[nodiscard]] ReadIntent read(const Wanted& wanted);
  void on_bytes();
  void on_failed_read(const Status& status, Instant now);
  void on_record();
  void on_chunk();
  void on_state();
  void on_content();

  Log& log_;
  const std::uint64_t allowance_;  // garbage of before the start, as far as it may matter
  std::uint64_t spent_ = 0;        // bytes moved
  Step step_ = Step::idle;
  bool reading_ = false;
  bool stalled_ = false;
  std::uint64_t sequence_ = 0;  // being emptied; pinned
  unsigned failures_ = 0;       // of the disk, for which it was left for now
  Instant next_attempt_ = Instant::min();
  std::vector<Job> jobs_;
  std::size_t job_ = 0;

  // Blocks of the segment being emptied, which is sealed and pinned: they do not change.
  AlignedBuffer window_;
  std::uint64_t window_begin_ = 0;
  std::uint64_t window_end_ = 0;
  bool narrow_ = false;  // a window could not be read: the one thing that is wanted is read alone
  AlignedBuffer other_;  // what lies in other segments, or is larger than a window
  Wanted reading_what_;
  bool reading_window_ = false;
  Bytes range_;                    // the blocks that were read
  Bytes read_bytes_;               // the record in them
  std::vector<std::byte> record_;  // of the current message; view_ looks into it
  MessageView view_;
  Log::Content copy_;  // the extents of the message's content, those copied replaced
  std::uint64_t copy_id_ = 0;
  std::size_t chunk_ = 0;
  std::vector<std::size_t> copied_;
  std::uint32_t recipient_ = 0;
  std::vector<State> states_;
  std::vector<std::byte> state_bytes_;
  std::size_t state_ = 0;
  mail::Location moved_to_;  // where the message was appended: it has the states it had, and gets them again there
  std::uint64_t state_position_ = 0;  // being read
};

}  // namespace postern::spool
