// Randomness as an argument. The driver seeds one per shard from the kernel (or from a simulation's seed); the pure
// part never asks the kernel. Good for jitter, shuffles, ports and ids that must not be guessed from outside only as
// far as the seed is secret: xoshiro256++ is no cryptographic generator. Keys come from the driver.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace postern {

class Random {
 public:
  using result_type = std::uint64_t;
  explicit Random(std::array<std::uint64_t, 4> seed) : state_(seed) {
    if ((seed[0] | seed[1] | seed[2] | seed[3]) == 0) state_[0] = 1;
  }
  explicit Random(std::uint64_t seed);

  static constexpr std::uint64_t min() { return 0; }
  static constexpr std::uint64_t max() { return UINT64_MAX; }

  std::uint64_t operator()() {
    const std::uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
    const std::uint64_t t = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= t;
    state_[3] = std::rotl(state_[3], 45);
    return result;
  }

  // Nearly uniform in [0, bound), bound in 1…2^32: no value is likelier than another by more than bound / 2^32.
  std::uint64_t below(std::uint64_t bound) { return (((*this)() >> 32) * bound) >> 32; }

 private:
  std::array<std::uint64_t, 4> state_;
};

}  // namespace postern
