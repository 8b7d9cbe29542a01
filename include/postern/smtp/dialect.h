// Which of the two closely related protocols a session speaks, in either role.
#pragma once

#include <cstdint>

namespace postern::smtp {

enum class Dialect : std::uint8_t {
  smtp,  // [RFC 5321]
  // LHLO instead of HELO and EHLO, and behind the end of data one reply for each accepted recipient [RFC 2033 §4]:
  // whoever answers keeps no queue, so that every recipient's fate is known at once.
  lmtp,
};

}  // namespace postern::smtp
