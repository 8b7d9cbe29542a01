#include "io/blocking_file.h"

#include <algorithm>
#include <cerrno>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <string>
#include <string_view>
#include <unistd.h>

#include <sys/stat.h>
#include <sys/statvfs.h>

#include "io/errors.h"

namespace postern::io {
namespace {

struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

std::int32_t list_directory(const FileRequest& request) {
  request.names_out->clear();
  const std::unique_ptr<DIR, CloseDirectory> directory(opendir(request.path));
  if (directory == nullptr) return -errno;
  while (true) {
    errno = 0;
    const dirent* const entry = readdir(directory.get());  // a stream of our own: no other thread reads it
    if (entry == nullptr) break;
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") request.names_out->emplace_back(name);
  }
  if (errno != 0) return -errno;
  std::sort(request.names_out->begin(), request.names_out->end());
  return 0;
}

std::int32_t file_size(const FileRequest& request) {
  struct stat about{};
  if (stat(request.path, &about) != 0) return -errno;
  *request.size_out = static_cast<std::uint64_t>(about.st_size);
  return 0;
}

std::int32_t space(const FileRequest& request) {
  struct statvfs about{};
  if (statvfs(request.path, &about) != 0) return -errno;
  request.space_out->free_bytes = std::uint64_t{about.f_bavail} * about.f_frsize;
  request.space_out->total_bytes = std::uint64_t{about.f_blocks} * about.f_frsize;
  return 0;
}

std::int32_t identity(const FileRequest& request) {
  struct stat about{};
  if (stat(request.path, &about) != 0) return -errno;
  *request.identity_out = {.device = about.st_dev, .inode = about.st_ino};
  return 0;
}

}  // namespace

Status sync_directory(const std::string& path) {
  const int directory = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (directory < 0) return errno_status(errno, path + ": cannot be opened to sync it");
  const int failure = fsync(directory) == 0 ? 0 : errno;
  close(directory);
  return failure == 0 ? OkStatus() : errno_status(failure, path + ": cannot be synced");
}

std::int32_t perform_blocking(const FileRequest& request) {
  switch (request.kind) {
    case FileRequest::Kind::allocate:
      return -posix_fallocate(request.descriptor, static_cast<off_t>(request.offset),
                              static_cast<off_t>(request.length));
    case FileRequest::Kind::file_size:
      return file_size(request);
    case FileRequest::Kind::list_directory:
      return list_directory(request);
    case FileRequest::Kind::space:
      return space(request);
    case FileRequest::Kind::identity:
      return identity(request);
    default:
      return -EINVAL;
  }
}

}  // namespace postern::io
