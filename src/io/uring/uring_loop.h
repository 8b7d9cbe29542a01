// The io_uring backend of io::Loop: one ring, its receive buffers and a few task threads.
//
// Make it in any thread; the thread of the first run_once() becomes its owner. Destroy it there, or after that thread
// has ended. What is pending then is cancelled and waited for (5 s at most), so that no memory of the caller is written
// afterwards; its completions reach nobody.
#pragma once

#include <cstddef>
#include <memory>

#include <postern/base/status.h>

#include "io/loop.h"

namespace postern::io {

struct UringOptions {
  // Entries started in one turn beyond this cost a second system call, no more. A power of two.
  unsigned submission_entries = 512;
  // A power of two. What does not fit is kept by the kernel at some cost, and ends multishot accepts.
  unsigned completion_entries = 8192;
  // Receive buffers: a power of two, ≤ 32,768. Memory is taken as they are first used: 16 MiB at most here.
  unsigned receive_buffers = 1024;
  unsigned receive_buffer_bytes = 16u << 10;
  // Handed out by one run_once(): at some 2–4 µs each, a turn stays below 1 ms.
  std::size_t completions_per_turn = 256;
  std::size_t task_threads = 2;     // started with the first task
  std::size_t tasks_queued = 1024;  // beyond: -EAGAIN
  unsigned kernel_workers = 4;      // the kernel's own threads for what blocks, of each of its two kinds
  // As if the file system refused O_DIRECT: for tests of the fallback.
  bool refuse_direct = false;
};

// kFailedPrecondition: io_uring cannot be used here, with cause and cure (see probe_uring()). kResourceExhausted: no
// memory or descriptor for it.
[[nodiscard]] StatusOr<std::unique_ptr<Loop>> make_uring_loop(const UringOptions& options = {});

}  // namespace postern::io
