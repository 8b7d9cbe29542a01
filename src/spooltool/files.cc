#include "spooltool/files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <unistd.h>

#include <sys/file.h>
#include <sys/stat.h>

namespace postern::spooltool {
namespace {

Status failure(const std::string& path, int reason) {
  std::string text = path + ": " + std::strerror(reason);
  switch (reason) {
    case ENOENT:
    case ENOTDIR:
      return error(StatusCode::kNotFound, text);
    case EACCES:
    case EPERM:
      return error(StatusCode::kPermissionDenied, text + "; run as root or as the user that runs posternd");
    case EIO:
      return error(StatusCode::kDataLoss, text);
    default:
      return error(StatusCode::kUnavailable, text);
  }
}

// Names in a directory, sorted, without "." and "..".
StatusOr<std::vector<std::string>> names_in(const std::string& path) {
  struct Close {
    void operator()(DIR* directory) const { ::closedir(directory); }
  };
  const std::unique_ptr<DIR, Close> directory(::opendir(path.c_str()));
  if (!directory) return failure(path, errno);
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* const entry = ::readdir(directory.get());
    if (entry == nullptr) break;
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  if (errno != 0) return failure(path, errno);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

StatusOr<ReadFile> ReadFile::open(const std::string& path) {
  // O_NOATIME is the owner's and root's. O_NONBLOCK: a FIFO in that place must not keep us.
  constexpr int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  int descriptor = ::open(path.c_str(), flags | O_NOATIME);
  if (descriptor < 0 && errno == EPERM) descriptor = ::open(path.c_str(), flags);
  if (descriptor < 0) return failure(path, errno);
  ReadFile file(descriptor, path);
  struct stat facts{};
  if (::fstat(descriptor, &facts) < 0) return failure(path, errno);
  if (!S_ISREG(facts.st_mode)) return error(StatusCode::kUnavailable, path + ": not a regular file");
  return file;
}

ReadFile::~ReadFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

StatusOr<std::uint64_t> ReadFile::bytes() const {
  struct stat facts{};
  if (::fstat(descriptor_, &facts) < 0) return failure(path_, errno);
  return static_cast<std::uint64_t>(facts.st_size);
}

Status ReadFile::read(std::uint64_t offset, MutableBytes target) const {
  while (!target.empty()) {
    const ssize_t got = ::pread(descriptor_, target.data(), target.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failure(path_ + " at offset " + std::to_string(offset), errno);
    if (got == 0) return error(StatusCode::kOutOfRange, path_ + ": ends at offset " + std::to_string(offset));
    offset += static_cast<std::uint64_t>(got);
    target = target.subspan(static_cast<std::size_t>(got));
  }
  return OkStatus();
}

std::uint64_t ReadFile::read_around(std::uint64_t offset, MutableBytes target) const {
  if (read(offset, target).ok()) return 0;
  std::uint64_t lost = 0;
  for (std::size_t at = 0; at < target.size(); at += spool::block_bytes) {
    const MutableBytes block = target.subspan(at, std::min(spool::block_bytes, target.size() - at));
    if (read(offset + at, block).ok()) continue;
    std::memset(block.data(), 0, block.size());
    lost += block.size();
  }
  return lost;
}

void ReadFile::forget(std::uint64_t offset, std::uint64_t bytes) const {
  (void)::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

StatusOr<DataDir> DataDir::open(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  DataDir made;
  made.path_ = std::move(path);
  const StatusOr<std::vector<std::string>> names = names_in(made.path_ + "/logs");
  if (!names.ok()) {
    if (names.status().code() != StatusCode::kNotFound) return names.status();
    struct stat facts{};
    if (::stat(made.path_.c_str(), &facts) < 0) return failure(made.path_, errno);
    return error(StatusCode::kNotFound,
                 made.path_ +
                     ": no spool: there is no folder \"logs\" in it; name the data_dir of posternd's "
                     "configuration");
  }
  for (const std::string& name : *names) {
    if (const auto log = spool::parse_log_name(name)) {
      made.logs_.push_back(*log);
    } else {
      made.foreign_.push_back("logs/" + name);
    }
  }
  return made;
}

StatusOr<LogFiles> DataDir::list(std::uint16_t log) const {
  LogFiles files;
  files.log = log;
  const std::string directory = spool::log_directory(log);
  const StatusOr<std::vector<std::string>> names = names_in(path_of(directory));
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    std::string relative = directory;
    relative += '/';
    relative += name;
    const auto slot = spool::parse_slot_name(name);
    struct stat facts{};
    if (::stat(path_of(relative).c_str(), &facts) < 0) {
      if (errno == ENOENT) continue;  // removed just now
      return failure(path_of(relative), errno);
    }
    if (slot && S_ISREG(facts.st_mode)) {
      files.slots.push_back({*slot, static_cast<std::uint64_t>(facts.st_size)});
    } else if (spool::is_damaged_name(name) && S_ISREG(facts.st_mode)) {
      files.damaged.push_back(relative);
    } else {
      files.foreign.push_back(relative);
    }
  }
  return files;
}

bool DataDir::in_use() const {
  const int lock = ::open((path_ + "/lock").c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (lock < 0) return false;
  const bool taken = ::flock(lock, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
  ::close(lock);  // gives it back
  return taken;
}

}  // namespace postern::spooltool
