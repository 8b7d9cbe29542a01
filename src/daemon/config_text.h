// A look at a configuration's characters before its parser sees them. Not a parser: what it lets through may still be
// no TOML.
#pragma once

#include <optional>
#include <string_view>

namespace postern::daemon {

// The first line, from 1, with a byte outside ASCII that is neither in a string nor in a comment. TOML has no place for
// one there [TOML 1.0, "Keys"], and toml++ 3.3 leaves its behaviour undefined when it meets some of them.
[[nodiscard]] std::optional<unsigned> line_of_stray_character(std::string_view text);

}  // namespace postern::daemon
