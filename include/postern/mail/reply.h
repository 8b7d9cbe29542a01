// Reply codes and enhanced status codes, as values [RFC 5321 §4.2, RFC 3463].
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace postern::mail {

// A three-digit SMTP reply code. 0: no reply was had (connection lost, time out).
using ReplyCode = std::uint16_t;

// class.subject.detail [RFC 3463 §2]. class_digit 0 means: none was given.
struct EnhancedStatus {
  std::uint8_t class_digit = 0;  // 2, 4 or 5
  std::uint16_t subject = 0;     // 0…999
  std::uint16_t detail = 0;      // 0…999

  [[nodiscard]] constexpr bool present() const { return class_digit != 0; }
  [[nodiscard]] std::string to_string() const;  // "5.1.1"; "" when absent
  // The status at the start of `text`, which ends there or goes on with a space. nullopt when there is none.
  [[nodiscard]] static std::optional<EnhancedStatus> parse(std::string_view text);
  friend constexpr auto operator<=>(const EnhancedStatus&, const EnhancedStatus&) = default;
};

// One reply, ours or a peer's. A peer's text is bounded by the reader and may hold any byte but CR and LF:
// escape it before it is shown.
struct Reply {
  ReplyCode code = 0;
  EnhancedStatus status;
  std::string text;  // without the code and the enhanced status; lines of a multiline reply joined by '\n'

  [[nodiscard]] constexpr bool positive() const { return code >= 200 && code < 400; }
  [[nodiscard]] constexpr bool transient() const { return code >= 400 && code < 500; }
  [[nodiscard]] constexpr bool permanent() const { return code >= 500 && code < 600; }
  // "550 5.1.1 No such user", lines joined by a space, control bytes and non-ASCII as \xNN, at most `size_max` bytes.
  [[nodiscard]] std::string to_log_text(std::size_t size_max = 512) const;
};

}  // namespace postern::mail
