// Points in wall time as text, always in UTC: no time zone data, no locale, no allocation beyond `out`.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <postern/base/time.h>

namespace postern {

// "Sun, 22 Nov 2026 06:07:13 +0000" [RFC 5322 §3.3]: 31 characters.
void append_rfc5322_date(std::string& out, WallTime at);
[[nodiscard]] std::string format_rfc5322_date(WallTime at);

// "2026-11-22T06:07:13.042Z" [RFC 3339], milliseconds rounded down: 24 characters.
void append_rfc3339(std::string& out, WallTime at);
[[nodiscard]] std::string format_rfc3339(WallTime at);

// "2026-11-22T06:07:13Z": the same in whole seconds, 20 characters.
void append_rfc3339_seconds(std::string& out, WallTime at);

// An RFC 3339 date-time of the years 1970…2200, with a fraction or without, "Z" or an offset; a leap second counts as
// the next second. nullopt for anything else.
[[nodiscard]] std::optional<WallTime> parse_rfc3339(std::string_view text);

}  // namespace postern
