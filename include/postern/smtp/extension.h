// The extensions that a listener may leave out, by the names that EHLO shows.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace postern::smtp {

struct ServerOptions;

enum class Extension : std::uint8_t {
  pipelining,
  size,
  eight_bit_mime,
  chunking,
  smtp_utf8,
  enhanced_status_codes,
  binary_mime,  // with chunking and eight_bit_mime alone
  dsn,
  limits,
  mt_priority,
  future_release,
  etrn,
  deliver_by,
  require_tls,  // under TLS alone
};

struct ExtensionSet {
  std::uint32_t bits = 0;

  void add(Extension extension) { bits |= 1u << static_cast<unsigned>(extension); }
  [[nodiscard]] bool has(Extension extension) const { return (bits >> static_cast<unsigned>(extension) & 1u) != 0; }
  friend bool operator==(ExtensionSet, ExtensionSet) = default;
};

// By its EHLO keyword, without regard to case.
[[nodiscard]] std::optional<Extension> extension_named(std::string_view keyword);

// All keywords, "PIPELINING, SIZE, …": for messages.
[[nodiscard]] std::string extension_names();

// Offers everything that `off` does not name. What is not offered is refused when it is used all the same, but for
// pipelined commands and enhanced status codes, which harm nobody who did not ask for them.
void set_offers(ServerOptions& options, ExtensionSet off);

}  // namespace postern::smtp
