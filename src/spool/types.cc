#include <cstring>

#include <postern/spool/types.h>

namespace postern::spool {
namespace {

constexpr std::string_view hex_digits = "0123456789abcdef";

std::string hex(std::uint64_t value, std::size_t digits) {
  std::string text(digits, '0');
  for (std::size_t i = digits; i-- > 0; value >>= 4) text[i] = hex_digits[value & 15];
  return text;
}

std::optional<std::uint32_t> parse_hex(std::string_view text) {
  std::uint32_t value = 0;
  for (const char c : text) {
    const std::size_t digit = hex_digits.find(c);
    if (digit == std::string_view::npos) return std::nullopt;
    value = (value << 4) | static_cast<std::uint32_t>(digit);
  }
  return value;
}

constexpr std::string_view extension = ".seg";
constexpr std::string_view damaged_prefix = "damaged-";
constexpr std::size_t slot_digits = 8;
constexpr std::size_t log_digits = 3;

}  // namespace

Status Options::check() const {
  const auto bad = [](std::string_view what) { return error(StatusCode::kInvalidArgument, what); };
  if (batch_bytes_max % block_bytes != 0 || batch_bytes_max < 4 * block_bytes || batch_bytes_max > batch_bytes_limit) {
    return bad("spool: batch_bytes_max must be a multiple of 4 KiB from 16 KiB to 4 MiB");
  }
  if (segment_bytes % block_bytes != 0 || segment_bytes < 4 * batch_bytes_max || segment_bytes > segment_bytes_limit) {
    return bad("spool: segment_bytes must be a multiple of 4 KiB, from four batches to 1 GiB");
  }
  if (batches_max < 3) return bad("spool: batches_max must be at least 3");
  if (inline_content_max > batch_bytes_max / 2) return bad("spool: inline_content_max must be at most half a batch");
  if (reserved_segments < 1) return bad("spool: reserved_segments must be at least 1");
  if (space_limit_bytes != 0 && space_limit_bytes / segment_bytes < reserved_segments + 3) {
    return bad("spool: space_limit_bytes must hold three segments more than the reserve");
  }
  if (garbage_percent < 1 || garbage_percent > 99) return bad("spool: garbage_percent must be from 1 to 99");
  return OkStatus();
}

Extent ExtentList::operator[](std::size_t index) const {
  Extent extent;
  std::memcpy(&extent, bytes_.data() + index * sizeof extent, sizeof extent);
  return extent;
}

std::string log_directory(std::uint16_t log) {
  return "logs/" + hex(log, log_digits);
}

std::string slot_path(std::uint16_t log, Slot slot) {
  std::string path = log_directory(log);
  path += '/';
  path += hex(slot.value, slot_digits);
  path += extension;
  return path;
}

std::string damaged_path(std::uint16_t log, std::uint64_t sequence) {
  std::string path = log_directory(log);
  path += '/';
  path += damaged_prefix;
  path += std::to_string(sequence);
  path += extension;
  return path;
}

bool is_damaged_name(std::string_view name) {
  return name.starts_with(damaged_prefix) && name.ends_with(extension);
}

std::optional<Slot> parse_slot_name(std::string_view name) {
  if (name.size() != slot_digits + extension.size() || !name.ends_with(extension)) return std::nullopt;
  const auto value = parse_hex(name.substr(0, slot_digits));
  if (!value) return std::nullopt;
  return Slot{*value};
}

std::optional<std::uint16_t> parse_log_name(std::string_view name) {
  if (name.size() != log_digits) return std::nullopt;
  const auto value = parse_hex(name);
  if (!value) return std::nullopt;
  return static_cast<std::uint16_t>(*value);
}

}  // namespace postern::spool
