#include "bench/progress.h"

#include <cstdio>
#include <unistd.h>

namespace postern::bench {

Progress::Progress() {
  if (::isatty(STDERR_FILENO) != 0) next_ = Instant::min();
}

Progress::~Progress() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

void Progress::show(const std::string& line, Instant now) {
  shown_ = true;
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
  next_ = now + std::chrono::seconds(1);
}

}  // namespace postern::bench
