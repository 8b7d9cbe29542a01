#include <algorithm>
#include <cstdint>

#include <postern/route/domain.h>
#include <postern/route/maildir.h>

namespace postern::route {

Status check_maildir_name(std::string_view name) {
  const auto refuse = [](std::string_view why) { return error(StatusCode::kInvalidArgument, why); };
  if (name.empty()) return refuse("the name is empty");
  if (name.size() > maildir_name_bytes_max) return refuse("the name is over 200 bytes long");
  if (name.front() == '.') return refuse("the name begins with a dot");
  if (name.find("..") != std::string_view::npos) return refuse("the name holds \"..\"");
  if (std::any_of(name.begin(), name.end(),
                  [](char c) { return c == '/' || static_cast<std::uint8_t>(c) < 0x20 || c == 0x7F; })) {
    return refuse("the name holds a slash or a control character");
  }
  return OkStatus();
}

StatusOr<std::string> expand_maildir(std::string_view path_template, const mail::PathView& forward_path) {
  constexpr std::string_view local_mark = "{local}";
  constexpr std::string_view domain_mark = "{domain}";
  std::string path;
  path.reserve(path_template.size() + forward_path.text.size());
  for (std::size_t at = 0; at < path_template.size();) {
    const std::string_view rest = path_template.substr(at);
    if (rest.starts_with(local_mark)) {
      const std::string name = unquote_local_part(forward_path.local_part());
      POSTERN_RETURN_IF_ERROR(check_maildir_name(name));
      path += name;
      at += local_mark.size();
    } else if (rest.starts_with(domain_mark)) {
      POSTERN_RETURN_IF_ERROR(check_maildir_name(forward_path.domain()));
      path += forward_path.domain();
      at += domain_mark.size();
    } else {
      path += rest.front();
      ++at;
    }
  }
  return path;
}

}  // namespace postern::route
