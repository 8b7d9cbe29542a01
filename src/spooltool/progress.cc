#include "spooltool/progress.h"

#include <cstdio>
#include <unistd.h>

namespace postern::spooltool {
namespace {

constexpr auto interval = std::chrono::milliseconds(250);

}  // namespace

Progress::Progress(std::string_view what) : what_(what), terminal_(::isatty(STDERR_FILENO) != 0) {}

Progress::~Progress() {
  if (shown_) std::fputs("\r\033[K", stderr);
}

void Progress::show(std::uint64_t done, std::uint64_t all) {
  if (!terminal_) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < next_) return;
  next_ = now + interval;
  shown_ = true;
  std::fprintf(stderr, "\r\033[K%.*s: %llu of %llu", static_cast<int>(what_.size()), what_.data(),
               static_cast<unsigned long long>(done), static_cast<unsigned long long>(all));
  std::fflush(stderr);
}

}  // namespace postern::spooltool
