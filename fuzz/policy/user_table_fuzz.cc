// One question: does any file of users become a table that keeps its promises, or an error that says where? Whoever the
// table holds may send from nowhere and from what they were given, and a stranger from nowhere.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include <postern/base/check.h>
#include <postern/base/status.h>
#include <postern/policy/user_table.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace postern;          // NOLINT(google-build-using-namespace)
  using namespace postern::policy;  // NOLINT(google-build-using-namespace)
  if (size > 65'536) return 0;
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const StatusOr<UserTable> table = UserTable::parse(file, "f", "secret");
  if (!table.ok()) {
    POSTERN_CHECK(message_of(table.status()).starts_with("f:"), "an error names its place");
    return 0;
  }
  std::size_t users = 0;
  for (std::size_t start = 0; start < file.size();) {
    const std::size_t end = std::min(file.find('\n', start), file.size());
    const std::string_view line = file.substr(start, end - start);
    start = end + 1;
    const std::string_view user = line.substr(0, line.find(':'));
    const bool known = line.find(':') != std::string_view::npos && line.front() != '#' && !user.empty();
    users += known ? 1 : 0;
    POSTERN_CHECK(table->may_send_from(user, {}) == known, "the null reverse-path is every user's");
    const sasl::ScramVerifier verifier = table->scram_verifier(user);
    POSTERN_CHECK(verifier.salt == table->scram_verifier(user).salt && !verifier.salt.empty(),
                  "a salt stays what it is");
  }
  POSTERN_CHECK(users == table->size(), "every line is a user's");
  POSTERN_CHECK(!table->may_send_from("a stranger:", {}), "nobody's name holds a colon");
  return 0;
}
