// xtext [RFC 3461 §4] and the two notations of addresses in ORCPT that go with it [RFC 6533 §3]. Pure text.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace postern::mail {

// Of ENVID and ORCPT as they stand in the command, still encoded [RFC 3461 §4.4, §4.2].
inline constexpr std::size_t envelope_id_bytes_max = 100;
inline constexpr std::size_t original_recipient_bytes_max = 500;
// Of ORCPT's address type, an atom; the longest registered one has 11 ("rfc822" has 6).
inline constexpr std::size_t address_type_bytes_max = 64;

// Characters 0x21…0x7E but '+' and '=', and "+HH" with upper-case digits; "+00" is refused, as no text holds a NUL.
// Empty text is xtext.
[[nodiscard]] bool is_xtext(std::string_view text);

// What `text` stands for; nullopt when it is no xtext. May hold any byte but NUL: escape it before it is shown.
[[nodiscard]] std::optional<std::string> decode_xtext(std::string_view text);

// Appends `text` as xtext; a NUL, which has no notation, is left out.
void append_xtext(std::string& out, std::string_view text);

// ENVID's value: xtext of 1…100 bytes that stands for printable ASCII and spaces.
[[nodiscard]] bool is_envelope_id(std::string_view text);

// ORCPT's value: "type;address" of at most 500 bytes. The type is an atom; an address of type utf-8 is
// utf-8-addr-xtext or, when `utf8` (the transaction asked for SMTPUTF8), utf-8-addr-unitext; any other is xtext for
// printable ASCII. Never empty.
[[nodiscard]] bool is_original_recipient(std::string_view text, bool utf8);

}  // namespace postern::mail
