#include "io/sim/disk.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <utility>

#include "io/sim/world.h"

namespace postern::io::sim {
namespace {

std::string_view parent_of(std::string_view path) {
  const std::size_t slash = path.rfind('/');
  return slash == 0 || slash == std::string_view::npos ? std::string_view("/") : path.substr(0, slash);
}

}  // namespace

Disk::Disk(World& world, const DiskOptions& options) : world_(world), options_(options) {
  auto root = make_file();
  root->is_directory = true;
  root->path = "/";
  names_.emplace("/", root);
  stable_names_ = names_;
}

Duration Disk::latency() {
  if (options_.stalls > 0 && world_.random().below(10'000) < options_.stalls) {
    return world_.between(options_.latency_max, options_.stall);
  }
  return world_.between(options_.latency_min, options_.latency_max);
}

int Disk::write_error() {
  return options_.write_errors > 0 && world_.random().below(1'000'000) < options_.write_errors ? EIO : 0;
}

int Disk::read_error() {
  return options_.read_errors > 0 && world_.random().below(1'000'000) < options_.read_errors ? EIO : 0;
}

bool Disk::parent_exists(std::string_view path) const {
  const File* const parent = find(parent_of(path));
  return parent != nullptr && parent->is_directory;
}

const File* Disk::find(std::string_view path) const {
  const auto found = names_.find(path);
  return found == names_.end() ? nullptr : found->second.get();
}

std::vector<std::string> Disk::paths(std::string_view prefix) const {
  std::vector<std::string> found;
  for (const auto& [path, file] : names_) {
    if (!file->is_directory && std::string_view(path).starts_with(prefix)) found.push_back(path);
  }
  return found;
}

void Disk::apply(const Entry& entry, Names& names) {
  for (const Change& change : entry) {
    if (change.kind == Change::Kind::link) {
      names[change.path] = change.file;
    } else {
      names.erase(change.path);
    }
  }
}

FilePtr Disk::make_file() {
  auto made = std::make_shared<File>();
  made->inode = ++inodes_made_;
  return made;
}

void Disk::journal(Entry entry) {
  apply(entry, names_);
  journal_.push_back(std::move(entry));
}

void Disk::resize(File& file, std::size_t size) {
  used_ += size;
  used_ -= file.now.size();
  file.now.resize(size);
  file.unsynced.resize((size + sector_bytes - 1) / sector_bytes);
}

std::int32_t Disk::open(std::string_view path, int flags, FilePtr& out) {
  const auto found = names_.find(path);
  if (found == names_.end()) {
    if ((flags & O_CREAT) == 0) return -ENOENT;
    if (!parent_exists(path)) return -ENOENT;
    if (used_ >= options_.capacity_bytes) return -ENOSPC;
    out = make_file();
    journal({{.kind = Change::Kind::link, .path = std::string(path), .file = out}});
    return 0;
  }
  if ((flags & O_CREAT) != 0 && (flags & O_EXCL) != 0) return -EEXIST;
  if ((flags & O_DIRECTORY) != 0 && !found->second->is_directory) return -ENOTDIR;
  if (found->second->is_directory && (flags & O_ACCMODE) != O_RDONLY) return -EISDIR;
  out = found->second;
  if ((flags & O_TRUNC) != 0) resize(*out, 0);
  return 0;
}

std::int32_t Disk::write(File& file, Bytes data, std::uint64_t offset, bool stable) {
  if (file.is_directory) return -EISDIR;
  if (data.empty()) return 0;
  const std::uint64_t end = offset + data.size();
  if (end > file.now.size()) {
    if (used_ + (end - file.now.size()) > options_.capacity_bytes) return -ENOSPC;
    resize(file, end);
  }
  std::memcpy(file.now.data() + offset, data.data(), data.size());
  for (std::size_t sector = offset / sector_bytes; sector * sector_bytes < end; ++sector) {
    file.unsynced[sector] = !stable;
  }
  if (stable) {
    if (end > file.stable.size()) file.stable.resize(end);
    std::memcpy(file.stable.data() + offset, data.data(), data.size());
  }
  return static_cast<std::int32_t>(data.size());
}

std::int32_t Disk::read(const File& file, MutableBytes target, std::uint64_t offset) const {
  if (file.is_directory) return -EISDIR;
  if (offset >= file.now.size()) return 0;
  const std::size_t size = std::min<std::size_t>(target.size(), file.now.size() - offset);
  std::memcpy(target.data(), file.now.data() + offset, size);
  return static_cast<std::int32_t>(size);
}

std::int32_t Disk::sync(File& file) {
  if (file.is_directory) {
    std::size_t upto = 0;
    for (std::size_t i = 0; i < journal_.size(); ++i) {
      for (const Change& change : journal_[i]) {
        if (parent_of(change.path) == file.path) upto = i + 1;
      }
    }
    for (std::size_t i = 0; i < upto; ++i) apply(journal_[i], stable_names_);
    journal_.erase(journal_.begin(), journal_.begin() + static_cast<std::ptrdiff_t>(upto));
    return 0;
  }
  file.stable.resize(file.now.size());
  for (std::size_t sector = 0; sector < file.unsynced.size(); ++sector) {
    if (!file.unsynced[sector]) continue;
    file.unsynced[sector] = false;
    const std::size_t at = sector * sector_bytes;
    std::memcpy(file.stable.data() + at, file.now.data() + at, std::min(sector_bytes, file.now.size() - at));
  }
  return 0;
}

std::int32_t Disk::allocate(File& file, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t end = offset + length;
  if (end <= file.now.size()) return 0;
  if (used_ + (end - file.now.size()) > options_.capacity_bytes) return -ENOSPC;
  resize(file, end);
  return 0;
}

std::int32_t Disk::rename(std::string_view from, std::string_view to, bool replace) {
  const auto found = names_.find(from);
  if (found == names_.end() || !parent_exists(to)) return -ENOENT;
  if (const File* const other = find(to); other != nullptr) {
    if (!replace) return -EEXIST;
    used_ -= other->now.size();
  }
  journal({{.kind = Change::Kind::unlink, .path = std::string(from), .file = nullptr},
           {.kind = Change::Kind::link, .path = std::string(to), .file = found->second}});
  return 0;
}

std::int32_t Disk::unlink(std::string_view path) {
  const File* const file = find(path);
  if (file == nullptr) return -ENOENT;
  if (file->is_directory) return -EISDIR;
  used_ -= file->now.size();
  journal({{.kind = Change::Kind::unlink, .path = std::string(path), .file = nullptr}});
  return 0;
}

std::int32_t Disk::make_directory(std::string_view path) {
  if (find(path) != nullptr) return -EEXIST;
  if (!parent_exists(path)) return -ENOENT;
  auto made = make_file();
  made->is_directory = true;
  made->path = path;
  journal({{.kind = Change::Kind::link, .path = std::string(path), .file = std::move(made)}});
  return 0;
}

std::int32_t Disk::file_size(std::string_view path, std::uint64_t& size) const {
  const File* const file = find(path);
  if (file == nullptr) return -ENOENT;
  size = file->now.size();
  return 0;
}

std::int32_t Disk::list(std::string_view path, std::vector<std::string>& names) const {
  const File* const directory = find(path);
  if (directory == nullptr) return -ENOENT;
  if (!directory->is_directory) return -ENOTDIR;
  names.clear();
  for (const auto& [name, file] : names_) {
    if (name == "/" || parent_of(name) != path) continue;
    names.push_back(name.substr(name.rfind('/') + 1));
  }
  std::sort(names.begin(), names.end());
  return 0;
}

FileRequest::Space Disk::space() const {
  return {.free_bytes = options_.capacity_bytes - std::min(used_, options_.capacity_bytes),
          .total_bytes = options_.capacity_bytes};
}

void Disk::tear(File& file, Bytes data, std::uint64_t offset, bool stable) {
  // A third lands whole, a third not at all, a third in part.
  const std::uint64_t how = world_.random().below(3);
  if (how == 0) return;
  for (std::size_t at = 0; at < data.size();) {
    // Up to the next border of a sector.
    const std::size_t size = std::min(data.size() - at, sector_bytes - (offset + at) % sector_bytes);
    if (how == 1 || world_.random().below(2) == 0) (void)write(file, data.subspan(at, size), offset + at, stable);
    at += size;
  }
}

void Disk::cut_power() {
  const std::size_t kept = world_.random().below(journal_.size() + 1);
  for (std::size_t i = 0; i < kept; ++i) apply(journal_[i], stable_names_);
  journal_.clear();
  names_ = stable_names_;
  used_ = 0;
  for (const auto& [path, file] : names_) {
    if (file->is_directory) continue;
    // An unsynced size is the old or the new one.
    const std::size_t size = world_.random().below(2) == 0 ? file->stable.size() : file->now.size();
    file->stable.resize(size);
    for (std::size_t sector = 0; sector * sector_bytes < size; ++sector) {
      if (sector >= file->unsynced.size() || !file->unsynced[sector] || world_.random().below(2) == 0) continue;
      const std::size_t at = sector * sector_bytes;
      std::memcpy(file->stable.data() + at, file->now.data() + at,
                  std::min({sector_bytes, size - at, file->now.size() - at}));
    }
    file->now = file->stable;
    file->unsynced.assign((size + sector_bytes - 1) / sector_bytes, false);
    used_ += size;
  }
  world_.note("disk: power cut, names kept", kept, names_.size());
}

bool Disk::flip_bit(std::string_view prefix) {
  // Among the bytes that are not zero: what nobody wrote is no cold data.
  std::vector<std::pair<File*, std::size_t>> written;  // sectors
  for (const auto& [path, file] : names_) {
    if (file->is_directory || !std::string_view(path).starts_with(prefix)) continue;
    for (std::size_t at = 0; at + sector_bytes <= file->stable.size(); at += sector_bytes) {
      const auto begin = file->stable.begin() + static_cast<std::ptrdiff_t>(at);
      if (std::any_of(begin, begin + sector_bytes, [](std::byte each) { return each != std::byte{0}; })) {
        written.emplace_back(file.get(), at);
      }
    }
  }
  if (written.empty()) return false;
  const auto& [file, sector] = written[world_.random().below(written.size())];
  const std::size_t at = sector + world_.random().below(sector_bytes);
  const std::byte bit{static_cast<unsigned char>(1u << world_.random().below(8))};
  file->stable[at] ^= bit;
  file->now[at] ^= bit;
  world_.note("disk: bit flipped at", at);
  return true;
}

}  // namespace postern::io::sim
