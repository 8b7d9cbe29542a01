#include "passwd/secure_file.h"

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>
#include <utility>

#include <sys/file.h>
#include <sys/stat.h>

#include <postern/sasl/digest.h>

namespace postern::passwd {
namespace {

constexpr std::int64_t file_bytes_max = 64 << 20;  // as posternd has it
constexpr mode_t mode_of_new = 0640;

Status failed(const std::string& path, int reason) {
  return error(reason == ENOENT ? StatusCode::kNotFound : StatusCode::kUnavailable,
               path + ": " + std::strerror(reason));
}

// What a symbolic link leads to; the path itself when there is nothing yet.
std::string resolved(const std::string& path) {
  char* const found = ::realpath(path.c_str(), nullptr);
  if (found == nullptr) return path;
  std::string text(found);
  std::free(found);
  return text;
}

Status write_whole(int descriptor, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    const ssize_t count = ::write(descriptor, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failed(path, errno);
    text.remove_prefix(static_cast<std::size_t>(count));
  }
  return ::fsync(descriptor) == 0 ? OkStatus() : failed(path, errno);
}

}  // namespace

SecureFile::SecureFile(SecureFile&& other) noexcept
    : path_(std::move(other.path_)), text_(std::move(other.text_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

SecureFile::~SecureFile() {
  sasl::wipe(text_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

StatusOr<SecureFile> SecureFile::open(const std::string& path, bool make) {
  SecureFile file;
  file.path_ = resolved(path);
  struct stat facts{};
  while (true) {
    const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (make ? O_CREAT : 0);
    file.descriptor_ = ::open(file.path_.c_str(), flags, mode_of_new);
    if (file.descriptor_ < 0) return failed(path, errno);
    if (::fstat(file.descriptor_, &facts) != 0) return failed(path, errno);
    if (!S_ISREG(facts.st_mode)) return error(StatusCode::kInvalidArgument, path + ": no ordinary file; name one");
    while (::flock(file.descriptor_, LOCK_EX) != 0) {
      if (errno != EINTR) return failed(path, errno);
    }
    // Whoever had the lock may have put another file here.
    struct stat now{};
    if (::stat(file.path_.c_str(), &now) == 0 && now.st_ino == facts.st_ino && now.st_dev == facts.st_dev) break;
    ::close(std::exchange(file.descriptor_, -1));
  }
  if (::fstat(file.descriptor_, &facts) != 0) return failed(path, errno);
  if (facts.st_size > file_bytes_max) return error(StatusCode::kInvalidArgument, path + ": larger than 64 MiB");
  file.text_.resize(static_cast<std::size_t>(facts.st_size));
  std::size_t size = 0;
  while (size < file.text_.size()) {
    const ssize_t count = ::read(file.descriptor_, file.text_.data() + size, file.text_.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failed(path, errno);
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
  }
  file.text_.resize(size);
  return file;
}

Status SecureFile::replace(std::string_view text) const {
  struct stat facts{};
  if (::fstat(descriptor_, &facts) != 0) return failed(path_, errno);
  std::string fresh = path_ + ".XXXXXX";
  const int descriptor = ::mkostemp(fresh.data(), O_CLOEXEC);
  if (descriptor < 0) return failed(fresh, errno);
  // The owner first: with another one, permissions would be lost. That only root may do, and posternd must go on
  // reading it.
  Status status;
  if (::fchown(descriptor, facts.st_uid, facts.st_gid) != 0) {
    status = error(StatusCode::kUnavailable, path_ + ": its owner cannot be kept: " + std::strerror(errno));
  } else if (::fchmod(descriptor, facts.st_mode & 07777) != 0) {
    status = failed(fresh, errno);
  } else {
    status = write_whole(descriptor, text, fresh);
  }
  ::close(descriptor);
  if (status.ok() && ::rename(fresh.c_str(), path_.c_str()) != 0) status = failed(path_, errno);
  if (!status.ok()) {
    ::unlink(fresh.c_str());
    return status;
  }
  const std::size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path_.substr(0, slash);
  const int opened = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (opened < 0) return failed(folder, errno);
  if (::fsync(opened) != 0) status = failed(folder, errno);
  ::close(opened);
  return status;
}

}  // namespace postern::passwd
