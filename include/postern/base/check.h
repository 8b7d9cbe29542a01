// POSTERN_CHECK stops the process on our own bugs, in every build kind. Never for what a peer or the world does:
// a peer's doing becomes a reply, the world's a Status.
#pragma once

#include <string_view>

namespace postern::internal {

[[noreturn]] void check_failed(const char* file, int line, const char* condition, std::string_view detail);

}  // namespace postern::internal

// POSTERN_CHECK(condition) or POSTERN_CHECK(condition, "what that means").
#define POSTERN_CHECK(condition, ...)                                                                   \
  do {                                                                                                  \
    if (!(condition)) [[unlikely]] {                                                                    \
      ::postern::internal::check_failed(__FILE__, __LINE__, #condition, std::string_view{__VA_ARGS__}); \
    }                                                                                                   \
  } while (false)
