#include "io/sim/trace.h"

#include <cinttypes>
#include <cstdio>
#include <span>
#include <string>

#include <postern/base/hash.h>

namespace postern::io::sim {

void Trace::mix(std::uint64_t value) {
  hash_ = hash_bytes(std::as_bytes(std::span(&value, 1)), hash_);
}

void Trace::note(Instant now, std::string_view what, std::uint64_t a, std::uint64_t b, std::uint64_t c) {
  ++lines_;
  hash_ = hash_bytes(as_bytes(what), hash_);
  const std::uint64_t numbers[] = {static_cast<std::uint64_t>(now.time_since_epoch().count()), a, b, c};
  hash_ = hash_bytes(std::as_bytes(std::span(numbers)), hash_);
  if (!listener_) return;
  char text[160];
  std::snprintf(text, sizeof text, "%.*s %" PRIu64 " %" PRIu64 " %" PRIu64, static_cast<int>(what.size()), what.data(),
                a, b, c);
  print(now, text);
}

void Trace::say(Instant now, std::string_view what, std::string_view words) {
  ++lines_;
  hash_ = hash_bytes(as_bytes(what), hash_);
  hash_ = hash_bytes(as_bytes(words), hash_);
  mix(static_cast<std::uint64_t>(now.time_since_epoch().count()));
  if (listener_) print(now, std::string(what).append(" ").append(words));
}

void Trace::print(Instant now, std::string_view text) {
  char time[32];
  const std::int64_t microseconds = now.time_since_epoch().count() / 1000;
  std::snprintf(time, sizeof time, "%5" PRId64 ".%06" PRId64 " ", microseconds / 1'000'000, microseconds % 1'000'000);
  listener_(std::string(time).append(text));
}

}  // namespace postern::io::sim
