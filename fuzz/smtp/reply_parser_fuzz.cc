// Does ReplyParser read the same replies from a peer's bytes however they are split, and within its bounds?
//
// Input: size of the pieces (1 byte), the peer's bytes.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/check.h>
#include <postern/smtp/reply_parser.h>

namespace {

using postern::smtp::ReplyParser;

std::vector<std::string> read_all(std::string_view bytes, std::size_t piece_size) {
  ReplyParser parser;
  std::vector<std::string> seen;
  while (!bytes.empty()) {
    std::string_view piece = bytes.substr(0, piece_size);
    bytes.remove_prefix(piece.size());
    while (!piece.empty()) {
      const ReplyParser::Progress progress = parser.on_bytes(postern::as_bytes(piece));
      POSTERN_CHECK(progress.consumed <= piece.size());
      piece.remove_prefix(progress.consumed);
      if (progress.result == ReplyParser::Result::malformed) {
        seen.emplace_back("malformed");
        return seen;
      }
      if (progress.result == ReplyParser::Result::incomplete) {
        POSTERN_CHECK(piece.empty());
        continue;
      }
      POSTERN_CHECK(progress.consumed > 0);
      const auto& reply = parser.reply();
      POSTERN_CHECK(reply.code >= 200 && reply.code < 600);
      POSTERN_CHECK(reply.text.size() <= ReplyParser::text_bytes_max);
      POSTERN_CHECK(reply.text.find('\r') == std::string::npos);
      POSTERN_CHECK(!reply.status.present() || reply.status.class_digit == reply.code / 100);
      seen.push_back(reply.to_log_text());
      seen.push_back(reply.text);
    }
  }
  return seen;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto whole = read_all(bytes, bytes.size());
  POSTERN_CHECK(read_all(bytes, 1) == whole);
  if (data[0] > 1) POSTERN_CHECK(read_all(bytes, data[0]) == whole);
  return 0;
}
