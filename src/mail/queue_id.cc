#include <cstddef>

#include <postern/base/check.h>
#include <postern/mail/queue_id.h>

namespace postern::mail {
namespace {

constexpr std::string_view alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
static_assert(alphabet.size() == 32);
// 13 characters carry 65 bits, so the first one holds only four: its value is at most 15.
static_assert(QueueId::text_size * 5 == 65);

}  // namespace

QueueId QueueId::from_parts(std::uint32_t log, std::uint32_t start, std::uint32_t counter) {
  POSTERN_CHECK(log <= log_max && start <= start_max);
  return QueueId{(std::uint64_t{log} << 52) | (std::uint64_t{start} << 32) | counter};
}

std::array<char, QueueId::text_size> QueueId::to_text() const {
  std::array<char, text_size> text{};
  std::uint64_t rest = value;
  for (std::size_t i = text_size; i-- > 0;) {
    text[i] = alphabet[rest & 31];
    rest >>= 5;
  }
  return text;
}

std::string QueueId::to_string() const {
  const auto text = to_text();
  return {text.data(), text.size()};
}

std::optional<QueueId> QueueId::parse(std::string_view text) {
  if (text.size() != text_size) return std::nullopt;
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < text_size; ++i) {
    char c = text[i];
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    const std::size_t digit = alphabet.find(c);
    if (digit == std::string_view::npos || (i == 0 && digit > 15)) return std::nullopt;
    value = (value << 5) | digit;
  }
  return QueueId{value};
}

}  // namespace postern::mail
