// BoringSSL's reasons as one line of text.
#pragma once

#include <string>

namespace postern::tls {

// What the thread's error queue holds, oldest first, as "wrong tag, bad certificate"; empties it. "" when there is
// none.
[[nodiscard]] std::string take_errors();

}  // namespace postern::tls
