// What happened in a simulated world, as one hash over all of it, and as text for people when somebody listens.
//
// Equal seeds give equal hashes, in any process: nothing that differs between processes (addresses of memory, hash
// order, real time) may be noted.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <utility>

#include <postern/base/time.h>

namespace postern::io::sim {

class Trace {
 public:
  // Each line of the trace, without line end, as it happens.
  using Listener = std::function<void(std::string_view)>;
  void listen(Listener listener) { listener_ = std::move(listener); }

  // `what` names the event; the numbers are its own.
  void note(Instant now, std::string_view what, std::uint64_t a = 0, std::uint64_t b = 0, std::uint64_t c = 0);
  // The same with words, for what a person wants to read.
  void say(Instant now, std::string_view what, std::string_view words);

  [[nodiscard]] std::uint64_t hash() const { return hash_; }
  [[nodiscard]] std::uint64_t lines() const { return lines_; }

 private:
  void mix(std::uint64_t value);
  void print(Instant now, std::string_view text);

  std::uint64_t hash_ = 0;
  std::uint64_t lines_ = 0;
  Listener listener_;
};

}  // namespace postern::io::sim
