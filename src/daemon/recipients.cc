#include "daemon/recipients.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include <sys/stat.h>

namespace postern::daemon {
namespace {

Status unreadable(const std::string& path, int reason) {
  return error(StatusCode::kNotFound, path + ":1: cannot be read: " + std::strerror(reason) +
                                          "; make it, readable for the user that posternd runs as");
}

}  // namespace

StatusOr<std::shared_ptr<const policy::RecipientTable>> load_recipients(const shard::RecipientOptions& options,
                                                                        const std::string& config_path) {
  if (!options.given()) return std::shared_ptr<const policy::RecipientTable>();
  policy::RecipientTableBuilder builder(options.separator);
  for (const shard::RecipientOptions::Known& known : options.known) {
    if (const Status status = builder.add(known.entry, config_path, known.line); !status.ok()) {
      return error(status.code(), config_path + ":" + std::to_string(known.line) +
                                      ": recipients.known: " + std::string(message_of(status)));
    }
  }
  if (!options.file.empty()) {
    // Neither a pipe, which may never end nor begin, nor more than can be meant.
    struct stat about{};
    if (::stat(options.file.c_str(), &about) != 0) return unreadable(options.file, errno);
    if (!S_ISREG(about.st_mode)) {
      return error(StatusCode::kInvalidArgument, options.file + ":1: is no regular file; name one");
    }
    if (static_cast<std::uint64_t>(about.st_size) > recipient_file_bytes_max) {
      return error(StatusCode::kInvalidArgument, options.file + ":1: is larger than 1 GiB; name a smaller one");
    }
    errno = 0;
    std::ifstream stream(options.file, std::ios::binary);
    if (!stream) return unreadable(options.file, errno);
    std::string text{std::istreambuf_iterator<char>(stream), {}};
    if (stream.bad()) return unreadable(options.file, errno);
    if (options.file.ends_with(".cdb")) {
      POSTERN_RETURN_IF_ERROR(builder.add_cdb(as_bytes(text), options.file));
    } else {
      POSTERN_RETURN_IF_ERROR(builder.add_lines(text, options.file));
    }
  }
  StatusOr<policy::RecipientTable> table = std::move(builder).finish();
  if (!table.ok()) return table.status();
  // Truncated on its way here, more likely than meant: with it all mail would be refused for good.
  if (!options.file.empty() && table->size() == 0) {
    return error(StatusCode::kInvalidArgument, options.file + ":1: holds no address; write one a line");
  }
  return std::make_shared<const policy::RecipientTable>(*std::move(table));
}

void RecipientFile::watch(const std::string& path) {
  path_ = path;
  known_ = seen_ = look();
}

RecipientFile::Look RecipientFile::look() const {
  struct stat about{};
  if (path_.empty() || ::stat(path_.c_str(), &about) != 0) return {};
  return {.device = about.st_dev,
          .inode = about.st_ino,
          .size = static_cast<std::uint64_t>(about.st_size),
          .modified_s = about.st_mtim.tv_sec,
          .modified_ns = about.st_mtim.tv_nsec};
}

bool RecipientFile::changed() {
  if (path_.empty()) return false;
  const Look now = look();
  const bool settled = now == std::exchange(seen_, now);
  if (!settled || now == known_ || now == Look{}) return false;
  known_ = now;
  return true;
}

}  // namespace postern::daemon
