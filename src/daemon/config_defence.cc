#include "daemon/config_defence.h"

#include <postern/base/text.h>

namespace postern::daemon {

std::optional<std::uint32_t> parse_rate(std::string_view text) {
  if (text == "unlimited") return 0;
  constexpr std::string_view unit = "/min";
  if (!text.ends_with(unit)) return std::nullopt;
  text.remove_suffix(unit.size());
  const auto rate = parse_uint<std::uint32_t>(text, rate_max);
  return rate && *rate > 0 ? rate : std::nullopt;
}

}  // namespace postern::daemon
