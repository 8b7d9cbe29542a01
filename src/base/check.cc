#include <cstdio>
#include <cstdlib>

#include <postern/base/check.h>

namespace postern::internal {

void check_failed(const char* file, int line, const char* condition, std::string_view detail) {
  std::fprintf(stderr, "postern: bug at %s:%d: %s%s%.*s\n", file, line, condition, detail.empty() ? "" : ": ",
               static_cast<int>(detail.size()), detail.data());
  std::abort();
}

}  // namespace postern::internal
