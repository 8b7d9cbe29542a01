// A password from a person at the terminal, who does not see what they type, or from a program, as the one line on
// standard input.
#pragma once

#include <postern/base/status.h>
#include <postern/sasl/digest.h>

namespace postern::passwd {

// `twice`: a person types it again, as a slip would not be seen. kInvalidArgument: the two differ, or there is none.
[[nodiscard]] StatusOr<sasl::Secret> read_password(bool twice);

}  // namespace postern::passwd
