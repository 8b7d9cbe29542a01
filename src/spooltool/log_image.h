// What one log holds, as posternd would find it at a start: spool/recovery over its files, and the messages behind its
// index. Memory is the index's (spool/index.h: tens of bytes a message); content passes through a buffer.
//
// On a log in use it is the picture of one moment. What is read of it later may have been moved or used again: then
// still_there() says no, and a failed read says nothing about the disk.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/queue/retry_state.h>
#include <postern/spool/aligned_buffer.h>
#include <postern/spool/index.h>
#include <postern/spool/recovery.h>
#include <postern/spool/types.h>

#include "spooltool/files.h"

namespace postern::spooltool {

enum class RecipientState : std::uint8_t {
  waiting,
  settled,  // relayed, or failed and its sender told
  unknown,  // the record was found apart from its log
};
struct RecipientFacts {
  RecipientState state = RecipientState::unknown;
  bool tried = false;       // `retry` counts
  queue::RetryState retry;  // waiting
};

class LogImage {
 public:
  // `data` outlives it. kFailedPrecondition: a newer format or an unknown kind of record; else as DataDir says.
  // `in_use`: what looks like damage is looked at again, up to looks_max times in all, until it is the same twice.
  [[nodiscard]] static StatusOr<std::unique_ptr<LogImage>> read(const DataDir& data, std::uint16_t log, bool in_use);
  static constexpr int looks_max = 5;

  [[nodiscard]] std::uint16_t log() const { return files_.log; }
  [[nodiscard]] const LogFiles& files() const { return files_; }
  [[nodiscard]] const spool::Index& index() const { return found_.index; }
  [[nodiscard]] const spool::RecoveryReport& report() const { return found_.report; }
  // Files kept for the segments to come: used up, or prepared and not used yet.
  [[nodiscard]] std::size_t reserved() const { return found_.free_slots.size() + found_.stale_slots.size(); }
  // Files that recovery left alone: damaged headers, and seconds of one segment.
  [[nodiscard]] std::vector<spool::Slot> left_alone() const;
  // Of the segment's file, relative to data_dir.
  [[nodiscard]] std::string path_of(const spool::Segment& segment) const {
    return spool::slot_path(log(), segment.slot);
  }
  // Whether the segment's file holds that segment now.
  [[nodiscard]] bool still_there(const spool::Segment& segment) const;
  // The same for all segments in which content lies, as far as the index knows them.
  [[nodiscard]] bool still_there(const spool::Segment& segment, const spool::ExtentList& chunks) const;

  // The message behind an entry, all of it checked but for its chunks. kDataLoss names file and offset. Valid until the
  // next read_message().
  [[nodiscard]] StatusOr<spool::MessageView> read_message(const spool::Segment& segment, const spool::Entry& entry);
  // One chunk of a message's content, the index-th. Codes as above; valid until the next read_chunk() or read_state().
  [[nodiscard]] StatusOr<Bytes> read_chunk(const spool::Extent& extent, std::size_t index);
  // What is known of a recipient that waits; kNotFound: no attempt was recorded.
  [[nodiscard]] StatusOr<queue::RetryState> read_state(const spool::Segment& of, const spool::Entry& entry,
                                                       std::uint16_t recipient);
  // Of all recipients of a living message, by index. A state that cannot be read counts as none, as for posternd.
  [[nodiscard]] std::vector<RecipientFacts> read_recipients(const spool::Segment& segment, const spool::Entry& entry);

  struct Place {
    const spool::Segment* segment = nullptr;  // null: no such message waits
    const spool::Entry* entry = nullptr;
  };
  [[nodiscard]] Place find(mail::QueueId id) const;  // looks through all of the index

 private:
  LogImage(const DataDir& data, LogFiles files) : data_(data), files_(std::move(files)) {}
  [[nodiscard]] Status recover();
  [[nodiscard]] StatusOr<const ReadFile*> file(spool::Slot slot);
  // `bytes` at `offset` of the segment, by way of a window: neighbours are read in order.
  struct Window {
    spool::AlignedBuffer buffer;
    std::uint64_t sequence = 0;
    std::uint64_t offset = 0;
    std::uint64_t bytes = 0;
  };
  [[nodiscard]] StatusOr<Bytes> read(Window& window, const spool::Segment& segment, std::uint64_t offset,
                                     std::uint64_t bytes);
  [[nodiscard]] Status damage(const spool::Segment& segment, std::uint64_t offset, std::string_view what) const;

  const DataDir& data_;
  LogFiles files_;
  spool::Recovered found_;
  std::map<std::uint32_t, ReadFile> open_;  // a few: see file()
  Window messages_, others_;
};

}  // namespace postern::spooltool
