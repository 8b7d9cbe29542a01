// Counts operator new of the whole test program, to hold code to "allocates nothing in steady state".
#pragma once

#include <cstddef>

namespace postern::smtp {

// False under sanitizers, which bring an operator new of their own that ours must not replace.
[[nodiscard]] bool allocations_are_counted();
[[nodiscard]] std::size_t allocations_so_far();

}  // namespace postern::smtp
