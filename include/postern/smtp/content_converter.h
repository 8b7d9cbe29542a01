// Converts content between its forms while it streams: dot-stuffing on and off [RFC 5321 §4.5.2], CRLF to LF.
//
// It checks nothing and knows no end of data: the terminator is neither read nor written here.
// egress drives it: DATA from plain content, BDAT and Maildir from dot-stuffed content.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <postern/base/bytes.h>

namespace postern::smtp {

class ContentConverter {
 public:
  enum class Kind : std::uint8_t {
    stuff,          // plain → dot_stuffed: a line that begins with a dot gets another
    unstuff,        // dot_stuffed → plain: a line that begins with a dot loses it
    plain_to_lf,    // plain → LF line ends
    stuffed_to_lf,  // dot_stuffed → plain with LF line ends
  };

  // Of `bytes_in` input bytes at most this many come out: a lone dot becomes two, and one CR may be due from before.
  [[nodiscard]] static constexpr std::size_t output_bytes_max(std::size_t bytes_in) { return bytes_in * 2 + 1; }

  explicit ContentConverter(Kind kind = Kind::stuff) { reset(kind); }

  // Begins a new content. The first byte stands at the start of a line.
  void reset(Kind kind);

  struct Progress {
    std::size_t consumed = 0;
    std::size_t produced = 0;
  };
  // Converts from `in` to `out` until one is exhausted; they must not overlap. Both may be of any size; the input may
  // be split anywhere. Short of consuming all only when `out` is full. A line ends with CRLF; other CR and LF pass
  // unchanged.
  [[nodiscard]] Progress convert(Bytes in, MutableBytes out);

  // Appends the conversion of all of `in`.
  void append(Bytes in, std::string& out);

  // The content has ended: what is still to be written behind it. "" or "\r" (a CR at the very end that waited for its
  // LF); with `complete_line` also the line end that the last line lacks, in the output's form. A literal, valid for
  // ever.
  [[nodiscard]] std::string_view finish(bool complete_line);

 private:
  enum class Place : std::uint8_t {
    line_start,
    inside,
    after_cr,  // to LF: this CR is consumed and not written, its successor decides
  };

  [[nodiscard]] bool to_lf() const { return kind_ == Kind::plain_to_lf || kind_ == Kind::stuffed_to_lf; }

  Kind kind_ = Kind::stuff;
  Place place_ = Place::line_start;
};

}  // namespace postern::smtp
