#include "extension_parameters.h"

#include <cstddef>
#include <cstdint>

#include <postern/base/text.h>

namespace postern::smtp {

mail::DsnReturn parse_dsn_return(std::string_view value) {
  if (equal_ignoring_case(value, "FULL")) return mail::DsnReturn::full;
  return equal_ignoring_case(value, "HDRS") ? mail::DsnReturn::headers : mail::DsnReturn::unspecified;
}

mail::Notify parse_notify(std::string_view value) {
  if (equal_ignoring_case(value, "NEVER")) return {mail::Notify::never};
  std::uint8_t bits = 0;
  for (bool more = true; more;) {
    const std::size_t comma = value.find(',');
    const std::string_view word = value.substr(0, comma);
    more = comma != std::string_view::npos;
    if (more) value.remove_prefix(comma + 1);
    std::uint8_t bit = 0;
    if (equal_ignoring_case(word, "SUCCESS")) bit = mail::Notify::success;
    if (equal_ignoring_case(word, "FAILURE")) bit = mail::Notify::failure;
    if (equal_ignoring_case(word, "DELAY")) bit = mail::Notify::delay;
    if (bit == 0) return {};
    bits |= bit;
  }
  return {bits};
}

}  // namespace postern::smtp
