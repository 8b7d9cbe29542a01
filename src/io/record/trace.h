// What one run asked of its disk, and what it told the world: a file of entries in the order in which they happened,
// over all loops of the process. RecordingLoop writes it, tools read it. Kept for tests on the machine that wrote it:
// numbers stand as the machine has them, and there is no promise between versions.
//
// The order is one that a crash may rely on: an operation's `begin` stands before it can have had any effect, its `end`
// behind all it will ever have; a reply's `said` before its first byte is out, a reply's `heard` behind its last one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/base/time.h>

#include "io/loop.h"

namespace postern::io::record {

struct Entry {
  enum class What : std::uint8_t {
    log_opened,  // descriptor, path, synced
    write,       // begin of durable_write(): operation, descriptor, offset, data
    file,        // begin of file(): operation, kind and what that kind has; close has its effect here
    end,         // operation, result: ends a `write` or a `file`
    closed,      // descriptor: about to be closed
    stream_in,   // descriptor: a connection was accepted
    stream_out,  // descriptor: a connection will be opened
    said,        // descriptor, data: about to be sent on an accepted connection
    heard,       // descriptor, data: received on an opened one
  };
  What what = What::end;
  FileRequest::Kind kind = FileRequest::Kind::close;
  bool synced = true;
  WallTime at{};
  std::uint64_t operation = 0;  // unique in the trace
  std::int64_t result = 0;
  Descriptor descriptor = -1;
  int open_flags = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;  // of data; of an allocation
  bool zeros = false;        // data is `length` zeros, and not kept
  std::string path{};
  std::string other_path{};
  std::vector<std::byte> data{};
};

// Any thread. What cannot be written is remembered and told by finish().
class TraceWriter {
 public:
  [[nodiscard]] static StatusOr<std::unique_ptr<TraceWriter>> create(const std::string& path);
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  // Sets `at`. Data is taken from `data`, not from the entry.
  void add(Entry entry, Bytes data = {});
  [[nodiscard]] std::uint64_t next_operation();
  [[nodiscard]] Status finish();

 private:
  explicit TraceWriter(std::FILE* file) : file_(file) {}

  std::mutex mutex_;
  std::FILE* file_;
  bool failed_ = false;
  std::uint64_t operations_ = 0;
};

// The whole trace, in memory. kDataLoss: it ends in the middle of an entry, or is none.
[[nodiscard]] StatusOr<std::vector<Entry>> read_trace(const std::string& path);

}  // namespace postern::io::record
