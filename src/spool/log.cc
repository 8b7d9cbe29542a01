#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include <postern/base/check.h>
#include <postern/spool/log.h>
#include <postern/spool/record.h>

#include "compactor.h"

namespace postern::spool {
namespace {

std::size_t padded(std::size_t record_bytes) {
  return round_up(record_bytes, record_alignment);
}

Status out_of_room() {
  return error(StatusCode::kResourceExhausted, "spool: no room at the moment");
}

// How the chunks of a content spread over segments. Extents are in order of position but for compacted ones.
std::vector<ChunkUse> chunk_uses(std::span<const Extent> extents) {
  std::vector<ChunkUse> uses;
  for (const Extent& extent : extents) {
    const std::uint64_t sequence = sequence_of(extent.position);
    auto at =
        std::find_if(uses.begin(), uses.end(), [sequence](const ChunkUse& use) { return use.sequence == sequence; });
    if (at == uses.end()) at = uses.insert(uses.end(), ChunkUse{sequence, 0, 0});
    ++at->chunks;
    at->bytes += extent.bytes;
  }
  return uses;
}

}  // namespace

Log::Log(const Options& options, Recovered recovered)
    : options_(options),
      log_(recovered.log),
      start_(recovered.next_start),
      next_sequence_(recovered.next_sequence),
      next_slot_(recovered.next_slot),
      index_(std::move(recovered.index)),
      report_(std::move(recovered.report)),
      oldest_(recovered.oldest),
      durable_oldest_(recovered.oldest),
      free_(std::move(recovered.free_slots)) {
  const Status valid = options_.check();
  POSTERN_CHECK(valid.ok(), message_of(valid));
  for (const Slot slot : recovered.stale_slots) to_remove_.push_back(slot);
  for (const std::uint64_t sequence : recovered.unsealed) push_summary(*index_.find_segment(sequence));
  if (index_.segment_count() != 0) recovered_last_ = index_.segment(index_.segment_count() - 1).sequence;
  replay_due_ = index_.live_messages() != 0;
  compactor_ = std::make_unique<Compactor>(*this);
}

Log::~Log() = default;

// --- may I append? ---------------------------------------------------------------------------------------------------

bool Log::fits(const Segment& segment, std::uint64_t offset, std::uint64_t used, const Reservation& wanted) const {
  used += wanted.bytes;
  // One block is kept for the batch that makes `oldest` durable when nothing else can be written any more.
  return used <= options_.batch_bytes_max &&
         offset + round_up(used, block_bytes) + block_bytes + Index::summary_bytes(segment, wanted.summary_bytes) <=
             segment.bytes;
}

bool Log::fits_open(const Reservation& wanted) const {
  return open_ != nullptr && fits(*open_->segment, open_->offset, open_->used, wanted);
}

bool Log::can_open(const Reservation& wanted, Use use) const {
  if (batches_ + 1 > options_.batches_max - (use == Use::intake ? 1 : 0)) return false;
  const std::uint64_t offset = open_ ? open_->offset + round_up(open_->used, block_bytes) : active_->end;
  return fits(*active_, offset, sizeof(BatchHeader), wanted) || can_roll(use);
}

bool Log::has_room(std::size_t bytes, Use use) const {
  if (failed() || active_ == nullptr) return false;
  // What records can add to the summary: half their own bytes (a settlement's note), and a bitmap of 65,535 recipients.
  const Reservation wanted{bytes, bytes / 2 + recipients_limit / 8 + 128};
  return fits_open(wanted) || can_open(wanted, use);
}

// --- batches ---------------------------------------------------------------------------------------------------------

Status Log::ensure(const Reservation& wanted, Use use) {
  if (failed()) return failure_;
  if (active_ == nullptr) return error(StatusCode::kUnavailable, "spool: the log is starting");
  if (wanted.bytes + sizeof(BatchHeader) > options_.batch_bytes_max) {
    return error(StatusCode::kInvalidArgument, "spool: a record is larger than a batch");
  }
  if (fits_open(wanted)) return OkStatus();
  if (in_group_ || !can_open(wanted, use)) return out_of_room();
  close_batch();
  if (!fits(*active_, active_->end, sizeof(BatchHeader), wanted)) roll();
  open_batch();
  return OkStatus();
}

void Log::open_batch() {
  POSTERN_CHECK(!open_);
  if (batch_pool_.empty()) {
    open_ = std::make_unique<Batch>();
    open_->buffer = AlignedBuffer(options_.batch_bytes_max);
  } else {
    open_ = std::move(batch_pool_.back());
    batch_pool_.pop_back();
  }
  ++batches_;
  open_->segment = active_;
  open_->offset = active_->end;
  open_->used = sizeof(BatchHeader);
  open_->checksums.clear();
  open_->tickets.clear();
  open_->moved.clear();
  open_->opened = open_->urgent = open_->rewritten = open_->marker = false;
}

void Log::close_batch() {
  if (!open_) return;
  Batch& batch = *open_;
  if (batch.checksums.empty() && !batch.marker) {
    batch_pool_.push_back(std::move(open_));
    --batches_;
    return;
  }
  advance_oldest();
  const std::size_t bytes = round_up(batch.used, block_bytes);
  std::memset(batch.buffer.data() + batch.used, 0, bytes - batch.used);
  if (!batch.rewritten) padding_bytes_ += bytes - batch.used;

  BatchHeader header;
  header.chain = chain_;
  header.oldest = oldest_;
  header.sequence = batch.segment->sequence;
  header.number = batch_number_++;
  header.bytes = static_cast<std::uint32_t>(bytes);
  header.used = static_cast<std::uint32_t>(batch.used);
  header.records = static_cast<std::uint32_t>(batch.checksums.size());
  header.offset_blocks = static_cast<std::uint32_t>(batch.offset / block_bytes);
  constexpr std::size_t covered = sizeof header - sizeof header.checksum;
  scratch_.resize(covered + batch.checksums.size() * sizeof(std::uint64_t));
  std::memcpy(scratch_.data(), reinterpret_cast<const std::byte*>(&header) + sizeof header.checksum, covered);
  if (!batch.checksums.empty()) {
    std::memcpy(scratch_.data() + covered, batch.checksums.data(), scratch_.size() - covered);
  }
  header.checksum = batch.segment->checksum.of(scratch_);
  std::memcpy(batch.buffer.data(), &header, sizeof header);
  chain_ = header.checksum;
  batch.segment->end = batch.offset + bytes;

  Write write;
  write.kind = Write::Kind::batch;
  write.segment = batch.segment;
  write.offset = batch.offset;
  write.bytes = bytes;
  write.oldest = oldest_;
  write.batch = std::move(open_);
  writes_.push_back(std::move(write));
}

// --- records ---------------------------------------------------------------------------------------------------------

std::byte* Log::place(std::size_t bytes, std::uint64_t& position) {
  Batch& batch = *open_;
  std::byte* const at = batch.buffer.data() + batch.used;
  position = make_position(batch.segment->sequence, batch.offset + batch.used);
  std::memset(at + bytes, 0, padded(bytes) - bytes);
  batch.used += padded(bytes);
  return at;
}

void Log::commit_record(std::byte* at, RecordHeader header, std::size_t meta_bytes) {
  header.meta_bytes = static_cast<std::uint32_t>(meta_bytes);
  std::memcpy(at, &header, sizeof header);
  constexpr std::size_t lead = sizeof header.checksum;
  header.checksum = open_->segment->checksum.of({at + lead, sizeof header + meta_bytes - lead});
  std::memcpy(at, &header.checksum, lead);
  open_->checksums.push_back(header.checksum);
}

mail::QueueId Log::next_queue_id() {
  POSTERN_CHECK(header_durable_, "queue ids are given out when the start counter is durable");
  POSTERN_CHECK(counter_ != UINT32_MAX, "a new segment takes a new start long before");
  return mail::QueueId::from_parts(log_, start_, ++counter_);
}

std::size_t Log::message_bytes(std::size_t envelope_bytes, std::size_t added_fields_bytes, std::size_t content_bytes,
                               std::size_t extents) {
  return padded(sizeof(RecordHeader) + sizeof(MessageMeta) + extents * sizeof(Extent) + envelope_bytes +
                added_fields_bytes + content_bytes);
}

std::size_t Log::settlement_bytes(std::size_t opaque_bytes) {
  return padded(sizeof(RecordHeader) + opaque_bytes);
}

std::size_t Log::group_bytes_max() const {
  return options_.batch_bytes_max - sizeof(BatchHeader);
}

StatusOr<mail::Location> Log::place_message(const MessageRecord& record, std::span<const Extent> extents,
                                            std::uint64_t replaces, Bytes settled) {
  std::size_t content_bytes = 0;
  for (const Bytes piece : record.content) content_bytes += piece.size();
  std::uint64_t size = content_bytes;
  for (const Extent& extent : extents) size += extent.bytes;
  if (record.recipients == 0 || size != record.facts.size) {
    return error(StatusCode::kInvalidArgument, "spool: no recipient, or facts.size is not the content's");
  }
  std::vector<ChunkUse> uses = chunk_uses(extents);
  const std::size_t meta_bytes =
      sizeof(MessageMeta) + extents.size_bytes() + settled.size() + record.envelope.size() + record.added_fields.size();
  const std::size_t bytes = sizeof(RecordHeader) + meta_bytes + content_bytes;
  const std::uint64_t note = replaces == 0 ? 0 : sizeof(SummaryEntry);
  if (Status room =
          ensure({padded(bytes), Index::message_summary_bytes(record.recipients, uses.size()) + note}, record.use);
      !room.ok()) {
    return room;
  }

  std::uint64_t position = 0;
  std::byte* const at = place(bytes, position);
  MessageMeta meta;
  meta.content_form = static_cast<std::uint8_t>(record.facts.form);
  const auto flag = [](bool set, std::uint8_t value) { return set ? value : std::uint8_t{0}; };
  meta.content_flags = static_cast<std::uint8_t>(
      flag(record.facts.line_starts_with_dot, MessageMeta::line_starts_with_dot) |
      flag(record.facts.has_bare_cr, MessageMeta::has_bare_cr) |
      flag(record.facts.has_bare_lf, MessageMeta::has_bare_lf) | flag(record.facts.has_nul, MessageMeta::has_nul) |
      flag(record.facts.has_eight_bit, MessageMeta::has_eight_bit) |
      flag(record.facts.ends_with_crlf, MessageMeta::ends_with_crlf));
  meta.received_count = record.facts.received_count;
  meta.longest_line = record.facts.longest_line;
  meta.header_bytes = record.facts.header_bytes;
  meta.content_size = size;
  meta.extent_count = static_cast<std::uint32_t>(extents.size());
  meta.settled_bytes = static_cast<std::uint32_t>(settled.size());
  meta.envelope_bytes = static_cast<std::uint32_t>(record.envelope.size());
  meta.added_fields_bytes = static_cast<std::uint32_t>(record.added_fields.size());

  std::byte* to = at + sizeof(RecordHeader);
  const auto copy = [&to](const void* from, std::size_t count) {
    if (count != 0) std::memcpy(to, from, count);
    to += count;
  };
  copy(&meta, sizeof meta);
  copy(extents.data(), extents.size_bytes());
  copy(settled.data(), settled.size());
  copy(record.envelope.data(), record.envelope.size());
  copy(record.added_fields.data(), record.added_fields.size());
  const std::byte* const content = to;
  for (const Bytes piece : record.content) copy(piece.data(), piece.size());

  RecordHeader header;
  header.kind = RecordKind::message;
  header.recipient = record.recipients;
  header.bytes = static_cast<std::uint32_t>(bytes);
  header.position = position;
  header.queue_id = record.id.value;
  header.subject = replaces;
  header.content_checksum = content_bytes == 0 ? 0 : active_->checksum.of({content, content_bytes});
  commit_record(at, header, meta_bytes);

  if (replaces != 0) index_.replace(active_, replaces, record.id);
  index_.add_message(*active_, record.id, offset_of(position), header.bytes, record.recipients, settled,
                     std::move(uses));
  return mail::Location{.log = log_, .length = header.bytes, .position = position};
}

StatusOr<mail::Location> Log::append_message(const MessageRecord& record, Ticket ticket) {
  if (!header_durable_ && !failed()) return error(StatusCode::kUnavailable, "spool: the log is starting");
  std::size_t content_bytes = 0;
  for (const Bytes piece : record.content) content_bytes += piece.size();
  if (content_bytes > options_.inline_content_max) {
    return error(StatusCode::kInvalidArgument, "spool: content of this size is streamed");
  }
  auto content = contents_.end();
  std::span<const Extent> extents;
  if (record.streamed.value != 0) {
    content = contents_.find(record.streamed.value);
    if (content == contents_.end()) return error(StatusCode::kInvalidArgument, "spool: unknown streamed content");
    extents = content->second.extents;
  }
  StatusOr<mail::Location> location = place_message(record, extents, 0, {});
  if (!location.ok()) return location;
  if (content != contents_.end()) forget_content(record.streamed, false);  // the message counts them from now on
  open_->urgent = true;
  if (ticket.value != 0) open_->tickets.push_back(ticket);
  ++figures_.messages;
  return location;
}

Status Log::append_small(RecordKind kind, std::uint64_t position, mail::QueueId id, std::uint16_t recipient,
                         std::uint8_t outcome, Bytes opaque, std::uint64_t& at_position) {
  if (opaque.size() > opaque_bytes_limit)
    return error(StatusCode::kInvalidArgument, "spool: opaque bytes beyond the bound");
  const Index::Found found = index_.find(position);
  if (found.entry == nullptr || found.entry->queue_id() != id.value || recipient >= found.entry->recipients) {
    return error(StatusCode::kNotFound, "spool: no such message lives at that location");
  }
  if (index_.is_settled(position, *found.entry, recipient)) {
    return error(StatusCode::kFailedPrecondition, "spool: the recipient is settled already");
  }
  const std::size_t bytes = sizeof(RecordHeader) + opaque.size();
  POSTERN_RETURN_IF_ERROR(ensure({padded(bytes), sizeof(SummaryEntry)}, Use::internal));
  std::byte* const at = place(bytes, at_position);
  RecordHeader header;
  header.kind = kind;
  header.recipient = recipient;
  header.bytes = static_cast<std::uint32_t>(bytes);
  header.position = at_position;
  header.queue_id = id.value;
  header.subject = position;
  header.outcome = outcome;
  if (!opaque.empty()) std::memcpy(at + sizeof header, opaque.data(), opaque.size());
  commit_record(at, header, opaque.size());
  return OkStatus();
}

Status Log::append_settlement(mail::Location location, mail::QueueId id, std::uint16_t recipient, mail::Outcome outcome,
                              Bytes opaque, Ticket ticket) {
  const std::uint64_t position = current(location).position;
  std::uint64_t at = 0;
  POSTERN_RETURN_IF_ERROR(
      append_small(RecordKind::settled, position, id, recipient, static_cast<std::uint8_t>(outcome), opaque, at));
  (void)index_.settle(*active_, position, id, recipient);
  if (ticket.value != 0) open_->tickets.push_back(ticket);
  return OkStatus();
}

Status Log::append_retry_state(mail::Location location, mail::QueueId id, std::uint16_t recipient, Bytes opaque,
                               Ticket ticket) {
  const std::uint64_t position = current(location).position;
  std::uint64_t at = 0;
  POSTERN_RETURN_IF_ERROR(append_small(RecordKind::retry_state, position, id, recipient, 0, opaque, at));
  index_.set_state(*active_, at, static_cast<std::uint32_t>(sizeof(RecordHeader) + opaque.size()), position, id,
                   recipient);
  if (ticket.value != 0) open_->tickets.push_back(ticket);
  return OkStatus();
}

Status Log::begin_group(std::size_t bytes, Use use) {
  POSTERN_CHECK(!in_group_);
  if (bytes > group_bytes_max()) return error(StatusCode::kInvalidArgument, "spool: a group is larger than a batch");
  // Its DSN needs a queue id.
  if (!header_durable_ && !failed()) return error(StatusCode::kUnavailable, "spool: the log is starting");
  POSTERN_RETURN_IF_ERROR(ensure({bytes, bytes / 2 + recipients_limit / 8 + 128}, use));
  in_group_ = true;
  return OkStatus();
}

void Log::end_group() {
  POSTERN_CHECK(in_group_);
  in_group_ = false;
}

// --- large content ---------------------------------------------------------------------------------------------------

ContentId Log::begin_content() {
  const ContentId id{next_content_++};
  contents_.try_emplace(id.value);
  return id;
}

std::size_t Log::chunk_bytes_max() const {
  return std::min(chunk_bytes_limit, options_.batch_bytes_max - sizeof(BatchHeader) - sizeof(RecordHeader));
}

StatusOr<Extent> Log::place_chunk(std::size_t index, std::uint64_t content_id, Bytes bytes, Use use) {
  if (bytes.empty() || bytes.size() > chunk_bytes_max()) {
    return error(StatusCode::kInvalidArgument, "spool: a chunk has 1 to chunk_bytes_max() bytes");
  }
  const std::size_t record_bytes = sizeof(RecordHeader) + bytes.size();
  POSTERN_RETURN_IF_ERROR(ensure({padded(record_bytes), 0}, use));
  std::uint64_t position = 0;
  std::byte* const at = place(record_bytes, position);
  std::memcpy(at + sizeof(RecordHeader), bytes.data(), bytes.size());
  RecordHeader header;
  header.kind = RecordKind::chunk;
  header.bytes = static_cast<std::uint32_t>(record_bytes);
  header.position = position;
  header.queue_id = content_id;
  header.subject = index;
  header.content_checksum = active_->checksum.of({at + sizeof(RecordHeader), bytes.size()});
  commit_record(at, header, 0);
  const Extent extent{position, static_cast<std::uint32_t>(bytes.size()), 0};
  index_.add_chunk(extent.position, extent.bytes);
  return extent;
}

Status Log::append_chunk(ContentId content, Bytes bytes, Use use) {
  const auto at = contents_.find(content.value);
  if (at == contents_.end()) return error(StatusCode::kInvalidArgument, "spool: unknown streamed content");
  const StatusOr<Extent> extent = place_chunk(at->second.extents.size(), content.value, bytes, use);
  if (!extent.ok()) return extent.status();
  at->second.extents.push_back(*extent);
  at->second.bytes += bytes.size();
  return OkStatus();
}

std::uint64_t Log::content_bytes(ContentId content) const {
  const auto at = contents_.find(content.value);
  return at == contents_.end() ? 0 : at->second.bytes;
}

std::size_t Log::extent_count(ContentId content) const {
  const auto at = contents_.find(content.value);
  return at == contents_.end() ? 0 : at->second.extents.size();
}

void Log::abandon_content(ContentId content) {
  forget_content(content, true);
}

void Log::forget_content(ContentId content, bool died) {
  const auto at = contents_.find(content.value);
  if (at == contents_.end()) return;
  for (const Extent& extent : at->second.extents) index_.remove_chunk(extent.position, extent.bytes, died);
  contents_.erase(at);
}

// --- writes ----------------------------------------------------------------------------------------------------------

std::optional<WriteIntent> Log::take_write(Instant now, bool more_is_coming) {
  POSTERN_CHECK(!in_group_, "no write between begin_group() and end_group()");
  if (failed() || in_flight_) return std::nullopt;
  if (active_ == nullptr && writes_.empty() && can_roll(Use::internal)) begin_segment();
  if (writes_.empty()) {
    if (open_ && !open_->checksums.empty()) {
      if (!open_->opened) {
        open_->opened = true;
        open_->opened_at = now;
      }
      if (!hold_nothing_) {
        const bool half_full = open_->used > options_.batch_bytes_max / 2;
        if (open_->urgent ? more_is_coming && !half_full && now < open_->opened_at + options_.hold_max
                          : open_->used <= step_bytes() && now < open_->opened_at + options_.settle_delay) {
          return std::nullopt;
        }
      }
    } else {
      // Nothing to write; but slots may wait for it to be durable that their segments are dead.
      advance_oldest();
      const std::size_t wanted = options_.reserved_segments + options_.spare_segments;
      if (retired_.empty() || free_.size() >= wanted || oldest_ == durable_oldest_ || active_ == nullptr) {
        return std::nullopt;
      }
      if (active_->end + block_bytes + Index::summary_bytes(*active_) > active_->bytes) return std::nullopt;
      if (!open_) open_batch();
      open_->marker = true;
    }
    close_batch();
  }
  const Write& front = writes_.front();
  in_flight_ = true;
  const std::byte* const data = front.batch ? front.batch->buffer.data() : front.buffer.data();
  return WriteIntent{front.segment->slot, front.offset, Bytes{data, front.bytes}};
}

void Log::on_written(const Status& status, Instant /*now*/) {
  POSTERN_CHECK(in_flight_);
  in_flight_ = false;
  if (!status.ok()) {
    std::string text = "spool: writing segment ";
    text += slot_path(log_, writes_.front().segment->slot);
    text += " at offset ";
    text += std::to_string(writes_.front().offset);
    text += ": ";
    text += message_of(status);
    failure_ = error(StatusCode::kUnavailable, text);
    for (const Write& write : writes_) {
      if (write.batch) undone_.insert(undone_.end(), write.batch->tickets.begin(), write.batch->tickets.end());
    }
    if (open_) undone_.insert(undone_.end(), open_->tickets.begin(), open_->tickets.end());
    return;
  }
  Write write = std::move(writes_.front());
  writes_.pop_front();
  figures_.bytes_written += write.bytes;
  durable_oldest_ = std::max(durable_oldest_, write.oldest);
  switch (write.kind) {
    case Write::Kind::batch:
      ++figures_.batches;
      write.segment->durable_end = write.offset + write.bytes;
      durable_.insert(durable_.end(), write.batch->tickets.begin(), write.batch->tickets.end());
      moved_.insert(moved_.end(), write.batch->moved.begin(), write.batch->moved.end());
      batch_pool_.push_back(std::move(write.batch));
      --batches_;
      break;
    case Write::Kind::header:
      header_durable_ = true;
      if (write.segment->start != start_) {
        start_ = write.segment->start;
        counter_ = 0;
      }
      break;
    case Write::Kind::summary:
      write.segment->seal_durable = true;
      break;
  }
  advance_oldest();
  retire();
}

Instant Log::next_deadline() const {
  if (failed() || in_flight_) return never;
  if (!writes_.empty()) return Instant::min();
  if (!open_ || open_->checksums.empty()) return never;
  if (!open_->opened || hold_nothing_) return Instant::min();
  if (!open_->urgent && open_->used > step_bytes()) return Instant::min();
  return open_->opened_at + (open_->urgent ? options_.hold_max : options_.settle_delay);
}

std::span<const Ticket> Log::take_durable() {
  durable_out_.clear();
  std::swap(durable_out_, durable_);
  return durable_out_;
}

std::span<const Ticket> Log::take_undone() {
  durable_out_.clear();
  std::swap(durable_out_, undone_);
  return durable_out_;
}

}  // namespace postern::spool
