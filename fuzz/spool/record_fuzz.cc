// Asks: does a record with a right checksum and otherwise arbitrary bytes stay within its bounds when it is read?
// The harness puts the checksum right, for else hardly any input would get past it.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <postern/base/check.h>
#include <postern/spool/checksum.h>
#include <postern/spool/record.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace postern;
  using namespace postern::spool;
  const Checksum checksum(SegmentKey{});
  std::vector<std::byte> bytes(size);
  if (size != 0) std::memcpy(bytes.data(), data, size);
  const std::size_t head = head_bytes(bytes);
  RecordHeader header;
  if (head != 0 && head <= size) {
    std::memcpy(&header, bytes.data(), sizeof header);
    header.checksum = checksum.of(Bytes(bytes).subspan(sizeof header.checksum, head - sizeof header.checksum));
    std::memcpy(bytes.data(), &header, sizeof header.checksum);
  }
  const auto checked = check_record(checksum, header.position, bytes);
  if (!checked) return 0;
  (void)check_content(checksum, *checked, bytes);
  const auto view = read_message(*checked, bytes);
  if (!view) return 0;
  const auto within = [&bytes](Bytes part) {
    POSTERN_CHECK(part.empty() ||
                  (part.data() >= bytes.data() && part.data() + part.size() <= bytes.data() + bytes.size()));
    std::size_t sum = 0;
    for (const std::byte b : part) sum += std::to_integer<std::size_t>(b);
    return sum;
  };
  volatile std::size_t sum =
      within(view->envelope) + within(view->added_fields) + within(view->content) + within(view->settled);
  for (std::size_t i = 0; i < view->extents.size(); ++i) sum = sum + view->extents[i].bytes;
  return 0;
}
