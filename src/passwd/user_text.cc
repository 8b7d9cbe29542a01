#include "passwd/user_text.h"

#include <algorithm>

#include <postern/policy/user_table.h>

namespace postern::passwd {

std::optional<Entry> find_entry(std::string_view text, std::string_view user) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size() - 1) + 1;
    Entry entry{.line = text.substr(0, end), .hash = {}, .senders = {}};
    text.remove_prefix(end);
    std::string_view rest = entry.line;
    while (rest.ends_with('\n') || rest.ends_with('\r')) rest.remove_suffix(1);
    if (rest.starts_with('#') || rest.size() <= user.size() || !rest.starts_with(user) || rest[user.size()] != ':') {
      continue;
    }
    rest.remove_prefix(user.size() + 1);
    const std::size_t colon = rest.find(':');
    entry.hash = rest.substr(0, colon);
    if (colon != std::string_view::npos) entry.senders = rest.substr(colon + 1);
    return entry;
  }
  return std::nullopt;
}

std::string with_entry(std::string_view text, std::string_view user, std::string_view hash,
                       std::optional<std::string_view> senders) {
  const std::optional<Entry> old = find_entry(text, user);
  if (!senders && old) senders = old->senders;
  std::string line = std::string(user) + ":" + std::string(hash);
  if (senders) line.append(":").append(*senders);
  line += '\n';
  std::string made(text);
  if (old) {
    made.replace(static_cast<std::size_t>(old->line.data() - text.data()), old->line.size(), line);
  } else {
    if (!made.empty() && made.back() != '\n') made += '\n';
    made += line;
  }
  return made;
}

std::string without(std::string_view text, const Entry& entry) {
  std::string made(text);
  made.erase(static_cast<std::size_t>(entry.line.data() - text.data()), entry.line.size());
  return made;
}

Status check_text(std::string_view text, const std::string& path) {
  return policy::UserTable::parse(text, path, "").status();
}

}  // namespace postern::passwd
