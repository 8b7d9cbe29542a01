// The text of a file of users, one line of it exchanged: comments, order and all other lines stay as they are.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <postern/base/status.h>

namespace postern::passwd {

// USER:HASH[:SENDERS] of the line that is `user`'s, as views into the text.
struct Entry {
  std::string_view line;  // with its line end
  std::string_view hash;
  std::optional<std::string_view> senders;
};
[[nodiscard]] std::optional<Entry> find_entry(std::string_view text, std::string_view user);

// `user`'s entry anew: in its place, or as the last. Without `senders`, those that it has are kept.
[[nodiscard]] std::string with_entry(std::string_view text, std::string_view user, std::string_view hash,
                                     std::optional<std::string_view> senders);
[[nodiscard]] std::string without(std::string_view text, const Entry& entry);

// What posternd would say of the whole text: kInvalidArgument "PATH:LINE: what; cure".
[[nodiscard]] Status check_text(std::string_view text, const std::string& path);

}  // namespace postern::passwd
