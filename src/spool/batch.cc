#include <cstring>

#include <postern/base/planted.h>
#include <postern/mail/queue_id.h>
#include <postern/spool/batch.h>
#include <postern/spool/record.h>

namespace postern::spool {
namespace {

template <class T>
T load(Bytes bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

// Of a structure that begins with its checksum.
template <class T>
std::uint64_t checksum_of(const Checksum& checksum, const T& value) {
  constexpr std::size_t lead = sizeof value.checksum;
  return checksum.of({reinterpret_cast<const std::byte*>(&value) + lead, sizeof value - lead});
}

}  // namespace

std::optional<SegmentHeader> check_segment_header(const Checksum& checksum, Bytes bytes) {
  if (bytes.size() < sizeof(SegmentHeader)) return std::nullopt;
  const auto header = load<SegmentHeader>(bytes);
  if (header.magic != SegmentHeader{}.magic || header.checksum != checksum_of(checksum, header)) return std::nullopt;
  return header;
}

bool sane_segment_header(const SegmentHeader& header, std::uint64_t file_bytes) {
  return header.version == format_version && header.log <= mail::QueueId::log_max && header.sequence != 0 &&
         header.sequence < sequence_limit && header.start <= mail::QueueId::start_max &&
         header.segment_bytes >= batches_offset + block_bytes && header.segment_bytes <= segment_bytes_limit &&
         header.segment_bytes % block_bytes == 0 && header.segment_bytes <= file_bytes;
}

std::optional<SummaryFooter> check_footer(const Checksum& checksum, std::uint64_t sequence, std::uint64_t segment_bytes,
                                          Bytes bytes) {
  if (bytes.size() < sizeof(SummaryFooter)) return std::nullopt;
  const auto footer = load<SummaryFooter>(bytes.last(sizeof(SummaryFooter)));
  if (footer.magic != SummaryFooter{}.magic || footer.sequence != sequence ||
      footer.checksum != checksum_of(checksum, footer) || footer.end < batches_offset ||
      footer.end % block_bytes != 0 || footer.end > segment_bytes ||
      footer.end + round_up(footer.entries_bytes, block_bytes) + block_bytes > segment_bytes) {
    return std::nullopt;
  }
  return footer;
}

bool plausible_batch(const BatchHeader& header, const BatchPlace& place) {
  return header.magic == BatchHeader{}.magic &&
         (header.sequence == place.sequence || POSTERN_PLANTED(old_batch_validated)) &&
         header.offset_blocks == place.offset / block_bytes && header.bytes % block_bytes == 0 && header.bytes != 0 &&
         header.bytes <= batch_bytes_limit && place.offset + header.bytes <= place.segment_bytes &&
         header.used >= sizeof header && header.used <= header.bytes &&
         header.records <= header.used / record_alignment;
}

bool check_batch(const Checksum& checksum, const BatchHeader& header, const BatchPlace& place, Bytes batch,
                 std::vector<std::byte>& scratch) {
  constexpr std::size_t covered = sizeof header - sizeof header.checksum;
  scratch.resize(covered + std::size_t{header.records} * sizeof(std::uint64_t));
  std::memcpy(scratch.data(), batch.data() + sizeof header.checksum, covered);
  std::size_t offset = sizeof header;
  for (std::uint32_t i = 0; i < header.records; ++i) {
    if (offset + sizeof(RecordHeader) > header.used) return false;
    const auto record = load<RecordHeader>(batch.subspan(offset, sizeof(RecordHeader)));
    std::memcpy(scratch.data() + covered + i * sizeof record.checksum, &record.checksum, sizeof record.checksum);
    if (record.bytes < sizeof record || record.bytes > header.used - offset) return false;
    offset += round_up(record.bytes, record_alignment);
  }
  if (POSTERN_PLANTED(torn_tail_accepted) || POSTERN_PLANTED(old_batch_validated)) return offset == header.used;
  if (offset != header.used || checksum.of(scratch) != header.checksum) return false;
  offset = sizeof header;
  for (std::uint32_t i = 0; i < header.records; ++i) {
    const Bytes rest = batch.subspan(offset, header.used - offset);
    const auto record = check_record(checksum, make_position(place.sequence, place.offset + offset), rest);
    if (!record || !check_content(checksum, *record, rest)) return false;
    offset += round_up(record->bytes, record_alignment);
  }
  return true;
}

}  // namespace postern::spool
