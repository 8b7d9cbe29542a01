// The contents of a run: made for the source, checked for the sink. Pure.
//
// Contents are 7-bit text in CRLF lines of 76 characters of which none begins with a dot, so that DATA and BDAT carry
// the same bytes. All bodies are ends of one text, so that nothing is written per message but the header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/time.h>

#include "bench/numbering.h"
#include "bench/sizes.h"

struct XXH3_state_s;

namespace postern::bench {

class ContentMaker {
 public:
  struct Options {
    std::uint64_t run = 0;
    std::uint32_t recipients = 1;  // of each message
    std::string sender = "bench@client.test";
    std::string domain = "hop.test";
    // More than one: recipients are in d0.DOMAIN, d1.DOMAIN …, in turn.
    std::uint32_t domains = 1;
    WallTime date{};
  };
  // One body for each of the sizes. A content has exactly the wanted size, or one byte less where a line would begin
  // with a bare LF; one too small for its header section has a body of one line.
  ContentMaker(Options options, const Sizes& sizes);

  // "b0000002a-0001@d3.hop.test"; appended.
  void append_recipient(std::string& out, const RecipientNumber& recipient) const;
  [[nodiscard]] std::size_t recipient_bytes_max() const;
  // The header section with its empty line replaces `out`.
  void make_header(std::string& out, MessageNumber message, std::size_t size_index) const;
  // Valid as long as the maker.
  [[nodiscard]] std::string_view body(std::size_t size_index) const;
  [[nodiscard]] const Options& options() const { return options_; }

 private:
  struct Body {
    std::uint32_t bytes = 0;
    std::uint64_t hash = 0;
  };
  [[nodiscard]] std::size_t header_bytes() const;

  Options options_;
  std::string text_;
  std::string head_;  // up to the first number
  std::vector<Body> bodies_;
};

// Reads a content in pieces, as it comes from a relay.
class ContentCheck {
 public:
  // Header sections beyond this are none of ours.
  static constexpr std::size_t header_bytes_max = 64u << 10;

  ContentCheck();
  ~ContentCheck();
  ContentCheck(const ContentCheck&) = delete;
  ContentCheck& operator=(const ContentCheck&) = delete;

  void begin();
  void append(Bytes piece);

  struct Result {
    std::optional<Mark> mark;  // nullopt: not one of ours
    bool intact = false;       // the body is what the mark says
  };
  [[nodiscard]] Result finish();

 private:
  void read_header(std::string_view text);
  void read_body(std::string_view text);

  std::string header_;  // of a header section that came in several pieces
  bool in_body_ = false;
  std::optional<Mark> mark_;
  std::uint64_t body_bytes_ = 0;
  std::optional<std::uint64_t> whole_hash_;                       // of a body that came in one piece
  std::unique_ptr<XXH3_state_s, void (*)(XXH3_state_s*)> state_;  // of one that did not
};

}  // namespace postern::bench
