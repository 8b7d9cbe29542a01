// The file operations that no asynchronous interface of the kernel covers, as blocking calls for a task thread; and
// what a start does before there is a loop.
#pragma once

#include <cstdint>
#include <string>

#include <postern/base/status.h>

#include "io/loop.h"

namespace postern::io {

// Performs `request`, whose kind is one of allocate, file_size, list_directory, space and identity, as loop.h says.
// Returns 0 or -errno. Any thread.
[[nodiscard]] std::int32_t perform_blocking(const FileRequest& request);

// Makes the names in a folder durable: no crash takes those that it has now.
[[nodiscard]] Status sync_directory(const std::string& path);

}  // namespace postern::io
