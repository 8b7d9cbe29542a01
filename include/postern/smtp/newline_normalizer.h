// Content from its first bare LF on, where a listener takes those: each becomes CRLF, as nothing but CRLF ends a line.
//
// It sees content alone, after ContentScanner has found where that ends in what the client sent, so that no line that
// it makes can end anything; and in dot-stuffed form it stuffs what would look like an end to whom the content is
// passed on [RFC 5321 §4.1.1.4]. Bare CRs it leaves for the session to refuse. Driven by smtp/server_session.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <postern/base/bytes.h>
#include <postern/mail/content.h>
#include <postern/smtp/content_scanner.h>

namespace postern::smtp {

class NewlineNormalizer {
 public:
  // `before`: the scanner as it stood before the piece with the first bare LF.
  explicit NewlineNormalizer(const ContentScanner& before);

  // The next piece of content, beginning with the `held` bytes that `before` held back; 0 but for the first. What it
  // becomes, at most twice as long and one byte, is valid until the next call.
  [[nodiscard]] Bytes append(Bytes content, std::size_t held);

  // The content has come to its end.
  void finish();

  // Of all of the content as it has become; final behind finish().
  [[nodiscard]] const mail::ContentFacts& facts() const { return scanner_.facts(); }

 private:
  // What the current line is so far.
  enum class Line : std::uint8_t {
    fresh,  // nothing, behind CRLF
    made,   // nothing, behind an LF that stood alone
    dot,    // "." behind CRLF: were an LF alone to end it, it would be the end of data
    other,
  };
  void transform(std::string_view text);

  ContentScanner scanner_;  // of what comes out
  const bool stuffs_;
  bool previous_cr_;
  Line line_;
  std::string out_;
};

}  // namespace postern::smtp
