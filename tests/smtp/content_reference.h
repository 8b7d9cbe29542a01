// What ContentScanner must find, written the plain way: over the whole content at once, line by line, no state between
// bytes. For the differential test and the fuzzer.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <postern/mail/content.h>

namespace postern::smtp::testing {

struct ReferenceScan {
  std::optional<std::size_t> consumed;  // with the terminator; nullopt: the content does not end in `bytes`
  std::string content;
  mail::ContentFacts facts;
};

inline bool names_received(std::string_view line) {
  constexpr std::string_view name = "received";
  if (line.size() <= name.size()) return false;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const char c = line[i];
    if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != name[i]) return false;
  }
  const std::size_t colon = line.find_first_not_of(" \t", name.size());
  return colon != std::string_view::npos && line[colon] == ':';
}

inline mail::ContentFacts reference_facts(std::string_view content, mail::ContentForm form) {
  mail::ContentFacts facts;
  facts.form = form;
  facts.size = content.size();
  facts.ends_with_crlf = content.empty() || content.ends_with("\r\n");
  for (std::size_t i = 0; i < content.size(); ++i) {
    const char c = content[i];
    if (c == '\r' && (i + 1 == content.size() || content[i + 1] != '\n')) facts.has_bare_cr = true;
    if (c == '\n' && (i == 0 || content[i - 1] != '\r')) facts.has_bare_lf = true;
    if (c == '\0') facts.has_nul = true;
    if (static_cast<unsigned char>(c) >= 0x80) facts.has_eight_bit = true;
  }
  bool in_header = true;
  facts.header_bytes = content.size();
  for (std::size_t start = 0; start < content.size();) {
    const std::size_t end = std::min(content.find("\r\n", start), content.size());
    const std::string_view line = content.substr(start, end - start);
    facts.longest_line = std::max<std::uint64_t>(facts.longest_line, line.size());
    if (line.starts_with('.')) facts.line_starts_with_dot = true;
    if (in_header && line.empty()) {
      in_header = false;
      facts.header_bytes = start;
    }
    if (in_header && names_received(line)) ++facts.received_count;
    start = end + 2;
  }
  return facts;
}

inline ReferenceScan reference_scan(std::string_view bytes, mail::ContentForm form) {
  ReferenceScan scan;
  scan.content = std::string(bytes);
  if (form == mail::ContentForm::dot_stuffed) {
    if (bytes.starts_with(".\r\n")) {
      scan.consumed = 3;
      scan.content.clear();
    } else if (const std::size_t at = bytes.find("\r\n.\r\n"); at != std::string_view::npos) {
      scan.consumed = at + 5;
      scan.content = std::string(bytes.substr(0, at + 2));
    }
  } else {
    scan.consumed = bytes.size();
  }
  scan.facts = reference_facts(scan.content, form);
  return scan;
}

// Names the first fact in which the two differ; empty when they are equal.
inline std::string difference(const mail::ContentFacts& a, const mail::ContentFacts& b) {
  if (a.form != b.form) return "form";
  if (a.line_starts_with_dot != b.line_starts_with_dot) return "line_starts_with_dot";
  if (a.has_bare_cr != b.has_bare_cr) return "has_bare_cr";
  if (a.has_bare_lf != b.has_bare_lf) return "has_bare_lf";
  if (a.has_nul != b.has_nul) return "has_nul";
  if (a.has_eight_bit != b.has_eight_bit) return "has_eight_bit";
  if (a.ends_with_crlf != b.ends_with_crlf) return "ends_with_crlf";
  if (a.received_count != b.received_count) return "received_count";
  if (a.longest_line != b.longest_line) return "longest_line";
  if (a.header_bytes != b.header_bytes) return "header_bytes";
  if (a.size != b.size) return "size";
  return {};
}

}  // namespace postern::smtp::testing
