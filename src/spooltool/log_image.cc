#include "spooltool/log_image.h"

#include <algorithm>
#include <set>

#include <postern/spool/record.h>

#include "spooltool/segment_walk.h"

namespace postern::spooltool {
namespace {

constexpr std::size_t open_files_max = 64;
constexpr std::uint64_t window_bytes_least = 256u << 10;

}  // namespace

StatusOr<std::unique_ptr<LogImage>> LogImage::read(const DataDir& data, std::uint16_t log, bool in_use) {
  std::vector<std::string> alarms;
  for (int look = 1;; ++look) {
    StatusOr<LogFiles> files = data.list(log);
    if (!files.ok()) return files.status();
    std::unique_ptr<LogImage> image(new LogImage(data, *std::move(files)));
    Status status = image->recover();
    const bool last = !in_use || look == looks_max;
    if (!status.ok()) {
      if (last) return status;
      continue;
    }
    // A segment that was used again between two reads looks damaged; another look finds it elsewhere.
    if (last || image->report().alarms.empty() || image->report().alarms == alarms) return image;
    alarms = image->report().alarms;
  }
}

Status LogImage::recover() {
  spool::Recovery recovery(files_.log, spool::Options{}, files_.slots);
  while (const auto wanted = recovery.take_read()) {
    const StatusOr<const ReadFile*> opened = file(wanted->slot);
    recovery.on_read(opened.ok() ? (*opened)->read(wanted->offset, wanted->target) : opened.status());
    if (opened.ok()) (*opened)->forget(wanted->offset, wanted->target.size());
  }
  if (recovery.status().ok()) found_ = recovery.take_result();
  return recovery.status();
}

std::vector<spool::Slot> LogImage::left_alone() const {
  std::set<spool::Slot> known(found_.free_slots.begin(), found_.free_slots.end());
  known.insert(found_.stale_slots.begin(), found_.stale_slots.end());
  for (std::size_t i = 0; i < index().segment_count(); ++i) known.insert(index().segment(i).slot);
  std::vector<spool::Slot> slots;
  for (const spool::SlotFile& file : files_.slots) {
    if (!known.contains(file.slot)) slots.push_back(file.slot);
  }
  return slots;
}

StatusOr<const ReadFile*> LogImage::file(spool::Slot slot) {
  if (const auto known = open_.find(slot.value); known != open_.end()) return &known->second;
  StatusOr<ReadFile> opened = ReadFile::open(data_.path_of(spool::slot_path(files_.log, slot)));
  if (!opened.ok()) return opened.status();
  if (open_.size() >= open_files_max) open_.clear();
  return &open_.emplace(slot.value, *std::move(opened)).first->second;
}

bool LogImage::still_there(const spool::Segment& segment) const {
  const StatusOr<ReadFile> opened = ReadFile::open(data_.path_of(path_of(segment)));
  if (!opened.ok()) return false;
  const StatusOr<spool::SegmentHeader> header = read_segment_header(*opened);
  return header.ok() && header->sequence == segment.sequence && header->log == files_.log;
}

bool LogImage::still_there(const spool::Segment& segment, const spool::ExtentList& chunks) const {
  std::set<std::uint64_t> sequences{segment.sequence};
  for (std::size_t i = 0; i < chunks.size(); ++i) sequences.insert(spool::sequence_of(chunks[i].position));
  return std::all_of(sequences.begin(), sequences.end(), [this](std::uint64_t sequence) {
    const spool::Segment* const one = found_.index.find_segment(sequence);
    return one == nullptr || still_there(*one);
  });
}

Status LogImage::damage(const spool::Segment& segment, std::uint64_t offset, std::string_view what) const {
  std::string text = path_of(segment);
  text += " at offset ";
  text += std::to_string(offset);
  text += ": ";
  text += what;
  return error(StatusCode::kDataLoss, text);
}

StatusOr<Bytes> LogImage::read(Window& window, const spool::Segment& segment, std::uint64_t offset,
                               std::uint64_t bytes) {
  if (bytes > spool::batch_bytes_limit || offset > segment.bytes || bytes > segment.bytes - offset) {
    return damage(segment, offset, "no record of that length can stand there");
  }
  if (segment.sequence != window.sequence || offset < window.offset || offset + bytes > window.offset + window.bytes) {
    const StatusOr<const ReadFile*> opened = file(segment.slot);
    if (!opened.ok()) return opened.status();
    const std::uint64_t from = spool::round_down(offset, spool::block_bytes);
    const std::uint64_t least = spool::round_up(offset + bytes, spool::block_bytes) - from;
    const std::uint64_t size = std::min(std::max(least, window_bytes_least), segment.bytes - from);
    if (window.buffer.size() < size) window.buffer = spool::AlignedBuffer(size);
    (void)(*opened)->read_around(from, window.buffer.bytes().first(size));  // zeros validate as nothing
    (*opened)->forget(from, size);
    window.sequence = segment.sequence;
    window.offset = from;
    window.bytes = size;
  }
  return window.buffer.first(window.bytes).subspan(offset - window.offset, bytes);
}

StatusOr<spool::MessageView> LogImage::read_message(const spool::Segment& segment, const spool::Entry& entry) {
  const std::uint64_t offset = std::uint64_t{entry.units} * spool::record_alignment;
  const StatusOr<Bytes> record = read(messages_, segment, offset, entry.bytes);
  if (!record.ok()) return record.status();
  const auto header = spool::check_record(segment.checksum, segment.position_of(entry), *record);
  if (!header || header->bytes != entry.bytes || header->queue_id != entry.queue_id() ||
      !spool::check_content(segment.checksum, *header, *record)) {
    return damage(segment, offset, "the message's record is damaged");
  }
  const auto view = spool::read_message(*header, *record);
  if (!view) return damage(segment, offset, "the message's record makes no sense");
  return *view;
}

StatusOr<Bytes> LogImage::read_chunk(const spool::Extent& extent, std::size_t index) {
  const spool::Segment* const segment = found_.index.find_segment(spool::sequence_of(extent.position));
  if (segment == nullptr) {
    return error(StatusCode::kDataLoss, spool::log_directory(files_.log) + ": segment " +
                                            std::to_string(spool::sequence_of(extent.position)) +
                                            ", with part of the content, is missing");
  }
  const std::uint64_t offset = spool::offset_of(extent.position);
  const std::uint64_t bytes = sizeof(spool::RecordHeader) + std::uint64_t{extent.bytes};
  const StatusOr<Bytes> record = read(others_, *segment, offset, bytes);
  if (!record.ok()) return record.status();
  const auto header = spool::check_record(segment->checksum, extent.position, *record);
  if (!header || header->kind != spool::RecordKind::chunk || header->bytes != bytes || header->meta_bytes != 0 ||
      header->subject != index || !spool::check_content(segment->checksum, *header, *record)) {
    return damage(*segment, offset, "a piece of the content is damaged");
  }
  return record->subspan(sizeof(spool::RecordHeader));
}

StatusOr<queue::RetryState> LogImage::read_state(const spool::Segment& of, const spool::Entry& entry,
                                                 std::uint16_t recipient) {
  const auto ref = found_.index.state(of.position_of(entry), entry, recipient);
  const spool::Segment* const segment = ref ? found_.index.find_segment(spool::sequence_of(ref->position)) : nullptr;
  if (segment == nullptr) return error(StatusCode::kNotFound, "no attempt was recorded");
  const std::uint64_t offset = spool::offset_of(ref->position);
  const StatusOr<Bytes> record = read(others_, *segment, offset, ref->bytes);
  if (!record.ok()) return record.status();
  const auto header = spool::check_record(segment->checksum, ref->position, *record);
  if (!header || header->kind != spool::RecordKind::retry_state || header->queue_id != entry.queue_id() ||
      header->recipient != recipient) {
    return damage(*segment, offset, "the recipient's retry state is damaged");
  }
  return queue::decode_retry_state(record->subspan(sizeof(spool::RecordHeader), header->meta_bytes));
}

std::vector<RecipientFacts> LogImage::read_recipients(const spool::Segment& segment, const spool::Entry& entry) {
  std::vector<RecipientFacts> all(entry.recipients);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto recipient = static_cast<std::uint16_t>(i);
    if (found_.index.is_settled(segment.position_of(entry), entry, recipient)) {
      all[i].state = RecipientState::settled;
      continue;
    }
    all[i].state = RecipientState::waiting;
    StatusOr<queue::RetryState> state = read_state(segment, entry, recipient);
    if (!state.ok()) continue;
    all[i].tried = true;
    all[i].retry = *std::move(state);
  }
  return all;
}

LogImage::Place LogImage::find(mail::QueueId id) const {
  for (std::size_t i = 0; i < found_.index.segment_count(); ++i) {
    const spool::Segment& segment = found_.index.segment(i);
    for (const spool::Entry& entry : segment.entries) {
      if (entry.queue_id() == id.value && entry.unsettled != 0) return {&segment, &entry};
    }
  }
  return {};
}

}  // namespace postern::spooltool
