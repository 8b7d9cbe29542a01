// Base64 as SASL in SMTP has it [RFC 4648 §4, RFC 4954 §4]: one alphabet, padded, nothing else.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace postern::sasl {

void append_base64(std::string& out, std::string_view bytes);
[[nodiscard]] std::string to_base64(std::string_view bytes);

// Nullopt for what no encoder writes: other characters, white space, missing or early padding, bits behind the end.
[[nodiscard]] std::optional<std::string> from_base64(std::string_view text);

}  // namespace postern::sasl
