// Does ContentScanner, split anywhere, find what the plain reference finds over the whole?
//
// Input: form (1 byte), size of the pieces (1 byte), content.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include <postern/base/bytes.h>
#include <postern/base/check.h>
#include <postern/smtp/content_scanner.h>

#include "tests/smtp/content_reference.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace postern;
  if (size < 2) return 0;
  const auto form = static_cast<mail::ContentForm>(data[0] % 3);
  const std::size_t piece_size = data[1] == 0 ? size : data[1];
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);

  smtp::ContentScanner scanner(form);
  std::string content;
  std::size_t consumed = 0;
  while (consumed < bytes.size() && !scanner.done()) {
    const std::string_view piece = bytes.substr(consumed, piece_size);
    const smtp::ContentScanner::Piece found = scanner.scan(as_bytes(piece));
    POSTERN_CHECK(found.content <= found.consumed && (scanner.done() || found.consumed == piece.size()));
    content += found.held;
    content += piece.substr(0, found.content);
    consumed += found.consumed;
    POSTERN_CHECK(scanner.facts().size == content.size());
  }
  if (form != mail::ContentForm::dot_stuffed) scanner.finish();

  const auto want = smtp::testing::reference_scan(bytes, form);
  POSTERN_CHECK(scanner.done() == want.consumed.has_value());
  if (!scanner.done()) return 0;
  POSTERN_CHECK(consumed == *want.consumed);
  POSTERN_CHECK(content == want.content);
  POSTERN_CHECK(smtp::testing::difference(scanner.facts(), want.facts).empty(),
                smtp::testing::difference(scanner.facts(), want.facts));
  return 0;
}
