// The SASL mechanisms that are known here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace postern::sasl {

enum class Mechanism : std::uint8_t {
  plain,               // RFC 4616
  login,               // the same in two questions; never standardised, and what old clients know
  scram_sha_256,       // RFC 5802, RFC 7677
  scram_sha_256_plus,  // bound to the TLS channel that it runs in
};

// In the order in which they are offered: the strongest first.
inline constexpr Mechanism all_mechanisms[] = {Mechanism::scram_sha_256_plus, Mechanism::scram_sha_256,
                                               Mechanism::plain, Mechanism::login};

[[nodiscard]] constexpr std::string_view name_of(Mechanism mechanism) {
  switch (mechanism) {
    case Mechanism::plain:
      return "PLAIN";
    case Mechanism::login:
      return "LOGIN";
    case Mechanism::scram_sha_256:
      return "SCRAM-SHA-256";
    case Mechanism::scram_sha_256_plus:
      return "SCRAM-SHA-256-PLUS";
  }
  return "";
}

// Without regard to case.
[[nodiscard]] std::optional<Mechanism> mechanism_named(std::string_view name);

struct MechanismSet {
  std::uint8_t bits = 0;

  void add(Mechanism mechanism) { bits |= static_cast<std::uint8_t>(1u << static_cast<unsigned>(mechanism)); }
  void remove(Mechanism mechanism) { bits &= static_cast<std::uint8_t>(~(1u << static_cast<unsigned>(mechanism))); }
  [[nodiscard]] bool has(Mechanism mechanism) const { return (bits >> static_cast<unsigned>(mechanism) & 1u) != 0; }
  [[nodiscard]] bool empty() const { return bits == 0; }
  // What is in both.
  [[nodiscard]] MechanismSet operator&(MechanismSet other) const {
    return {static_cast<std::uint8_t>(bits & other.bits)};
  }
  [[nodiscard]] std::optional<Mechanism> strongest() const {
    for (const Mechanism mechanism : all_mechanisms) {
      if (has(mechanism)) return mechanism;
    }
    return std::nullopt;
  }
  // Names, in the order of strength: "SCRAM-SHA-256 PLAIN".
  [[nodiscard]] std::string to_text() const {
    std::string text;
    for (const Mechanism mechanism : all_mechanisms) {
      if (has(mechanism)) text.append(text.empty() ? "" : " ").append(name_of(mechanism));
    }
    return text;
  }
  friend bool operator==(MechanismSet, MechanismSet) = default;
};

}  // namespace postern::sasl
