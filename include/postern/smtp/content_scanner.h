// The one pass over received content: finds the end of DATA and collects mail::ContentFacts [RFC 5321 §4.1.1.4].
//
// It neither keeps nor changes a byte, and judges nothing: what a bare LF or 101 Received fields lead to is the
// session's business. smtp/server_session.cc drives it. Vectorized with run-time dispatch.
//
// Only <CRLF>.<CRLF> ends DATA (<.CRLF> as the very first line counts, the CRLF before it ended the DATA command). A
// bare LF or CR ends nothing: neither a line nor the content.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <postern/base/bytes.h>
#include <postern/mail/content.h>

namespace postern::smtp {

class ContentScanner {
 public:
  // How one piece of input divides. In order of the content: first `held`, then the first `content` bytes of the piece.
  // The rest of the consumed bytes is the terminator, or is held back until the next piece tells.
  struct Piece {
    std::size_t consumed = 0;  // bytes of the piece that belong to this content or its terminator; all, until done()
    std::size_t content = 0;   // leading bytes of the piece that are content; ≤ consumed
    std::string_view held;  // "", "." or ".\r": held back earlier, now known to be content. A literal, valid for ever
  };

  // dot_stuffed: DATA, with its end. plain and binary: BDAT, whose end the caller knows; the two are scanned alike.
  explicit ContentScanner(mail::ContentForm form = mail::ContentForm::dot_stuffed) { reset(form); }

  // Begins a new content.
  void reset(mail::ContentForm form);

  // Scans the next piece, which may begin and end anywhere, may be empty, and is not kept. Not after done().
  // The sum of all `held` and `content` bytes is the content without its terminating <.CRLF>.
  // In plain and binary form every byte is content.
  [[nodiscard]] Piece scan(Bytes piece);

  // The terminator was seen (dot_stuffed), or finish() was called.
  [[nodiscard]] bool done() const { return done_; }

  // The content ends here: once, for plain and binary form, behind the last chunk. A trailing CR becomes a bare CR.
  void finish();

  // Of the content handed out so far, final when done(). Sizes count the form scanned. The unfinished last line counts
  // in longest_line; header_bytes equals size until the empty line is seen; a trailing CR is not bare before it is
  // known to be.
  [[nodiscard]] const mail::ContentFacts& facts() const { return facts_; }

  // The empty line behind the header section was seen.
  [[nodiscard]] bool header_ended() const { return !state_.in_header; }

  // What the vector code works on, and whoever takes the content up in its middle.
  struct State {
    std::uint64_t line_bytes = 0;  // of the current line so far, its CR included; 0: at the start of a line
    bool previous_cr = false;      // the last byte was CR
    bool in_header = true;
    bool received_possible = true;  // the line so far is a prefix of "Received" WSP*
    std::uint8_t held = 0;          // bytes held back: 0, "." or ".\r", at the start of a line
  };
  [[nodiscard]] const State& state() const { return state_; }

 private:
  mail::ContentFacts facts_;
  State state_;
  bool done_ = false;
};

}  // namespace postern::smtp
