// The receive buffers of one loop, provided to the kernel in a ring: it takes one when bytes arrive, not when a receive
// is started, so that idle connections cost no buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <liburing.h>
#include <memory>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/check.h>
#include <postern/base/status.h>

#include "io/loop.h"

namespace postern::io::uring {

struct BufferRingOptions {
  unsigned count = 1024;       // a power of two, ≤ 32,768
  unsigned bytes = 16u << 10;  // each
};

class BufferRing {
 public:
  static constexpr std::uint16_t group = 0;  // the only buffer group of the ring

  // Must be destroyed before `ring`'s set-up is undone, and after its last operation ended.
  [[nodiscard]] static StatusOr<std::unique_ptr<BufferRing>> create(io_uring& ring, const BufferRingOptions& options);
  ~BufferRing();
  BufferRing(const BufferRing&) = delete;
  BufferRing& operator=(const BufferRing&) = delete;

  [[nodiscard]] unsigned buffer_bytes() const { return options_.bytes; }
  // Not lent. Completions that are not handed out yet may hold some of them.
  [[nodiscard]] std::size_t free() const { return free_; }

  // Takes note that the kernel filled buffer `id` with `size` bytes, and answers them.
  [[nodiscard]] MutableBytes lend(std::uint16_t id, std::size_t size);
  // Back to the kernel.
  void take_back(std::uint16_t id);

 private:
  BufferRing() = default;
  [[nodiscard]] std::byte* buffer(std::uint16_t id) const { return buffers_ + std::size_t{id} * options_.bytes; }
  void provide(std::uint16_t id);

  io_uring* ring_ = nullptr;
  BufferRingOptions options_;
  std::byte* mapping_ = nullptr;  // the ring's entries (whole pages), then the buffers
  std::size_t mapping_bytes_ = 0;
  io_uring_buf_ring* entries_ = nullptr;
  std::byte* buffers_ = nullptr;
  bool registered_ = false;
  std::size_t free_ = 0;
  std::vector<bool> lent_;
};

}  // namespace postern::io::uring
