// A domain name, kept lower-case in wire form: length-prefixed labels, the root's zero octet at the end [RFC 1035
// §3.1].
//
// Names compare and hash by these bytes, so that case never matters [RFC 4343]. Labels may hold any octet: only
// is_host_name() says that a name is fit for what people call a host name.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace postern::dns {

class Name {
 public:
  static constexpr std::size_t wire_bytes_max = 255;  // [RFC 1035 §2.3.4]
  static constexpr std::size_t label_bytes_max = 63;

  Name() : wire_(1, '\0') {}  // the root

  // "mx1.example.net" with or without its final dot; "." is the root. `\.`, `\\` and `\DDD` stand for octets
  // [RFC 1035 §5.1]. nullopt: empty text, empty label, label or name too long, bad escape. Octets from 0x80 pass:
  // turning U-labels into A-labels is the caller's doing (route/domain.h).
  [[nodiscard]] static std::optional<Name> parse(std::string_view text);

  // From uncompressed wire form, complete and valid; lower-cased here. nullopt when it is not.
  [[nodiscard]] static std::optional<Name> from_wire(std::string_view wire);

  [[nodiscard]] std::string_view wire() const { return wire_; }
  [[nodiscard]] bool is_root() const { return wire_.size() == 1; }
  // Whether this is `zone` or a name below it.
  [[nodiscard]] bool is_within(const Name& zone) const;
  // Non-empty, and only letters, digits, '-' and '_' in its labels: no dots, spaces, control or 8-bit octets.
  [[nodiscard]] bool is_host_name() const;
  // Without the final dot, other than printable ASCII and dots within labels escaped; "." for the root.
  [[nodiscard]] std::string to_text() const;

  friend bool operator==(const Name&, const Name&) = default;
  friend auto operator<=>(const Name&, const Name&) = default;  // of the wire forms: an order, not the canonical one

 private:
  explicit Name(std::string wire) : wire_(std::move(wire)) {}

  std::string wire_;
};

}  // namespace postern::dns
