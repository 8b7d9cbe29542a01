// The process's table of descriptors: how large it may become, and growing it before it matters.
#pragma once

#include <cstddef>

#include <postern/base/status.h>

namespace postern::io {

// Raises the soft limit on descriptors to `wanted`, or to the hard limit if that is less, and grows the kernel's table
// to that size. Returns the limit now in force (never lowered), for the caller to clamp its connections to. Call it
// once, before threads start: growing the table of a threaded process waits 8–16 ms for an RCU grace period, in the
// middle of an accept.
[[nodiscard]] StatusOr<std::size_t> reserve_descriptors(std::size_t wanted);

// Another name for the same socket, owned by the caller: shards that share a listening socket each close their own.
[[nodiscard]] StatusOr<int> duplicate_descriptor(int descriptor);

}  // namespace postern::io
