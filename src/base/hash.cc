#include <cstdint>
#include <xxhash.h>

#include <postern/base/hash.h>

namespace postern {
namespace {

// Peers choose the keys (domains, addresses), so the seed must be one that they cannot guess. The address of a global
// is random enough for that under ASLR, costs no system call, and no output depends on it.
std::uint64_t process_seed() {
  static const char anchor = 0;
  return reinterpret_cast<std::uintptr_t>(&anchor) * 0x9E3779B97F4A7C15u;
}

}  // namespace

std::uint64_t hash_bytes(Bytes bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

std::size_t TextHash::operator()(std::string_view text) const {
  return XXH3_64bits_withSeed(text.data(), text.size(), process_seed());
}

}  // namespace postern
