#include "daemon/config_text.h"

#include <algorithm>
#include <cstddef>

namespace postern::daemon {
namespace {

// Behind the string or comment that begins at `at`. One that is not ended ends with its line, or with the text.
std::size_t end_of_string(std::string_view text, std::size_t at) {
  const char quote = text[at];
  const std::string_view triple = quote == '"' ? R"(""")" : "'''";
  const bool multi_line = text.substr(at).starts_with(triple);
  at += multi_line ? 3 : 1;
  for (; at < text.size(); ++at) {
    if (quote == '"' && text[at] == '\\') {
      ++at;
    } else if (multi_line && text.substr(at).starts_with(triple)) {
      // Up to two quotes may stand before the three that end it.
      at += 3;
      while (at < text.size() && text[at] == quote) ++at;
      return at;
    } else if (!multi_line && text[at] == quote) {
      return at + 1;
    } else if (!multi_line && text[at] == '\n') {
      return at;
    }
  }
  return text.size();
}

}  // namespace

std::optional<unsigned> line_of_stray_character(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // a byte order mark
  unsigned line = 1;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t next = at + 1;
    if (text[at] == '"' || text[at] == '\'') {
      next = end_of_string(text, at);
    } else if (text[at] == '#') {
      next = std::min(text.find('\n', at), text.size());
    } else if (static_cast<unsigned char>(text[at]) >= 0x80) {
      return line;
    }
    for (; at < next; ++at) line += text[at] == '\n';
  }
  return std::nullopt;
}

}  // namespace postern::daemon
