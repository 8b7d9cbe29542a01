// What is known of a content: its form on the wire and what the one pass over it found.
#pragma once

#include <cstdint>

namespace postern::mail {

// Content stays as it came; whoever needs another form converts on the way out.
enum class ContentForm : std::uint8_t {
  dot_stuffed,  // from DATA: lines that began with a dot have two; without the final <CRLF>.<CRLF>'s dot line
  plain,        // from BDAT, CRLF lines, no dot-stuffing; the last line may lack its CRLF
  binary,       // BODY=BINARYMIME: no line structure promised
};

// Sums of the scanner over one whole content. "Line" ends with CRLF. Sizes are bytes of the form in which it came.
struct ContentFacts {
  ContentForm form = ContentForm::dot_stuffed;
  bool line_starts_with_dot = false;  // some line (also the first) begins with '.', as it stands in this form
  bool has_bare_cr = false;
  bool has_bare_lf = false;
  bool has_nul = false;
  bool has_eight_bit = false;
  bool ends_with_crlf = false;       // or is empty
  std::uint32_t received_count = 0;  // fields named Received in the header section
  std::uint64_t longest_line = 0;    // without its CRLF
  std::uint64_t header_bytes = 0;    // up to and without the empty line; all of it when there is no empty line
  std::uint64_t size = 0;
};

// Longest line that SMTP promises to carry, without its CRLF [RFC 5321 §4.5.3.1.6].
inline constexpr std::uint64_t text_line_bytes_max = 998;

// Whether only BODY=BINARYMIME carries this content unharmed [RFC 3030 §3]. One that came as binary and is text all the
// same may travel as text.
[[nodiscard]] constexpr bool needs_binary_mime(const ContentFacts& facts) {
  if (facts.has_bare_cr || facts.has_bare_lf || facts.has_nul) return true;
  return facts.form == ContentForm::binary && (!facts.ends_with_crlf || facts.longest_line > text_line_bytes_max);
}

}  // namespace postern::mail
