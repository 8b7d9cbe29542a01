#include <postern/base/random.h>

namespace postern {
namespace {

// splitmix64: spreads a small seed over the whole state.
std::uint64_t next_seed(std::uint64_t& x) {
  x += 0x9E3779B97F4A7C15u;
  std::uint64_t z = x;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

}  // namespace

Random::Random(std::uint64_t seed) : state_{} {
  for (std::uint64_t& word : state_) word = next_seed(seed);
}

}  // namespace postern
