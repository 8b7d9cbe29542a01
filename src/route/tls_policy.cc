#include <postern/route/tls_policy.h>

namespace postern::route {

std::string_view to_text(TlsLevel level) {
  switch (level) {
    case TlsLevel::none:
      return "none";
    case TlsLevel::opportunistic:
      return "opportunistic";
    case TlsLevel::required:
      return "required";
    case TlsLevel::verified:
      return "verified";
  }
  return "none";
}

std::string TlsPolicy::to_text() const {
  std::string text("tls=");
  text += route::to_text(level);
  char separator = ':';
  for (const std::string& name : names) {
    text += separator;
    text += name;
    separator = ',';
  }
  return text;
}

}  // namespace postern::route
