// Reads a peer's replies [RFC 5321 §4.2], from a peer that means no good.
//
// It matches no reply to a command; smtp/client_session.cc drives it. Accepted beyond the grammar, because peers send
// it: LF as a line end, codes without text, a tab behind the code, any digits behind the first, CRs within the text
// (dropped), lines of one reply with different codes (the last one counts).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <postern/base/bytes.h>
#include <postern/mail/reply.h>

namespace postern::smtp {

class ReplyParser {
 public:
  // Text kept of one reply; the rest is read and dropped. RFC 5321 §4.5.3.1.5 allows 512 bytes a line.
  static constexpr std::size_t text_bytes_max = 4096;
  // A longer reply is no reply: the peer means to keep us reading.
  static constexpr std::size_t reply_bytes_max = std::size_t{64} * 1024;

  enum class Result : std::uint8_t {
    incomplete,  // all bytes consumed; more are needed
    reply,       // reply() is a whole one; bytes behind it were not consumed
    malformed,   // no SMTP reply, or beyond reply_bytes_max; for good, until reset()
  };
  struct Progress {
    std::size_t consumed = 0;
    Result result = Result::incomplete;
  };

  // Forgets a reply half read.
  void reset();

  // Reads up to the end of one reply. `bytes` may end anywhere and are not kept.
  [[nodiscard]] Progress on_bytes(Bytes bytes);

  // The reply last completed, until the next on_bytes(). Its text holds any byte but CR, and LF only between lines.
  // The enhanced status is taken off each line that repeats it, and counts only with the class of the code [RFC 2034
  // §4]. The caller may move the text out, at the price of an allocation with the next reply.
  [[nodiscard]] mail::Reply& reply() { return reply_; }
  [[nodiscard]] const mail::Reply& reply() const { return reply_; }

  // Bytes of a reply have been read, and its end has not.
  [[nodiscard]] bool within_reply() const { return reply_bytes_ != 0; }

 private:
  enum class Place : std::uint8_t { code, separator, text, malformed };

  void begin_text(bool more_lines);
  void append_text(std::string_view text);
  // True when the reply ends with this line.
  [[nodiscard]] bool end_line();

  mail::Reply reply_;
  std::size_t reply_bytes_ = 0;  // of the reply in progress; 0: none
  std::size_t line_offset_ = 0;  // in reply_.text, where the current line's text begins
  mail::ReplyCode code_ = 0;     // of the current line
  std::uint8_t digits_ = 0;      // of it, read so far
  Place place_ = Place::code;
  bool more_lines_ = false;  // the current line said so
  bool first_line_ = true;
  bool code_cr_ = false;  // CR behind the code: only its LF may follow
};

}  // namespace postern::smtp
