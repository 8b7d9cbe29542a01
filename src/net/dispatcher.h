// Routes completions to whoever started the operation, by the token's kind: an array look-up and a virtual call.
//
// Each part of a shard (connections, listeners, resolver, spool driver, Maildirs) owns some kinds and gives the slot
// and generation of its tokens a meaning of its own. One per loop, used from its thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "io/loop.h"

namespace postern::net {

using CompletionHandler = io::Sink;

class Dispatcher final : public io::Sink {
 public:
  // Kind 0 belongs to nobody, so that a token that was never filled in shows.
  static constexpr std::size_t kinds_max = 255;

  Dispatcher() = default;
  Dispatcher(const Dispatcher&) = delete;
  Dispatcher& operator=(const Dispatcher&) = delete;

  // Gives `handler` the lowest `count` neighbouring kinds that are free, and returns the first. There are enough.
  [[nodiscard]] std::uint8_t claim(CompletionHandler& handler, std::size_t count = 1);
  // Only when no operation with these kinds is pending, or when the loop is gone.
  void release(std::uint8_t first_kind, std::size_t count = 1);

  // A completion of a kind that nobody owns is our bug and stops the process.
  void on_completion(const io::Completion& completion) override;

 private:
  std::array<CompletionHandler*, kinds_max + 1> handlers_{};
};

}  // namespace postern::net
