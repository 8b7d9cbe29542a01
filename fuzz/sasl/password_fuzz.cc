// Two questions: is base64 read as it is written, and only so; and does any text become an entry that is known, or a
// fault that says what to do? What a text of a hash leads to is not computed here: it is slow on purpose.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <postern/base/check.h>
#include <postern/base/status.h>
#include <postern/sasl/base64.h>
#include <postern/sasl/password.h>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace postern;        // NOLINT(google-build-using-namespace)
  using namespace postern::sasl;  // NOLINT(google-build-using-namespace)
  if (size > 16 * 1024) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  POSTERN_CHECK(from_base64(to_base64(text)) == std::string(text), "what was written is read");
  if (const std::optional<std::string> bytes = from_base64(text)) {
    POSTERN_CHECK(to_base64(*bytes) == text, "there is one way to write it");
  }
  const StatusOr<StoredPassword> stored = StoredPassword::parse(text);
  if (!stored.ok()) {
    POSTERN_CHECK(absl::IsInvalidArgument(stored.status()) && !message_of(stored.status()).empty(),
                  "a fault has a text");
  } else if (const ScramVerifier* const scram = stored->scram()) {
    POSTERN_CHECK(scram->iterations >= scram_iterations_min && scram->iterations <= scram_iterations_max,
                  "its cost has bounds");
  }
  return 0;
}
