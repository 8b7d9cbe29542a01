// Ids as types: two ids of different kinds neither compare nor convert.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <utility>

namespace postern {

// `Tag` is any type, never defined; `Rep` an unsigned integer. Works as a key of Abseil's hash containers.
template <class Tag, class Rep>
struct StrongId {
  using rep = Rep;
  Rep value{};

  friend constexpr auto operator<=>(StrongId, StrongId) = default;

  template <class H>
  friend H AbslHashValue(H state, StrongId id) {
    return H::combine(std::move(state), id.value);
  }
};

}  // namespace postern
