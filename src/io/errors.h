// errno values as Status, with what was being done in front of the kernel's words.
#pragma once

#include <string_view>

#include <postern/base/status.h>

namespace postern::io {

// "<doing>: <the kernel's words>". kAlreadyExists: taken by another (EADDRINUSE, EEXIST); kResourceExhausted: no
// descriptor, buffer, memory or space; kPermissionDenied; kNotFound; kInvalidArgument; else kUnavailable.
[[nodiscard]] Status errno_status(int code, std::string_view doing);

}  // namespace postern::io
