// The simulated disk: files in folders, and what of them survives a crash.
//
// The fault model. Written bytes lie in the page cache until they are synced; a power cut keeps any subset of the
// unsynced sectors (512 bytes), each old or new, never a mixture. A write under way tears likewise. Creating, renaming
// and removing names is a journal: syncing a folder makes everything durable that was journalled before the folder's
// last change, and a power cut keeps any beginning of the rest (fsync of a file alone does not keep its name). A kill
// of the process alone loses nothing of the page cache. The device can be slow, full, answer EIO, and flip bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/time.h>

#include "io/loop.h"

namespace postern::io::sim {

class World;

struct DiskOptions {
  Duration latency_min = std::chrono::microseconds(50);
  Duration latency_max = std::chrono::microseconds(50);
  unsigned stalls = 0;  // operations in ten thousand that take up to `stall`
  Duration stall = std::chrono::seconds(2);
  unsigned write_errors = 0;  // EIO, in a million writes and syncs
  unsigned read_errors = 0;   // EIO, in a million reads
  std::uint64_t capacity_bytes = std::uint64_t{1} << 36;
};

struct File {
  std::uint64_t inode = 0;  // never given twice
  bool is_directory = false;
  std::string path;               // of a folder
  std::vector<std::byte> now;     // as the page cache has it
  std::vector<std::byte> stable;  // as the device has it
  std::vector<bool> unsynced;     // per sector of `now`
};
using FilePtr = std::shared_ptr<File>;

class Disk {
 public:
  static constexpr std::size_t sector_bytes = 512;

  Disk(World& world, const DiskOptions& options);
  [[nodiscard]] DiskOptions& options() { return options_; }

  // How long the next operation takes; its error, if the device has one for it (0: none).
  [[nodiscard]] Duration latency();
  [[nodiscard]] int write_error();
  [[nodiscard]] int read_error();

  // --- results as FileRequest's: ≥ 0 or -errno
  [[nodiscard]] std::int32_t open(std::string_view path, int flags, FilePtr& out);
  std::int32_t write(File& file, Bytes data, std::uint64_t offset, bool stable);
  [[nodiscard]] std::int32_t read(const File& file, MutableBytes target, std::uint64_t offset) const;
  std::int32_t sync(File& file);
  std::int32_t allocate(File& file, std::uint64_t offset, std::uint64_t length);
  std::int32_t rename(std::string_view from, std::string_view to, bool replace);
  std::int32_t unlink(std::string_view path);
  std::int32_t make_directory(std::string_view path);
  [[nodiscard]] std::int32_t file_size(std::string_view path, std::uint64_t& size) const;
  [[nodiscard]] std::int32_t list(std::string_view path, std::vector<std::string>& names) const;
  [[nodiscard]] FileRequest::Space space() const;

  // --- crashes and damage
  // A write that is under way while the process or the machine dies: any of its sectors land.
  void tear(File& file, Bytes data, std::uint64_t offset, bool stable);
  void cut_power();
  // Flips one bit of a stable byte in some file whose path begins with `prefix`; false: there is none.
  bool flip_bit(std::string_view prefix);

  // --- for whoever looks from outside
  [[nodiscard]] const File* find(std::string_view path) const;
  [[nodiscard]] std::vector<std::string> paths(std::string_view prefix) const;
  [[nodiscard]] std::uint64_t used_bytes() const { return used_; }

 private:
  struct Change {
    enum class Kind : std::uint8_t { link, unlink } kind = Kind::link;
    std::string path;
    FilePtr file;
  };
  // Changes of names that belong together: all of a rename.
  using Entry = std::vector<Change>;
  using Names = std::map<std::string, FilePtr, std::less<>>;

  [[nodiscard]] FilePtr make_file();
  void journal(Entry entry);
  static void apply(const Entry& entry, Names& names);
  void resize(File& file, std::size_t size);
  [[nodiscard]] bool parent_exists(std::string_view path) const;

  World& world_;
  DiskOptions options_;
  Names names_;
  Names stable_names_;
  std::vector<Entry> journal_;  // applied to names_, not yet to stable_names_
  std::uint64_t used_ = 0;
  std::uint64_t inodes_made_ = 0;
};

}  // namespace postern::io::sim
