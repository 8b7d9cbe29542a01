// One question: does any file of recipients, text or cdb, become a table that keeps its bounds, or an error that says
// where? Whatever a table holds is looked up, and what an alias comes to is bounded and no alias's circle.
// Input: one byte, whose lowest bit says cdb; the file.
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/check.h>
#include <postern/base/status.h>
#include <postern/mail/envelope.h>
#include <postern/policy/recipient_table.h>

namespace {

using namespace postern;          // NOLINT(google-build-using-namespace)
using namespace postern::policy;  // NOLINT(google-build-using-namespace)

void look_up(const RecipientTable& table, std::string_view address) {
  const std::size_t at = address.rfind('@');
  if (at == std::string_view::npos || address.size() > 512) return;
  std::vector<std::string_view> targets;
  const RecipientTable::Found found = table.find({address, static_cast<std::uint16_t>(at + 1)}, targets);
  POSTERN_CHECK(targets.empty() == (found != RecipientTable::Found::alias), "only an alias has targets");
  POSTERN_CHECK(targets.size() <= RecipientTable::targets_max);
  for (const std::string_view target : targets) POSTERN_CHECK(target.find('@') != std::string_view::npos);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0 || size > 65'536) return 0;
  const std::string_view file(reinterpret_cast<const char*>(data) + 1, size - 1);
  RecipientTableBuilder builder('+');
  const Status added = (data[0] & 1) != 0 ? builder.add_cdb(as_bytes(file), "f") : builder.add_lines(file, "f");
  if (!added.ok()) {
    POSTERN_CHECK(message_of(added).starts_with("f:"), "an error names its place");
    return 0;
  }
  const StatusOr<RecipientTable> table = std::move(builder).finish();
  if (!table.ok()) {
    POSTERN_CHECK(message_of(table.status()).starts_with("f:"), "an error names its place");
    return 0;
  }
  std::size_t start = 0;
  for (std::size_t i = 0; i <= file.size(); ++i) {
    const bool ends = i == file.size() || file[i] == '\n' || file[i] == ':' || file[i] == ',' || file[i] == '\0';
    if (!ends) continue;
    look_up(*table, file.substr(start, i - start));
    start = i + 1;
  }
  return 0;
}
