// How large messages are: one size, or drawn from a table of sizes with their shares. Pure: randomness is an argument.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include <postern/base/random.h>
#include <postern/base/status.h>

namespace postern::bench {

class Sizes {
 public:
  static constexpr std::size_t choices_max = 1024;
  static constexpr std::uint32_t bytes_max = 64u << 20;

  struct Choice {
    std::uint32_t bytes = 0;  // of the whole content: header section and body
    std::uint32_t weight = 0;
  };

  [[nodiscard]] static Sizes fixed(std::uint32_t bytes) { return Sizes({{.bytes = bytes, .weight = 1}}); }
  // The shape of real mail: a median of 5 KiB, a mean of 63 KiB, 1.2 % above 1 MiB. See sizes.cc for its source.
  [[nodiscard]] static Sizes real_mix();
  // "10KiB"; "mix" for real_mix(); or "1KiB:70,10KiB:25,1MiB:5", each with its weight. kInvalidArgument says what is
  // wrong.
  [[nodiscard]] static StatusOr<Sizes> parse(std::string_view text);

  // Index into choices(), each as likely as its weight says.
  [[nodiscard]] std::size_t draw(Random& random) const;
  [[nodiscard]] const std::vector<Choice>& choices() const { return choices_; }
  [[nodiscard]] double mean_bytes() const;

 private:
  explicit Sizes(std::vector<Choice> choices);

  std::vector<Choice> choices_;
  std::vector<std::uint64_t> sums_;  // of the weights up to and with each choice
};

}  // namespace postern::bench
