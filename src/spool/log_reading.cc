// The part of Log that finds, checks and pins what was written.
#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/spool/log.h>
#include <postern/spool/record.h>

namespace postern::spool {

// --- reading ---------------------------------------------------------------------------------------------------------

mail::Location Log::current(mail::Location location) const {
  while (!forward_.empty()) {
    const auto at = forward_.find(location.position);
    if (at == forward_.end()) break;
    location = at->second;
  }
  return location;
}

bool Log::lives(mail::Location location) const {
  const Entry* const entry = index_.find_entry(current(location).position);
  return entry != nullptr && entry->unsettled != 0;
}

namespace {

ReadRange range_of(const Segment& segment, std::uint64_t position, std::uint64_t bytes) {
  const std::uint64_t offset = offset_of(position);
  const std::uint64_t from = round_down(offset, block_bytes);
  const std::uint64_t to = round_up(offset + bytes, block_bytes);
  return {segment.slot, from, static_cast<std::uint32_t>(to - from), static_cast<std::uint32_t>(offset - from)};
}

Status damage(std::uint16_t log, const Segment& segment, std::uint64_t position, std::string_view what) {
  std::string text = "spool: ";
  text += what;
  text += " in segment ";
  text += std::to_string(segment.sequence);
  text += " (";
  text += slot_path(log, segment.slot);
  text += ") at offset ";
  text += std::to_string(offset_of(position));
  return error(StatusCode::kDataLoss, text);
}

}  // namespace

StatusOr<ReadRange> Log::read_plan(mail::Location location) const {
  const Segment* const segment = index_.find_segment(sequence_of(location.position));
  const Entry* const entry = segment == nullptr ? nullptr : index_.find_entry(location.position);
  if (entry == nullptr) return error(StatusCode::kNotFound, "spool: no message at that location");
  return range_of(*segment, location.position, entry->bytes);
}

StatusOr<MessageView> Log::decode_message(mail::Location location, Bytes range_bytes) const {
  const Segment* const segment = index_.find_segment(sequence_of(location.position));
  const Entry* const entry = segment == nullptr ? nullptr : index_.find_entry(location.position);
  if (entry == nullptr) return error(StatusCode::kNotFound, "spool: no message at that location");
  const std::size_t lead = offset_of(location.position) % block_bytes;
  if (range_bytes.size() < lead + entry->bytes) return error(StatusCode::kInvalidArgument, "spool: bytes are missing");
  const Bytes record = range_bytes.subspan(lead, entry->bytes);
  const auto header = check_record(segment->checksum, location.position, record);
  if (!header || header->bytes != entry->bytes || header->queue_id != entry->queue_id() ||
      !check_content(segment->checksum, *header, record)) {
    return damage(log_, *segment, location.position, "damaged message");
  }
  auto view = read_message(*header, record);
  if (!view) return damage(log_, *segment, location.position, "malformed message");
  return *view;
}

StatusOr<ReadRange> Log::read_plan(const Extent& extent) const {
  const Segment* const segment = index_.find_segment(sequence_of(extent.position));
  if (segment == nullptr) return error(StatusCode::kNotFound, "spool: the chunk's segment is gone");
  const ReadRange range = range_of(*segment, extent.position, sizeof(RecordHeader) + std::uint64_t{extent.bytes});
  if (extent.bytes > chunk_bytes_limit || range.offset + range.bytes > segment->bytes) {
    return damage(log_, *segment, extent.position, "a chunk that cannot be");
  }
  return range;
}

StatusOr<Bytes> Log::decode_chunk(const Extent& extent, std::size_t index, Bytes range_bytes) const {
  const Segment* const segment = index_.find_segment(sequence_of(extent.position));
  if (segment == nullptr) return error(StatusCode::kNotFound, "spool: the chunk's segment is gone");
  const std::size_t lead = offset_of(extent.position) % block_bytes;
  const std::size_t bytes = sizeof(RecordHeader) + extent.bytes;
  if (range_bytes.size() < lead + bytes) return error(StatusCode::kInvalidArgument, "spool: bytes are missing");
  const Bytes record = range_bytes.subspan(lead, bytes);
  const auto header = check_record(segment->checksum, extent.position, record);
  if (!header || header->kind != RecordKind::chunk || header->bytes != bytes || header->meta_bytes != 0 ||
      header->subject != index || !check_content(segment->checksum, *header, record)) {
    return damage(log_, *segment, extent.position, "damaged chunk");
  }
  return record.subspan(sizeof(RecordHeader));
}

std::optional<StateRef> Log::state_of(mail::Location location, std::uint16_t recipient) const {
  const std::uint64_t position = current(location).position;
  const Entry* const entry = index_.find_entry(position);
  return entry == nullptr ? std::nullopt : index_.state(position, *entry, recipient);
}

StatusOr<ReadRange> Log::read_plan(mail::Location location, std::uint16_t recipient) const {
  const std::optional<StateRef> ref = state_of(location, recipient);
  const Segment* const segment = ref ? index_.find_segment(sequence_of(ref->position)) : nullptr;
  if (segment == nullptr) return error(StatusCode::kNotFound, "spool: no state of this recipient");
  return range_of(*segment, ref->position, ref->bytes);
}

StatusOr<Bytes> Log::decode_state(mail::Location location, mail::QueueId id, std::uint16_t recipient,
                                  Bytes range_bytes) const {
  const std::optional<StateRef> ref = state_of(location, recipient);
  const Segment* const segment = ref ? index_.find_segment(sequence_of(ref->position)) : nullptr;
  if (segment == nullptr) return error(StatusCode::kNotFound, "spool: no state of this recipient");
  const std::size_t lead = offset_of(ref->position) % block_bytes;
  if (range_bytes.size() < lead + ref->bytes) return error(StatusCode::kInvalidArgument, "spool: bytes are missing");
  const Bytes record = range_bytes.subspan(lead, ref->bytes);
  const auto header = check_record(segment->checksum, ref->position, record);
  if (!header || header->kind != RecordKind::retry_state || header->queue_id != id.value ||
      header->recipient != recipient) {
    return damage(log_, *segment, ref->position, "damaged retry state");
  }
  return record.subspan(sizeof(RecordHeader), header->meta_bytes);
}

Log::Pin Log::pin(mail::Location location) {
  location = current(location);
  const Index::Found found = index_.find(location.position);
  if (found.entry == nullptr) return {};
  Segment* oldest = found.segment;
  if (found.entry->large) {
    if (const auto at = index_.large().find(location.position); at != index_.large().end()) {
      for (const ChunkUse& use : at->second) {
        if (use.sequence >= oldest->sequence) continue;
        if (Segment* const segment = index_.find_segment(use.sequence); segment != nullptr) oldest = segment;
      }
    }
  }
  ++oldest->pins;
  return {oldest->sequence};
}

void Log::unpin(Pin pin) {
  if (pin.sequence == 0) return;
  Segment* const segment = index_.find_segment(pin.sequence);
  POSTERN_CHECK(segment != nullptr && segment->pins != 0, "unpin() without pin()");
  --segment->pins;
}

}  // namespace postern::spool
