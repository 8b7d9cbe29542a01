// A file that holds secrets, whole, overwritten in memory when it is done with.
#pragma once

#include <cstdint>
#include <string>

#include <postern/base/status.h>

namespace postern::daemon {

struct SecretFile {
  SecretFile() = default;
  SecretFile(const SecretFile&) = delete;
  SecretFile& operator=(const SecretFile&) = delete;
  ~SecretFile();

  std::string text;
  bool others_may_read = false;  // anyone on this machine: worth a warning
};

// An ordinary file of at most `bytes_max`. kUnavailable: "PATH: why".
[[nodiscard]] Status read_secret_file(const std::string& path, std::uint64_t bytes_max, SecretFile& file);

}  // namespace postern::daemon
