// The file operations that no asynchronous interface of the kernel covers, as blocking calls for a task thread.
#pragma once

#include <cstdint>

#include "io/loop.h"

namespace postern::io {

// Performs `request`, whose kind is one of allocate, file_size, list_directory and space, as loop.h says. Returns 0 or
// -errno. Any thread.
[[nodiscard]] std::int32_t perform_blocking(const FileRequest& request);

}  // namespace postern::io
