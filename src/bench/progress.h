// A line on the terminal, once a second, written over the one before. Silent when stderr is none.
#pragma once

#include <string>

#include <postern/base/time.h>

namespace postern::bench {

class Progress {
 public:
  Progress();
  ~Progress();  // leaves an empty line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  [[nodiscard]] Instant next() const { return next_; }  // `never` when silent
  [[nodiscard]] bool due(Instant now) const { return now >= next_; }
  void show(const std::string& line, Instant now);

 private:
  Instant next_ = never;
  bool shown_ = false;
};

}  // namespace postern::bench
