// Hashing of text for hash containers, transparent for std::string_view.
//
// The hash of a container must never show in any output: Abseil's order differs per process.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <postern/base/bytes.h>

namespace postern {

// 64-bit XXH3 of `bytes` under `seed`. Not a checksum format: values may change between versions.
[[nodiscard]] std::uint64_t hash_bytes(Bytes bytes, std::uint64_t seed = 0);

struct TextHash {
  using is_transparent = void;
  [[nodiscard]] std::size_t operator()(std::string_view text) const;  // seeded once per process
};

struct TextEqual {
  using is_transparent = void;
  [[nodiscard]] bool operator()(std::string_view a, std::string_view b) const { return a == b; }
};

template <class Value>
using TextMap = absl::flat_hash_map<std::string, Value, TextHash, TextEqual>;
using TextSet = absl::flat_hash_set<std::string, TextHash, TextEqual>;

}  // namespace postern
