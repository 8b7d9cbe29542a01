// absl::Status for the world's failures, with std::string_view spelled on our side.
//
// Debian 12 builds Abseil as C++14, where absl::string_view is a type of its own; only this header and base/hash.h
// know about that.
#pragma once

#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace postern {

using absl::OkStatus;
using absl::Status;
using absl::StatusCode;
using absl::StatusOr;

[[nodiscard]] inline Status error(StatusCode code, std::string_view message) {
  return Status(code, absl::string_view(message.data(), message.size()));
}

[[nodiscard]] inline std::string_view message_of(const Status& status) {
  const absl::string_view text = status.message();
  return {text.data(), text.size()};
}

}  // namespace postern

// Returns from the enclosing function when `expression` is not OK.
#define POSTERN_RETURN_IF_ERROR(expression)                                                           \
  do {                                                                                                \
    if (::absl::Status postern_status_ = (expression); !postern_status_.ok()) return postern_status_; \
  } while (false)
