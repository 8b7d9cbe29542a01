// What the configuration says against abuse: the forms of its values. The keys are read by config.cc.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace postern::daemon {

inline constexpr std::uint32_t rate_max = 1'000'000;

// "30/min": 1 … rate_max in a minute; "unlimited": 0; nullopt for anything else.
[[nodiscard]] std::optional<std::uint32_t> parse_rate(std::string_view text);

}  // namespace postern::daemon
