#include "io/descriptors.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <fcntl.h>
#include <unistd.h>

#include <sys/resource.h>

#include "io/errors.h"

namespace postern::io {

StatusOr<std::size_t> reserve_descriptors(std::size_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return errno_status(errno, "reading the limit on descriptors");
  const rlim_t target = std::min<rlim_t>(std::max<rlim_t>(wanted, limit.rlim_cur), limit.rlim_max);
  if (target > limit.rlim_cur) {
    limit.rlim_cur = target;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return errno_status(errno, "raising the limit on descriptors");
  }
  // The table only ever grows; a descriptor at its far end makes it as large as it is going to be. `wanted` bounds
  // what is reserved: where the limit is infinite, a table of that size would cost gigabytes.
  const rlim_t last = std::min<rlim_t>({target, static_cast<rlim_t>(std::max<std::size_t>(wanted, 1)), INT_MAX}) - 1;
  const int any = open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (any < 0) return errno_status(errno, "opening /dev/null");
  const int far = fcntl(any, F_DUPFD_CLOEXEC, static_cast<int>(last));
  // EMFILE: everything from there on is taken already, so the table has its size.
  const int code = far < 0 && errno != EMFILE ? errno : 0;
  if (far >= 0) close(far);
  close(any);
  if (code != 0) return errno_status(code, "growing the table of descriptors");
  return static_cast<std::size_t>(target);
}

StatusOr<int> duplicate_descriptor(int descriptor) {
  const int copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return errno_status(errno, "duplicating a descriptor");
  return copy;
}

}  // namespace postern::io
