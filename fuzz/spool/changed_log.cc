#include "fuzz/spool/changed_log.h"

#include <algorithm>
#include <cstring>
#include <string>

#include <postern/base/check.h>
#include <postern/spool/checksum.h>
#include <postern/spool/recovery.h>

namespace postern::fuzz {

using namespace spool;

namespace {

Options small() {
  Options options;
  options.segment_bytes = 64u << 10;
  options.batch_bytes_max = 16u << 10;
  options.batches_max = 4;
  options.inline_content_max = 8u << 10;
  options.reserved_segments = 1;
  options.min_free_bytes = 0;
  options.compaction_segments_min = 2;
  return options;
}

template <class T>
void put_right(const Checksum& checksum, std::byte* at, std::size_t bytes = sizeof(T)) {
  const std::uint64_t sum = checksum.of({at + 8, bytes - 8});
  std::memcpy(at, &sum, sizeof sum);
}

void put_right(std::vector<std::byte>& file) {
  if (file.size() < batches_offset + block_bytes) return;
  put_right<SegmentHeader>(Checksum(), file.data());
  SegmentHeader header;
  std::memcpy(&header, file.data(), sizeof header);
  const Checksum checksum(header.key);
  for (std::size_t at = batches_offset; at + block_bytes <= file.size();) {
    BatchHeader batch;
    std::memcpy(&batch, file.data() + at, sizeof batch);
    if (batch.magic != BatchHeader{}.magic || batch.bytes == 0 || batch.bytes > file.size() - at ||
        batch.used > batch.bytes) {
      at += block_bytes;
      continue;
    }
    std::vector<std::byte> covered(sizeof batch - 8);
    std::memcpy(covered.data(), file.data() + at + 8, covered.size());
    std::size_t offset = sizeof batch;
    for (std::uint32_t i = 0; i < batch.records && offset + sizeof(RecordHeader) <= batch.used; ++i) {
      RecordHeader record;
      std::byte* const place = file.data() + at + offset;
      std::memcpy(&record, place, sizeof record);
      if (record.bytes < sizeof record || record.bytes > batch.used - offset ||
          record.meta_bytes > record.bytes - sizeof record)
        break;
      const std::size_t head = sizeof record + record.meta_bytes;
      record.content_checksum = record.bytes == head ? 0 : checksum.of({place + head, record.bytes - head});
      std::memcpy(place, &record, sizeof record);
      put_right<RecordHeader>(checksum, place, head);
      covered.insert(covered.end(), place, place + 8);
      offset += round_up(record.bytes, record_alignment);
    }
    const std::uint64_t sum = checksum.of(covered);
    std::memcpy(file.data() + at, &sum, sizeof sum);
    at += std::max<std::size_t>(block_bytes, round_down(batch.bytes, block_bytes));
  }
  std::byte* const footer_at = file.data() + file.size() - sizeof(SummaryFooter);
  SummaryFooter footer;
  std::memcpy(&footer, footer_at, sizeof footer);
  const std::uint64_t entry_bytes = round_up(footer.entries_bytes, block_bytes);
  if (footer.magic == SummaryFooter{}.magic && entry_bytes + block_bytes <= file.size()) {
    footer.entries_checksum =
        checksum.of({file.data() + file.size() - block_bytes - entry_bytes, footer.entries_bytes});
    std::memcpy(footer_at, &footer, sizeof footer);
    put_right<SummaryFooter>(checksum, footer_at);
  }
}

}  // namespace

Status Disk::read(Slot slot, std::uint64_t offset, MutableBytes target) const {
  const auto file = files.find(slot.value);
  if (file == files.end() || offset + target.size() > file->second.size()) {
    return error(StatusCode::kOutOfRange, "short");
  }
  for (std::uint64_t at = offset; at < offset + target.size(); at += block_bytes) {
    if (bad_blocks.contains({slot.value, at})) return error(StatusCode::kDataLoss, "bad block");
  }
  std::memcpy(target.data(), file->second.data() + offset, target.size());
  return OkStatus();
}

std::unique_ptr<Log> start(const Disk& disk) {
  std::vector<SlotFile> files;
  for (const auto& [slot, bytes] : disk.files) files.push_back({Slot{slot}, bytes.size()});
  Recovery recovery(5, small(), std::move(files));
  int reads = 0;
  while (!recovery.done()) {
    const auto read = recovery.take_read();
    POSTERN_CHECK(read.has_value() && ++reads < 100'000);
    recovery.on_read(disk.read(*read));
  }
  return recovery.status().ok() ? std::make_unique<Log>(small(), recovery.take_result()) : nullptr;
}

void turn(Log& log, Disk& disk) {
  log.stop_waiting();
  std::uint8_t key = 1;
  for (int i = 0; i < 10'000; ++i) {
    while (log.wants_key()) log.add_key(SegmentKey{std::byte{key++}});
    while (const auto request = log.take_slot_request()) {
      if (request->kind == SlotRequest::Kind::create) {
        disk.files[request->slot.value].assign(request->bytes, std::byte{0});
      } else {
        disk.files.erase(request->slot.value);
      }
      log.on_slot_done(request->slot, OkStatus());
    }
    if (const auto write = log.take_write(Instant{})) {
      std::vector<std::byte>& file = disk.files.at(write->slot.value);
      POSTERN_CHECK(write->offset + write->data.size() <= file.size());
      std::memcpy(file.data() + write->offset, write->data.data(), write->data.size());
      log.on_written(OkStatus(), Instant{});
      (void)log.take_durable();
      (void)log.take_moved();
    } else if (const auto read = log.take_compaction_read(Instant{})) {
      log.on_compaction_read(disk.read(*read), Instant{});
    } else {
      return;
    }
  }
  POSTERN_CHECK(false, "the log never comes to rest");
}

void fill(Log& log, Disk& disk, int messages) {
  const std::string content(3000, 'c');
  const Bytes piece = as_bytes(content);
  for (int i = 0; i < messages; ++i) {
    MessageRecord record;
    record.id = log.next_queue_id();
    record.envelope = as_bytes("envelope");
    record.added_fields = as_bytes("fields");
    record.recipients = static_cast<std::uint16_t>(1 + i % 3);
    record.content = {&piece, 1};
    record.facts.size = content.size();
    if (i % 7 == 6) {
      const ContentId stream = log.begin_content();
      POSTERN_CHECK(log.append_chunk(stream, piece).ok());
      record.streamed = stream;
      record.facts.size *= 2;
    }
    const auto location = log.append_message(record, {});
    POSTERN_CHECK(location.ok());
    if (i % 3 != 0) (void)log.append_settlement(*location, record.id, 0, mail::Outcome::relayed, {});
    if (i % 4 == 1) (void)log.append_retry_state(*location, record.id, 1, as_bytes("state"));
    turn(log, disk);
  }
}

namespace {

const Disk& original() {
  static const Disk disk = [] {
    Disk made;
    const auto log = start(made);
    turn(*log, made);
    fill(*log, made, 50);
    return made;
  }();
  return disk;
}

}  // namespace

Disk changed_log(const std::uint8_t* data, std::size_t size) {
  Disk disk = original();
  std::vector<std::uint32_t> slots;
  for (const auto& [slot, bytes] : disk.files) slots.push_back(slot);
  // One change: kind, file, offset (3 bytes, in units of 8), then up to 8 bytes or an argument in the same place.
  constexpr std::size_t change_bytes = 13;
  for (int changes = 0; size >= change_bytes && changes < 32; ++changes, data += change_bytes, size -= change_bytes) {
    std::vector<std::byte>& file = disk.files.at(slots[data[1] % slots.size()]);
    if (file.size() < 2 * block_bytes) continue;
    const std::size_t raw = data[2] | std::size_t{data[3]} << 8 | std::size_t{data[4]} << 16;
    const std::size_t offset = raw * 8 % (file.size() - 8);
    const std::uint64_t block = round_down(offset, block_bytes);
    switch (data[0] % 8) {
      case 0:
        std::memcpy(file.data() + offset, data + 5, 8);
        break;
      case 1:
        file[offset] ^= static_cast<std::byte>(data[5]);
        break;
      case 2:
        std::memset(file.data() + block, data[5], block_bytes);
        break;
      case 3:
        disk.bad_blocks.insert({slots[data[1] % slots.size()], block});
        break;
      case 4: {
        const std::size_t from =
            round_down(std::size_t{data[5]} * block_bytes % (file.size() - block_bytes), block_bytes);
        std::memmove(file.data() + block, file.data() + from, block_bytes);
        break;
      }
      case 5:
        file.resize(block);
        break;
      default:
        std::memcpy(file.data() + offset, data + 5, 1 + data[0] / 32);
        put_right(file);
        disk.forged = true;
        break;
    }
  }
  return disk;
}

}  // namespace postern::fuzz
