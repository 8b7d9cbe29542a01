// What the kernel must be able to do for the uring backend, found out by trying, and said with cause and cure.
#pragma once

#include <cstdint>

#include <postern/base/status.h>

namespace postern::io {

// Tries everything the backend relies on with a small ring of its own: set-up, needed operations, provided buffers, and
// a receive with a timeout. OK: make_uring_loop() will work here. kFailedPrecondition: it will not; the message says
// why and what to do about it, in one line.
[[nodiscard]] Status probe_uring();

namespace uring {

// What io_uring_setup's refusal with errno `code` means on this system.
[[nodiscard]] Status refusal(int code);
// Whether `features` (of io_uring_params) has what the backend needs.
[[nodiscard]] Status check_features(std::uint32_t features);

}  // namespace uring
}  // namespace postern::io
