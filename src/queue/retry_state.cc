#include <algorithm>
#include <concepts>

#include <postern/queue/retry_state.h>

namespace postern::queue {
namespace {

constexpr std::uint8_t version = 1;
constexpr std::uint8_t version_warned = 2;

template <std::unsigned_integral T>
void put(std::string& out, T value) {
  for (unsigned i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(value >> (8 * i) & 0xFF));
}

template <std::unsigned_integral T>
T get(Bytes bytes, std::size_t& offset) {
  std::uint64_t value = 0;
  for (unsigned i = 0; i < sizeof(T); ++i) value |= std::to_integer<std::uint64_t>(bytes[offset++]) << (8 * i);
  return static_cast<T>(value);
}

}  // namespace

void encode_retry_state(const RetryState& state, std::string& out) {
  const mail::Reply& reply = state.last_reply;
  const std::string_view text = std::string_view(reply.text).substr(0, retry_reply_text_max);
  put(out, state.warned ? version_warned : version);
  put(out, state.attempts);
  put(out, static_cast<std::uint64_t>(state.due.time_since_epoch().count()));
  put(out, reply.code);
  put(out, reply.status.class_digit);
  put(out, reply.status.subject);
  put(out, reply.status.detail);
  put(out, static_cast<std::uint16_t>(text.size()));
  out.append(text);
}

StatusOr<RetryState> decode_retry_state(Bytes bytes) {
  if (bytes.size() < retry_state_head_bytes) return error(StatusCode::kDataLoss, "retry state: too short");
  std::size_t offset = 0;
  const auto found = get<std::uint8_t>(bytes, offset);
  if (found != version && found != version_warned) return error(StatusCode::kDataLoss, "retry state: unknown version");
  RetryState state;
  state.warned = found == version_warned;
  state.attempts = get<std::uint16_t>(bytes, offset);
  const auto due = static_cast<std::int64_t>(get<std::uint64_t>(bytes, offset));
  if (due < 0) return error(StatusCode::kDataLoss, "retry state: due before the epoch");
  state.due = WallTime(Duration(due));
  state.last_reply.code = get<std::uint16_t>(bytes, offset);
  state.last_reply.status.class_digit = get<std::uint8_t>(bytes, offset);
  state.last_reply.status.subject = get<std::uint16_t>(bytes, offset);
  state.last_reply.status.detail = get<std::uint16_t>(bytes, offset);
  const auto text_size = get<std::uint16_t>(bytes, offset);
  if (text_size > retry_reply_text_max || bytes.size() != offset + text_size) {
    return error(StatusCode::kDataLoss, "retry state: size of the text");
  }
  state.last_reply.text = as_text(bytes.subspan(offset));
  return state;
}

}  // namespace postern::queue
