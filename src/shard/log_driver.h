// Carries one spool log's intents to the loop: recovery, replay, writes, segment files, reads, compaction.
//
// It knows files and operations, and nothing of what the records mean. The shard owns one per log assigned to it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/container/btree_map.h>

#include <postern/base/counters.h>
#include <postern/base/slot_map.h>
#include <postern/base/status.h>
#include <postern/spool/log.h>
#include <postern/spool/recovery.h>
#include <postern/spool/replay.h>

#include "io/loop.h"
#include "shard/alarm_limit.h"
#include "shard/metrics.h"

namespace postern::shard {

class LogDriver;

// The shard. Calls come from within run_once() or turn(), never from within the call that asked.
class LogUser {
 public:
  // The log is recovered: log() may be used, appends are taken once its intake is open.
  virtual void on_log_ready(LogDriver& driver) = 0;
  // It cannot be used at all (newer format, unreadable directory): the process must not run without it.
  virtual void on_log_unusable(LogDriver& driver, const Status& status) = 0;
  virtual void on_durable(LogDriver& driver, spool::Ticket ticket) = 0;
  virtual void on_undone(LogDriver& driver, spool::Ticket ticket) = 0;
  virtual void on_moved(LogDriver& driver, const spool::Moved& moved) = 0;
  // One living message from before the start; then on_replay_done().
  virtual void on_replayed(LogDriver& driver, const spool::ReplayedMessage& message) = 0;
  virtual void on_replay_done(LogDriver& driver) = 0;
  // A write failed: final [exit 74].
  virtual void on_log_failed(LogDriver& driver, const Status& status) = 0;
  // For the operator: damage, fallback from O_DIRECT, files set aside.
  virtual void on_log_alarm(LogDriver& driver, std::string_view text) = 0;
  // Appends that found no room may be tried again.
  virtual void on_log_room(LogDriver& driver) = 0;

 protected:
  ~LogUser() = default;
};

// Who asked for a message, a chunk or a recipient's state. Views are valid during the call.
class ReadUser {
 public:
  virtual void on_message_read(std::uint64_t cookie, const StatusOr<spool::MessageView>& message) = 0;
  virtual void on_chunk_read(std::uint64_t cookie, const StatusOr<Bytes>& chunk) = 0;
  virtual void on_state_read(std::uint64_t cookie, const StatusOr<Bytes>& state) = 0;

 protected:
  ~ReadUser() = default;
};

class LogDriver {
 public:
  struct Setup {
    io::Loop& loop;
    LogUser& user;
    Metrics& metrics;
    std::atomic<bool>& said_buffered;  // the process's
    std::string data_dir;
    std::uint16_t log = 0;
    bool synced = true;
    spool::Options options;
    // All drivers of a shard share one token kind; `index` tells them apart (the upper byte of token.slot).
    std::uint8_t kind = 0;
    std::uint8_t index = 0;
  };
  static constexpr std::size_t reads_max = 64;  // of messages and chunks at one moment; more wait their turn

  explicit LogDriver(const Setup& setup);
  ~LogDriver();
  LogDriver(const LogDriver&) = delete;
  LogDriver& operator=(const LogDriver&) = delete;

  void start();
  // Living messages are replayed one after the other, some in each turn(): more of them when turns are long, so that it
  // gets on beside much other work.
  void begin_replay();

  // Once per turn of the loop, behind everything that appends.
  void turn(Instant now, bool more_is_coming);
  [[nodiscard]] Instant next_deadline() const;
  void on_completion(const io::Completion& completion);

  [[nodiscard]] std::uint16_t id() const { return setup_.log; }
  [[nodiscard]] bool ready() const { return log_ != nullptr; }
  [[nodiscard]] spool::Log& log() { return *log_; }
  [[nodiscard]] bool replaying() const { return replay_ != nullptr; }

  // --- reads. Any number may be asked for; each ends with one call, unless forgotten.
  void read_message(mail::Location location, ReadUser& user, std::uint64_t cookie);
  void read_chunk(const spool::Extent& extent, std::size_t index, ReadUser& user, std::uint64_t cookie);
  void read_state(mail::Location location, mail::QueueId id, std::uint16_t recipient, ReadUser& user,
                  std::uint64_t cookie);

  // From now on nothing is held back, and nothing but writes is begun.
  void stop_waiting();
  // All is written and no operation is pending.
  [[nodiscard]] bool idle() const;

 private:
  enum class Phase : std::uint8_t { listing, sizing, recovering, running, unusable };
  enum class Making : std::uint8_t {  // of a segment file
    idle,
    directory,
    parent_open,
    parent_sync,
    parent_close,
    create,
    allocate,
    zero,
    sync,
    close,
    directory_open,
    directory_sync,
    directory_close,
    remove,
    set_aside,  // then the directory is synced as behind a creation
  };
  // What token.slot's lower 24 bits name.
  enum class Use : std::uint32_t {
    start = 0,
    recovery = 1,
    write = 2,
    making = 3,
    compaction = 4,
    space = 6,
    folder = 7,  // is it the one that it was
    listed = 8,  // is one of our files in it
    first_replay_read = 16,
    first_read = 32
  };

  // Closed when it is in files_ no more and no operation on it is under way: each of those holds it.
  struct OpenFile {
    OpenFile(io::Loop& its_loop, const io::Loop::LogFile& opened) : loop(its_loop), file(opened) {}
    ~OpenFile() { loop.close(file.descriptor); }
    OpenFile(const OpenFile&) = delete;
    OpenFile& operator=(const OpenFile&) = delete;

    io::Loop& loop;
    const io::Loop::LogFile file;
  };
  using OpenFilePtr = std::shared_ptr<const OpenFile>;

  struct Read {
    enum class What : std::uint8_t { message, chunk, state };
    What what = What::message;
    ReadUser* user = nullptr;
    std::uint64_t cookie = 0;
    mail::Location location;  // message
    spool::Extent extent;     // chunk, which is the index-th of its content
    std::size_t index = 0;
    mail::QueueId id;  // state
    std::uint16_t recipient = 0;
    spool::AlignedBuffer buffer;
    spool::ReadRange range;
    OpenFilePtr file;  // while it is under way
  };

  [[nodiscard]] io::Token token(Use use) const;
  [[nodiscard]] std::string path_of(std::string_view relative) const {
    return setup_.data_dir + "/" + std::string(relative);
  }
  [[nodiscard]] StatusOr<OpenFilePtr> file(spool::Slot slot);

  void on_start(const io::Completion& completion);
  void size_next();
  void recover();
  void become_ready();
  void unusable(const Status& status);
  void on_making(const io::Completion& completion);
  void make(Making step);
  void making_done(const Status& status);
  [[nodiscard]] Instant next_step() const;
  void write_next(Instant now, bool more_is_coming);
  void on_write(const io::Completion& completion);
  void after_write();
  void compact(const spool::ReadIntent& intent);
  void read_for_replay(const spool::Replay::Read& read);
  void pump_replay(Instant now);
  void end_replay();
  void ask(std::unique_ptr<Read> read);
  [[nodiscard]] StatusOr<spool::ReadRange> plan(const Read& read) const;
  void tell(std::size_t place, const Status& status);
  void issue_reads();
  void on_read(std::size_t index, const io::Completion& completion);
  void say_alarms(Instant now);
  void look_for_folder();
  void on_folder_seen(std::int32_t result);
  [[nodiscard]] spool::Slot file_to_look_for();
  void end_look(std::string_view trouble);

  Setup setup_;
  Phase phase_ = Phase::listing;
  std::unique_ptr<spool::Recovery> recovery_;
  std::unique_ptr<spool::Log> log_;
  std::unique_ptr<spool::Replay> replay_;
  absl::btree_map<std::uint32_t, OpenFilePtr> files_;  // by slot; ordered, as they are closed in that order
  AlarmLimit alarms_;  // of the log: compaction has one for each message that it cannot read
  bool said_failed_ = false;
  bool stopping_ = false;  // nothing new is begun but writes
  unsigned pending_ = 0;   // operations under way

  // start-up
  std::string directory_path_;
  std::string path_;
  std::vector<std::string> names_;
  std::size_t name_ = 0;
  std::uint64_t size_ = 0;
  std::vector<spool::SlotFile> slots_;
  io::FileRequest request_;

  // writes
  OpenFilePtr write_file_;  // null: no write is under way
  std::size_t write_bytes_ = 0;
  Instant write_began_{};
  std::uint64_t batches_seen_ = 0;
  std::uint64_t bytes_seen_ = 0;

  // segment files
  Making making_ = Making::idle;
  spool::SlotRequest wanted_;
  std::string making_path_, making_new_path_;
  bool directory_made_ = false;
  io::Descriptor making_file_ = -1;
  Instant making_alarm_due_{};
  std::uint64_t zeroed_ = 0;
  io::FileRequest making_request_;
  io::FileRequest::Space space_;
  io::FileRequest space_request_;
  bool space_asked_ = false;  // or the folder is looked for behind it
  Instant next_space_{};

  // Whether what is written can be found again: folders can be removed, replaced or unmounted under a running process,
  // whose open files go on as if nothing were.
  io::FileRequest identity_request_;
  io::FileRequest::Identity identity_;
  std::optional<io::FileRequest::Identity> folder_;  // as first seen
  std::optional<spool::Slot> tail_;                  // written to last, and still in use
  spool::Slot looked_for_;                           // the file of the last look
  std::string looked_for_path_;
  bool looked_for_tail_ = false;
  spool::Slot last_in_turn_;  // of the looks for others than the tail
  bool folder_gone_ = false;

  OpenFilePtr recovery_file_, compaction_file_;  // null: no such read is under way
  unsigned replay_reads_ = 0;                    // under way
  bool replay_waits_ = false;                    // for one of them
  Instant replay_pumped_at_{};
  std::uint64_t recovery_asked_ = 0;  // bytes of the read under way
  std::array<std::uint64_t, spool::Replay::windows_max> replay_asked_{};
  std::array<OpenFilePtr, spool::Replay::windows_max> replay_files_;
  std::uint64_t compaction_asked_ = 0;
  std::vector<std::unique_ptr<Read>> reads_;  // by place; null: free
  std::vector<std::size_t> free_reads_;       // places in it
  std::deque<std::size_t> waiting_reads_;
  std::size_t reads_issued_ = 0;
};

}  // namespace postern::shard
