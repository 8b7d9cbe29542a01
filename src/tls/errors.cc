#include "tls/errors.h"

#include <algorithm>
#include <cctype>
#include <cstdint>

#include "tls/boringssl.h"

namespace postern::tls {

std::string take_errors() {
  std::string text;
  // The queue is bounded (16), and so is each reason.
  while (const std::uint32_t code = ERR_get_error()) {
    const char* const reason = ERR_reason_error_string(code);
    if (reason == nullptr) continue;
    if (!text.empty()) text += ", ";
    for (const char* c = reason; *c != '\0'; ++c) {
      text += *c == '_' ? ' ' : static_cast<char>(std::tolower(static_cast<unsigned char>(*c)));
    }
  }
  return text;
}

}  // namespace postern::tls
