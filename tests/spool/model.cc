#include "model.h"

#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>

namespace postern::spool::test {

void Disk::write(Slot slot, std::uint64_t offset, Bytes data) {
  std::vector<std::byte>& file = files.at(slot.value);
  ASSERT_LE(offset + data.size(), file.size());
  ASSERT_EQ(offset % block_bytes, 0u);
  ASSERT_EQ(data.size() % block_bytes, 0u);
  ASSERT_EQ(reinterpret_cast<std::uintptr_t>(data.data()) % block_bytes, 0u);
  std::memcpy(file.data() + offset, data.data(), data.size());
}

void Disk::write_torn(Slot slot, std::uint64_t offset, Bytes data, Random& random) {
  std::vector<std::byte>& file = files.at(slot.value);
  const std::uint64_t manner = random.below(4);  // nothing, all, a prefix, any sectors
  const std::uint64_t prefix = random.below(data.size() / sector_bytes + 1);
  for (std::size_t i = 0; i * sector_bytes < data.size(); ++i) {
    const bool lands = manner == 1 || (manner == 2 && i < prefix) || (manner == 3 && random.below(2) == 0);
    if (lands) std::memcpy(file.data() + offset + i * sector_bytes, data.data() + i * sector_bytes, sector_bytes);
  }
}

Status Disk::read(Slot slot, std::uint64_t offset, MutableBytes target) const {
  const auto file = files.find(slot.value);
  if (file == files.end()) return error(StatusCode::kNotFound, "no such file");
  if (offset + target.size() > file->second.size()) return error(StatusCode::kOutOfRange, "beyond the end");
  for (std::uint64_t at = offset; at < offset + target.size(); at += block_bytes) {
    if (bad_blocks.contains({slot.value, at})) return error(StatusCode::kDataLoss, "Input/output error");
  }
  std::memcpy(target.data(), file->second.data() + offset, target.size());
  return OkStatus();
}

std::string filler(std::size_t size, std::uint64_t seed) {
  Random random(seed);
  std::string text(size, 'x');
  for (char& c : text) c = static_cast<char>('a' + random.below(26));
  return text;
}

Options Rig::small() {
  Options options;
  options.segment_bytes = 128u << 10;
  options.batch_bytes_max = 16u << 10;
  options.batches_max = 4;
  options.inline_content_max = 8u << 10;
  options.reserved_segments = 1;
  options.spare_segments = 1;
  options.min_free_bytes = 1u << 20;
  options.compaction_segments_min = 3;
  return options;
}

Recovered Rig::recover() {
  std::vector<SlotFile> files;
  for (const auto& [slot, bytes] : disk_.files) files.push_back({Slot{slot}, bytes.size()});
  Recovery recovery(5, options_, std::move(files));
  int reads = 0;
  while (!recovery.done()) {
    const auto read = recovery.take_read();
    if (!read) {
      ADD_FAILURE() << "recovery neither reads nor is done";
      break;
    }
    EXPECT_FALSE(recovery.take_read()) << "one read at a time";
    recovery.on_read(disk_.read(read->slot, read->offset, read->target));
    if (++reads > 1'000'000) {
      ADD_FAILURE() << "recovery does not end";
      break;
    }
  }
  EXPECT_TRUE(recovery.status().ok()) << message_of(recovery.status());
  return recovery.take_result();
}

void Rig::start(bool until_open) {
  Recovered recovered = recover();
  report = recovered.report;
  log_ = std::make_unique<Log>(options_, std::move(recovered));
  locations_.clear();
  if (!until_open) return;
  for (int i = 0; i < 1000 && log_->intake() == Intake::starting; ++i) {
    serve_slots();
    if (begin_write()) end_write();
  }
  ASSERT_NE(log_->intake(), Intake::starting);
}

void Rig::serve_slots() {
  log_->on_space(free_bytes);
  while (log_->wants_key()) {
    SegmentKey key;
    for (std::byte& b : key) b = static_cast<std::byte>(random_.below(256));
    log_->add_key(key);
  }
  while (const auto request = log_->take_slot_request()) {
    if (request->kind == SlotRequest::Kind::set_aside) set_aside.push_back(request->new_path);
    if (request->kind != SlotRequest::Kind::create) {
      disk_.files.erase(request->slot.value);
      log_->on_slot_done(request->slot, OkStatus());
      continue;
    }
    if (fail_creates) {
      log_->on_slot_done(request->slot, error(StatusCode::kResourceExhausted, "No space left on device"));
      continue;
    }
    disk_.files[request->slot.value].assign(request->bytes, std::byte{0});
    log_->on_slot_done(request->slot, OkStatus());
  }
}

bool Rig::begin_write(bool more_is_coming) {
  if (!in_flight_) {
    in_flight_ = log_->take_write(now, more_is_coming);
    EXPECT_TRUE(!in_flight_ || !log_->take_write(now)) << "one write in flight per log";
  }
  return in_flight_.has_value();
}

void Rig::end_write() {
  disk_.write(in_flight_->slot, in_flight_->offset, in_flight_->data);
  in_flight_.reset();
  log_->on_written(OkStatus(), now);
  for (const Ticket ticket : log_->take_durable()) durable.push_back(ticket.value);
  for (const Moved& notice : log_->take_moved()) {
    moved.push_back(notice);
    if (const auto at = locations_.find(notice.id.value); at != locations_.end()) {
      EXPECT_EQ(at->second, notice.from);
      at->second = notice.to;
    }
  }
}

void Rig::fail_write() {
  in_flight_.reset();
  log_->on_written(error(StatusCode::kDataLoss, "Input/output error"), now);
}

bool Rig::compact_once() {
  const auto read = log_->take_compaction_read(now);
  if (!read) return false;
  log_->on_compaction_read(disk_.read(read->slot, read->offset, read->target), now);
  return true;
}

void Rig::write_all() {
  for (int i = 0; i < 100'000; ++i) {
    serve_slots();
    if (begin_write()) {
      end_write();
      continue;
    }
    if (log_->idle() && log_->next_deadline() == never) return;
    now = std::max(now, log_->next_deadline());
  }
  FAIL() << "the log never comes to rest";
}

void Rig::run() {
  for (int i = 0; i < 100'000; ++i) {
    write_all();
    // What compaction appended without a read is to be written first, and then there may be more.
    if (!compact_once() && log_->idle() && log_->next_deadline() == never) return;
  }
  FAIL() << "compaction never comes to rest";
}

void Rig::crash(bool torn) {
  if (in_flight_ && torn) disk_.write_torn(in_flight_->slot, in_flight_->offset, in_flight_->data, random_);
  in_flight_.reset();
  log_.reset();
}

MessageRecord Rig::record(std::string_view content, std::string_view envelope, std::uint16_t recipients) {
  pieces_.clear();
  pieces_.push_back(as_bytes(content.substr(0, content.size() / 3)));
  pieces_.push_back(as_bytes(content.substr(content.size() / 3)));
  MessageRecord made;
  made.id = log_->next_queue_id();
  made.envelope = as_bytes(envelope);
  made.added_fields = as_bytes("Received: by us\r\n");
  made.content = pieces_;
  made.facts.size = content.size();
  made.facts.form = mail::ContentForm::plain;
  made.facts.longest_line = 77;
  made.facts.has_eight_bit = true;
  made.recipients = recipients;
  return made;
}

mail::QueueId Rig::append(std::string_view content, std::string_view envelope, std::uint16_t recipients,
                          std::uint64_t ticket) {
  const MessageRecord made = record(content, envelope, recipients);
  StatusOr<mail::Location> location = log_->append_message(made, Ticket{ticket});
  for (int i = 0; i < 100 && location.status().code() == StatusCode::kResourceExhausted; ++i) {
    serve_slots();
    if (begin_write()) end_write();
    location = log_->append_message(made, Ticket{ticket});
  }
  EXPECT_TRUE(location.ok()) << message_of(location.status());
  if (location.ok()) locations_[made.id.value] = *location;
  return made.id;
}

StatusOr<Found> Rig::read(mail::Location location) {
  const StatusOr<ReadRange> range = log_->read_plan(location);
  if (!range.ok()) return range.status();
  AlignedBuffer buffer(range->bytes);
  POSTERN_RETURN_IF_ERROR(disk_.read(range->slot, range->offset, buffer.bytes()));
  const StatusOr<MessageView> view = log_->decode_message(location, buffer.bytes());
  if (!view.ok()) return view.status();
  Found found;
  found.id = view->id;
  found.location = location;
  found.envelope = as_text(view->envelope);
  found.added_fields = as_text(view->added_fields);
  found.recipients = view->recipients;
  for (std::size_t i = 0; i < view->extents.size(); ++i) {
    const Extent extent = view->extents[i];
    const StatusOr<ReadRange> chunk = log_->read_plan(extent);
    if (!chunk.ok()) return chunk.status();
    AlignedBuffer chunk_buffer(chunk->bytes);
    POSTERN_RETURN_IF_ERROR(disk_.read(chunk->slot, chunk->offset, chunk_buffer.bytes()));
    const StatusOr<Bytes> bytes = log_->decode_chunk(extent, i, chunk_buffer.bytes());
    if (!bytes.ok()) return bytes.status();
    found.content += as_text(*bytes);
  }
  found.content += as_text(view->content);
  EXPECT_EQ(found.content.size(), view->facts.size);
  return found;
}

std::vector<Found> Rig::replay() {
  std::vector<Found> all;
  Replay replay(*log_);
  for (int i = 0; !replay.done() && i < 1'000'000; ++i) {
    if (const auto message = replay.take_message()) {
      StatusOr<Found> found = read(message->location);
      if (!found.ok()) {
        ADD_FAILURE() << message_of(found.status());
        continue;
      }
      EXPECT_EQ(found->id, message->id);
      EXPECT_EQ(found->envelope, as_text(message->envelope));
      EXPECT_EQ(found->recipients, message->recipients);
      EXPECT_FALSE(message->unsettled.empty());
      for (const ReplayedRecipient& recipient : message->unsettled) {
        found->unsettled[recipient.index] = as_text(recipient.state);
      }
      locations_[message->id.value] = message->location;
      all.push_back(std::move(*found));
      continue;
    }
    // All that is asked for at once, and answered last first.
    std::vector<Replay::Read> reads;
    while (const auto read = replay.take_read()) reads.push_back(*read);
    EXPECT_LE(reads.size(), Replay::windows_max);
    for (; !reads.empty(); reads.pop_back()) {
      const ReadIntent& intent = reads.back().intent;
      replay.on_read(reads.back().window, disk_.read(intent.slot, intent.offset, intent.target));
    }
  }
  EXPECT_TRUE(replay.done());
  return all;
}

}  // namespace postern::spool::test
