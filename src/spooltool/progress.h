// One line on the terminal while something long is read, a few times a second, over the one before. Silent when stderr
// is no terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

namespace postern::spooltool {

class Progress {
 public:
  explicit Progress(std::string_view what);
  ~Progress();  // leaves an empty line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(std::uint64_t done, std::uint64_t all);  // "WHAT: 3 of 8"

 private:
  const std::string_view what_;
  const bool terminal_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point next_{};
};

}  // namespace postern::spooltool
