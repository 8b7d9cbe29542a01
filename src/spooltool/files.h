// A data_dir and the files in it, for reading alone: nothing here creates, changes or locks anything for longer than it
// takes to ask. Segment files may grow, be used again or vanish meanwhile, when a posternd runs on them.
//
// Every failure names the path and, where there is one, the cure. Codes: kNotFound (no such file, or no spool),
// kPermissionDenied, kOutOfRange (the file ends before the range), kDataLoss (the disk would not read it),
// kUnavailable (anything else).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/status.h>
#include <postern/spool/recovery.h>

namespace postern::spooltool {

// A file open for reading. Reading leaves no trace: neither in its time of access, where we may say so, nor, after
// forget(), in the page cache. There it would be in the daemon's way, and, as the daemon writes past the cache, a page
// read while it was being written could stay there as it never was on disk.
class ReadFile {
 public:
  [[nodiscard]] static StatusOr<ReadFile> open(const std::string& path);
  ~ReadFile();
  ReadFile(ReadFile&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)), path_(std::move(other.path_)) {}
  ReadFile& operator=(ReadFile&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    std::swap(path_, other.path_);
    return *this;
  }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] StatusOr<std::uint64_t> bytes() const;
  // All of `target`, or why not.
  [[nodiscard]] Status read(std::uint64_t offset, MutableBytes target) const;
  // The same, block by block where the disk fails: what cannot be read becomes zeros, which validate as nothing.
  // `offset` is a multiple of a block. Returns how many bytes that were.
  [[nodiscard]] std::uint64_t read_around(std::uint64_t offset, MutableBytes target) const;
  void forget(std::uint64_t offset, std::uint64_t bytes) const;

 private:
  ReadFile(int descriptor, std::string path) : descriptor_(descriptor), path_(std::move(path)) {}
  int descriptor_;
  std::string path_;
};

// The directory of one log.
struct LogFiles {
  std::uint16_t log = 0;
  std::vector<spool::SlotFile> slots;  // by ascending slot
  std::vector<std::string> damaged;    // damaged-*.seg, paths relative to data_dir
  std::vector<std::string> foreign;    // neither; likewise
};

class DataDir {
 public:
  // kNotFound: there is no folder, or no spool in it.
  [[nodiscard]] static StatusOr<DataDir> open(std::string path);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const std::vector<std::uint16_t>& logs() const { return logs_; }  // ascending
  [[nodiscard]] const std::vector<std::string>& foreign() const { return foreign_; }
  [[nodiscard]] std::string path_of(const std::string& relative) const { return path_ + "/" + relative; }
  [[nodiscard]] StatusOr<LogFiles> list(std::uint16_t log) const;
  // Whether a process holds the lock that posternd takes. The lock is asked for, shared, and given back at once: a
  // posternd that starts in that moment tries again, as it does for a second. A lock that may not be opened: false.
  [[nodiscard]] bool in_use() const;

 private:
  std::string path_;
  std::vector<std::uint16_t> logs_;
  std::vector<std::string> foreign_;
};

}  // namespace postern::spooltool
