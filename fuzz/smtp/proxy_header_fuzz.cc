// Does the PROXY header read the same however its bytes arrive, and never ask for more than its bound?
#include <cstddef>
#include <cstdint>

#include <postern/base/bytes.h>
#include <postern/base/check.h>
#include <postern/smtp/proxy_header.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace postern;
  using namespace postern::smtp;
  using State = ProxyProgress::State;
  const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  State known = State::incomplete;
  std::size_t consumed = 0;
  for (std::size_t count = 0; count <= size && count <= 2 * proxy_header_bytes_max; ++count) {
    const ProxyProgress progress = parse_proxy_header(bytes.first(count));
    if (known != State::incomplete) {
      POSTERN_CHECK(progress.state == known && progress.consumed == consumed, "more bytes change nothing");
    }
    known = progress.state;
    consumed = progress.consumed;
    POSTERN_CHECK(consumed <= count, "only what is there is consumed");
    POSTERN_CHECK((known == State::complete) == (consumed > 0), "a header has bytes");
    POSTERN_CHECK(known != State::incomplete || count < proxy_header_bytes_max, "it ends within its bound");
  }
  return 0;
}
