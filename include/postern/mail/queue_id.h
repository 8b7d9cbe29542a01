// The name of an accepted message, given once and never again.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace postern::mail {

// 64 bits: log id (12, most significant) | the log's durable start counter (20) | a counter within this start (32).
// The three parts make it unique whatever the clock does, and none of them discloses a key.
struct QueueId {
  static constexpr std::size_t text_size = 13;
  static constexpr std::uint32_t log_max = (1u << 12) - 1;
  static constexpr std::uint32_t start_max = (1u << 20) - 1;

  std::uint64_t value = 0;  // 0 names no message

  [[nodiscard]] static QueueId from_parts(std::uint32_t log, std::uint32_t start, std::uint32_t counter);
  [[nodiscard]] constexpr std::uint32_t log() const { return static_cast<std::uint32_t>(value >> 52); }
  [[nodiscard]] constexpr std::uint32_t start() const { return static_cast<std::uint32_t>(value >> 32) & start_max; }
  [[nodiscard]] constexpr std::uint32_t counter() const { return static_cast<std::uint32_t>(value); }

  // 13 characters of Crockford's base 32, most significant first: [0-9A-HJKMNP-TV-Z]{13}.
  [[nodiscard]] std::array<char, text_size> to_text() const;
  [[nodiscard]] std::string to_string() const;
  // Accepts exactly what to_text() writes, and lower case; nullopt for all else.
  [[nodiscard]] static std::optional<QueueId> parse(std::string_view text);

  friend constexpr auto operator<=>(QueueId, QueueId) = default;
  template <class H>
  friend H AbslHashValue(H state, QueueId id) {
    return H::combine(std::move(state), id.value);
  }
};

}  // namespace postern::mail
