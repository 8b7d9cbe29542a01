#include "daemon/secret_file.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <unistd.h>

#include <sys/stat.h>

#include <postern/base/units.h>
#include <postern/sasl/digest.h>

#include "daemon/process.h"

namespace postern::daemon {

SecretFile::~SecretFile() {
  sasl::wipe(text);
}

Status read_secret_file(const std::string& path, std::uint64_t bytes_max, SecretFile& file) {
  const auto failed = [&](std::string_view what) {
    return error(StatusCode::kUnavailable, path + ": " + std::string(what));
  };
  const OwnedDescriptor descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat facts{};
  if (descriptor.get() < 0 || fstat(descriptor.get(), &facts) < 0) return failed(std::strerror(errno));
  if (!S_ISREG(facts.st_mode)) return failed("no ordinary file");
  if (static_cast<std::uint64_t>(facts.st_size) > bytes_max) return failed("larger than " + format_size(bytes_max));
  file.others_may_read = (facts.st_mode & S_IROTH) != 0;
  file.text.resize(static_cast<std::size_t>(facts.st_size));
  std::size_t size = 0;
  while (size < file.text.size()) {
    const ssize_t count = read(descriptor.get(), file.text.data() + size, file.text.size() - size);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failed(std::strerror(errno));
    if (count == 0) break;
    size += static_cast<std::size_t>(count);
  }
  file.text.resize(size);
  return OkStatus();
}

}  // namespace postern::daemon
