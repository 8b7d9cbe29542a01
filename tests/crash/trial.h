// One crash image on trial: the relay's own shards recover it on a simulated machine and deliver what they find, and
// the simulator's oracle compares that with what had been promised (tests/sim/oracle.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "tests/crash/evidence.h"
#include "tests/crash/history.h"

namespace postern::crash {

struct Verdict {
  std::vector<std::string> violations{};
  std::size_t waiting = 0;    // recipients that the recovery found unsettled
  std::size_t delivered = 0;  // recipients delivered, before the crash or afterwards
  std::size_t doubled = 0;    // of these, more than once
};

// `seed` decides the number of shards and all chance of the run; one in three loses its power again while it recovers.
[[nodiscard]] Verdict try_image(const Image& image, const Manifest& manifest, const Evidence& evidence,
                                std::uint64_t seed);

}  // namespace postern::crash
