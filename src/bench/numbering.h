// How a load generator's messages are told apart: every message of a run has a number, every recipient an index in it,
// and the content carries a mark that says what it must be. The source writes them, the sink reads them back, whatever
// the relay between them put in front.
//
//   RCPT TO:<b0000002a-0001@d3.hop.test>      number and index, hexadecimal, of fixed width
//   X-Postern-Bench: <run:16> <number:8> <recipients:4> <bytes of body:8> <XXH3 of body:16>
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace postern::bench {

// A message's number within its run, from 0.
using MessageNumber = std::uint32_t;

inline constexpr std::uint32_t recipients_max = 1000;  // of one message

struct RecipientNumber {
  MessageNumber message = 0;
  std::uint32_t index = 0;

  friend bool operator==(const RecipientNumber&, const RecipientNumber&) = default;
};

struct Mark {
  std::uint64_t run = 0;
  MessageNumber message = 0;
  std::uint32_t recipients = 0;  // of the message: indexes go up to it
  std::uint32_t body_bytes = 0;
  std::uint64_t body_hash = 0;

  friend bool operator==(const Mark&, const Mark&) = default;
};

inline constexpr std::string_view mark_field = "X-Postern-Bench: ";
inline constexpr std::size_t mark_value_bytes = 16 + 1 + 8 + 1 + 4 + 1 + 8 + 1 + 16;
inline constexpr std::size_t local_part_bytes = 1 + 8 + 1 + 4;

void append_local_part(std::string& out, const RecipientNumber& recipient);
// Of a forward path "local@domain". nullopt: none of ours.
[[nodiscard]] std::optional<RecipientNumber> parse_recipient(std::string_view forward_path);

void append_mark(std::string& out, const Mark& mark);  // the field's value
// `header`: a header section, CRLF lines. nullopt: it has no such field, or one that is broken.
[[nodiscard]] std::optional<Mark> find_mark(std::string_view header);

}  // namespace postern::bench
