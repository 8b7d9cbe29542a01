#include <cstddef>

#include <postern/base/text.h>
#include <postern/mail/reply.h>

namespace postern::mail {
namespace {

// 1 to 3 digits at the start of `rest`, taken off it [RFC 2034 §4].
std::optional<std::uint16_t> take_number(std::string_view& rest) {
  std::size_t size = 0;
  while (size < rest.size() && is_ascii_digit(rest[size])) ++size;
  if (size == 0 || size > 3) return std::nullopt;
  const auto value = parse_uint<std::uint16_t>(rest.substr(0, size));
  rest.remove_prefix(size);
  return value;
}

bool take_dot(std::string_view& rest) {
  if (rest.empty() || rest.front() != '.') return false;
  rest.remove_prefix(1);
  return true;
}

}  // namespace

std::string EnhancedStatus::to_string() const {
  if (!present()) return {};
  std::string text = std::to_string(unsigned{class_digit});
  text += '.';
  text += std::to_string(unsigned{subject});
  text += '.';
  text += std::to_string(unsigned{detail});
  return text;
}

std::optional<EnhancedStatus> EnhancedStatus::parse(std::string_view text) {
  if (text.empty() || (text[0] != '2' && text[0] != '4' && text[0] != '5')) return std::nullopt;
  EnhancedStatus status;
  status.class_digit = static_cast<std::uint8_t>(text[0] - '0');
  std::string_view rest = text.substr(1);
  if (!take_dot(rest)) return std::nullopt;
  const auto subject = take_number(rest);
  if (!subject || !take_dot(rest)) return std::nullopt;
  const auto detail = take_number(rest);
  if (!detail || (!rest.empty() && rest.front() != ' ')) return std::nullopt;
  status.subject = *subject;
  status.detail = *detail;
  return status;
}

std::string Reply::to_log_text(std::size_t size_max) const {
  std::string out;
  if (code != 0) out = std::to_string(unsigned{code});
  if (status.present()) {
    if (!out.empty()) out += ' ';
    out += status.to_string();
  }
  if (!text.empty()) {
    if (!out.empty()) out += ' ';
    std::string joined = text;
    for (char& c : joined) {
      if (c == '\n') c = ' ';
    }
    append_log_escaped(out, joined, size_max > out.size() ? size_max - out.size() : 0);
  }
  if (out.size() > size_max) out.resize(size_max);
  return out;
}

}  // namespace postern::mail
