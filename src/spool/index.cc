#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/hash.h>
#include <postern/base/planted.h>
#include <postern/spool/index.h>

namespace postern::spool {
namespace {

std::uint64_t padded(std::uint32_t record_bytes) {
  return round_up(record_bytes, record_alignment);
}

template <class T>
void append_raw(std::vector<std::byte>& out, const T& value) {
  const auto* from = reinterpret_cast<const std::byte*>(&value);
  out.insert(out.end(), from, from + sizeof value);
}

bool bit(const std::vector<std::uint8_t>& bitmap, std::uint16_t index) {
  return index / 8u < bitmap.size() && (bitmap[index / 8u] >> (index % 8u) & 1u) != 0;
}

}  // namespace

std::size_t Index::StateHash::operator()(const SharedState& state) const {
  const std::array<std::uint64_t, 2> key{state.message, state.recipient};
  return hash_bytes(std::as_bytes(std::span(key)));
}

// --- segments --------------------------------------------------------------------------------------------------------

Segment& Index::add_segment(std::unique_ptr<Segment> segment) {
  POSTERN_CHECK(segments_.empty() || segments_.back()->sequence < segment->sequence);
  segment_bytes_ += segment->bytes;
  segments_.push_back(std::move(segment));
  return *segments_.back();
}

const Segment* Index::find_segment(std::uint64_t sequence) const {
  const auto at =
      std::lower_bound(segments_.begin(), segments_.end(), sequence,
                       [](const auto& segment, std::uint64_t wanted) { return segment->sequence < wanted; });
  return at != segments_.end() && (*at)->sequence == sequence ? at->get() : nullptr;
}

Segment* Index::find_segment(std::uint64_t sequence) {
  return const_cast<Segment*>(std::as_const(*this).find_segment(sequence));
}

std::unique_ptr<Segment> Index::remove_oldest() {
  for (Entry& entry : segments_.front()->entries) give_up(*segments_.front(), entry);
  std::unique_ptr<Segment> segment = std::move(segments_.front());
  segments_.pop_front();
  segment_bytes_ -= segment->bytes;
  live_bytes_ -= segment->live_bytes;  // of chunks of others, whose messages are gone with it
  return segment;
}

#ifdef POSTERN_PLANTED_BUGS
std::unique_ptr<Segment> Index::planted_remove(std::size_t index) {
  std::unique_ptr<Segment> segment = std::move(segments_[index]);
  segments_.erase(segments_.begin() + static_cast<std::ptrdiff_t>(index));
  segment_bytes_ -= segment->bytes;
  return segment;
}
#endif

void Index::clear_messages(Segment& segment) {
  for (Entry& entry : segment.entries) give_up(segment, entry);
  segment.entries.clear();
  segment.notes.clear();
  segment.summary_extra_bytes = 0;
}

// --- messages --------------------------------------------------------------------------------------------------------

void Index::count_bytes(Segment& segment, std::uint64_t bytes, bool add) {
  if (add) {
    segment.live_bytes += bytes;
    live_bytes_ += bytes;
  } else {
    segment.live_bytes -= bytes;
    live_bytes_ -= bytes;
    died_bytes_ += bytes;
  }
}

void Index::use_chunks(const std::vector<ChunkUse>& uses, bool add) {
  for (const ChunkUse& use : uses) {
    Segment* segment = find_segment(use.sequence);
    if (segment == nullptr) continue;
    if (!add && segment->live_chunks < use.chunks) continue;
    segment->live_chunks = add ? segment->live_chunks + use.chunks : segment->live_chunks - use.chunks;
    count_bytes(*segment, use.bytes, add);
  }
}

void Index::add_message(Segment& in, mail::QueueId id, std::uint64_t offset, std::uint32_t bytes,
                        std::uint16_t recipients, Bytes settled, std::vector<ChunkUse> uses) {
  Entry entry;
  entry.queue_id_high = static_cast<std::uint32_t>(id.value >> 32);
  entry.queue_id_low = static_cast<std::uint32_t>(id.value);
  entry.units = static_cast<std::uint32_t>(offset / record_alignment) & 0xFFFFFF;
  entry.bytes = bytes;
  entry.recipients = recipients;
  entry.unsettled = recipients;
  entry.large = !uses.empty();
  POSTERN_CHECK(in.entries.empty() || in.entries.back().units < entry.units);
  if (!settled.empty()) {
    std::vector<std::uint8_t> bitmap(settled.size());
    std::memcpy(bitmap.data(), settled.data(), settled.size());
    unsigned count = 0;
    for (const std::uint8_t b : bitmap) count += static_cast<unsigned>(std::popcount(b));
    entry.unsettled = count >= recipients ? std::uint16_t{0} : static_cast<std::uint16_t>(recipients - count);
    if (entry.unsettled != 0) partly_settled_[in.position_of(entry)] = std::move(bitmap);
  }
  if (const auto carried = carried_.find(id.value); carried != carried_.end()) {
    if (entry.unsettled != 0) {
      for (const Carried& each : carried->second) {
        if (each.recipient < recipients && !is_settled(in.position_of(entry), entry, each.recipient)) {
          keep_state(in, entry, each.recipient, each.state);
        }
      }
    }
    carried_.erase(carried);
  }
  in.entries.push_back(entry);
  in.summary_extra_bytes += message_summary_bytes(recipients, uses.size()) - sizeof(SummaryEntry);
  if (entry.unsettled == 0) return;
  ++in.live_messages;
  ++live_messages_;
  count_bytes(in, padded(bytes), true);
  if (!uses.empty()) {
    use_chunks(uses, true);
    large_[in.position_of(entry)] = std::move(uses);
  }
}

Index::Found Index::find(std::uint64_t position) {
  Segment* segment = find_segment(sequence_of(position));
  if (segment == nullptr) return {};
  const auto units = static_cast<std::uint32_t>(position & 0xFFFFFF);
  const auto at = std::lower_bound(segment->entries.begin(), segment->entries.end(), units,
                                   [](const Entry& entry, std::uint32_t wanted) { return entry.units < wanted; });
  if (at == segment->entries.end() || at->units != units) return {segment, nullptr};
  return {segment, &*at};
}

const Entry* Index::find_entry(std::uint64_t position) const {
  return const_cast<Index*>(this)->find(position).entry;
}

bool Index::is_settled(std::uint64_t position, const Entry& entry, std::uint16_t recipient) const {
  if (entry.unsettled == 0) return true;
  if (entry.unsettled == entry.recipients) return false;
  const auto at = partly_settled_.find(position);
  return at != partly_settled_.end() && bit(at->second, recipient);
}

void Index::kill(Segment& segment, Entry& entry) {
  entry.unsettled = 0;
  --segment.live_messages;
  --live_messages_;
  count_bytes(segment, padded(entry.bytes), false);
  if (entry.large) {
    if (const auto at = large_.find(segment.position_of(entry)); at != large_.end()) {
      use_chunks(at->second, false);
      large_.erase(at);
    }
  }
  partly_settled_.erase(segment.position_of(entry));
}

void Index::give_up(Segment& segment, Entry& entry) {
  if (entry.unsettled == 0) return;
  for (std::uint32_t i = 0; i < entry.recipients; ++i) {
    forget_state(segment.position_of(entry), entry, static_cast<std::uint16_t>(i));
  }
  kill(segment, entry);
}

bool Index::settle(Segment& in, std::uint64_t position, mail::QueueId id, std::uint16_t recipient) {
  const Found found = find(position);
  if (found.entry == nullptr || found.entry->queue_id() != id.value || recipient >= found.entry->recipients ||
      is_settled(position, *found.entry, recipient)) {
    return false;
  }
  Entry& entry = *found.entry;
  forget_state(position, entry, recipient);
  died_bytes_ += record_alignment;  // the settlement itself is needed no longer than the message's record
  if (entry.unsettled == 1) {
    kill(*found.segment, entry);
  } else {
    std::vector<std::uint8_t>& bitmap = partly_settled_[position];
    bitmap.resize(std::max<std::size_t>(bitmap.size(), (entry.recipients + 7u) / 8u));
    bitmap[recipient / 8u] = static_cast<std::uint8_t>(bitmap[recipient / 8u] | (1u << (recipient % 8u)));
    --entry.unsettled;
  }
  if (found.segment != &in) {
    in.notes.push_back(
        {.kind = SummaryKind::settled, .recipient = recipient, .queue_id = id.value, .position = position});
  }
  return true;
}

void Index::replace(Segment* in, std::uint64_t position, mail::QueueId id) {
  const Found found = find(position);
  if (found.entry != nullptr && found.entry->queue_id() == id.value) {
    const std::uint64_t died = died_bytes_;
    std::vector<Carried> carried;
    for (std::uint32_t i = 0; i < found.entry->recipients && found.entry->unsettled != 0; ++i) {
      const auto recipient = static_cast<std::uint16_t>(i);
      if (const auto ref = state(position, *found.entry, recipient)) carried.push_back({recipient, *ref});
    }
    if (!carried.empty()) carried_[id.value] = std::move(carried);
    give_up(*found.segment, *found.entry);
    died_bytes_ = died;
    found.entry->moved = true;
  }
  if (in != nullptr && found.segment != nullptr) {
    in->notes.push_back({.kind = SummaryKind::gone, .queue_id = id.value, .position = position});
  }
}

void Index::drop(std::uint64_t position) {
  const Found found = find(position);
  if (found.entry != nullptr) give_up(*found.segment, *found.entry);
}

// --- states ----------------------------------------------------------------------------------------------------------

void Index::set_state(Segment& in, std::uint64_t position, std::uint32_t bytes, std::uint64_t message, mail::QueueId id,
                      std::uint16_t recipient) {
  const Found found = find(message);
  if (found.entry == nullptr || found.entry->queue_id() != id.value || recipient >= found.entry->recipients ||
      is_settled(message, *found.entry, recipient)) {
    return;
  }
  const StateRef ref{.position = position, .bytes = static_cast<std::uint32_t>(padded(bytes))};
  if (state(message, *found.entry, recipient)) died_bytes_ += ref.bytes;
  keep_state(*found.segment, *found.entry, recipient, ref);
  SummaryEntry note{.kind = SummaryKind::retry_state,
                    .recipient = recipient,
                    .bytes = bytes,
                    .queue_id = id.value,
                    .position = position};
  note.set_message(message);
  in.notes.push_back(note);
}

std::optional<StateRef> Index::state(std::uint64_t message, const Entry& entry, std::uint16_t recipient) const {
  if (entry.recipients == 1 && entry.state_length != 0) {
    const std::uint64_t sequence = sequence_of(message) + static_cast<std::uint64_t>(std::int64_t{entry.state_ahead});
    return StateRef{.position = (sequence << 24) | entry.state_units,
                    .bytes = static_cast<std::uint32_t>(entry.state_length * record_alignment)};
  }
  const auto at = states_.find(SharedState{.message = message, .recipient = recipient});
  if (at == states_.end()) return std::nullopt;
  return StateRef{.position = at->position, .bytes = static_cast<std::uint32_t>(at->length * record_alignment)};
}

void Index::keep_state(Segment& segment, Entry& entry, std::uint16_t recipient, const StateRef& state) {
  const std::uint64_t message = segment.position_of(entry);
  forget_state(message, entry, recipient);
  const auto length = static_cast<std::uint8_t>(state.bytes / record_alignment);
  const std::int64_t ahead =
      static_cast<std::int64_t>(sequence_of(state.position)) - static_cast<std::int64_t>(sequence_of(message));
  if (entry.recipients == 1 && ahead == static_cast<std::int32_t>(ahead)) {
    entry.state_units = static_cast<std::uint32_t>(state.position) & 0xFFFFFF;
    entry.state_length = length;
    entry.state_ahead = static_cast<std::int32_t>(ahead);
  } else {
    states_.insert({message, state.position, recipient, length});
  }
}

void Index::forget_state(std::uint64_t message, Entry& entry, std::uint16_t recipient) {
  entry.state_length = 0;
  if (!states_.empty()) states_.erase(SharedState{.message = message, .recipient = recipient});
}

// --- chunks ----------------------------------------------------------------------------------------------------------

void Index::add_chunk(std::uint64_t position, std::uint32_t bytes) {
  use_chunks({ChunkUse{sequence_of(position), 1, bytes}}, true);
}

void Index::remove_chunk(std::uint64_t position, std::uint32_t bytes, bool died) {
  const std::uint64_t before = died_bytes_;
  use_chunks({ChunkUse{sequence_of(position), 1, bytes}}, false);
  if (!died) died_bytes_ = before;
}

// --- summaries -------------------------------------------------------------------------------------------------------

std::uint64_t Index::summary_bytes(const Segment& segment, std::uint64_t more) {
  const std::uint64_t entries = (segment.live_messages + segment.notes.size()) * sizeof(SummaryEntry);
  return round_up(entries + segment.summary_extra_bytes + more, block_bytes) + block_bytes;
}

std::uint64_t Index::message_summary_bytes(std::uint16_t recipients, std::size_t chunk_segments) {
  const std::uint64_t bitmap = recipients > 1 ? round_up((recipients + 7u) / 8u, 8) : 0;
  return sizeof(SummaryEntry) + chunk_segments * sizeof(ChunkUse) + bitmap;
}

std::uint32_t Index::build_summary(const Segment& segment, std::vector<std::byte>& out) const {
  std::uint32_t count = 0;
  // First what is gone: a rewritten message has the queue id of its older record.
  for (const SummaryEntry& note : segment.notes) {
    if (note.kind != SummaryKind::gone || find_segment(sequence_of(note.position)) == nullptr) continue;
    append_raw(out, note);
    ++count;
  }
  for (const Entry& entry : segment.entries) {
    if (entry.unsettled == 0) continue;
    SummaryEntry summary{.kind = SummaryKind::message,
                         .recipient = entry.recipients,
                         .bytes = entry.bytes,
                         .queue_id = entry.queue_id(),
                         .position = segment.position_of(entry)};
    const std::vector<ChunkUse>* uses = nullptr;
    if (entry.large) {
      if (const auto at = large_.find(summary.position); at != large_.end()) {
        uses = &at->second;
        summary.chunk_uses = static_cast<std::uint32_t>(uses->size());
      }
    }
    const std::vector<std::uint8_t>* bitmap = nullptr;
    if (const auto at = partly_settled_.find(summary.position); at != partly_settled_.end()) {
      bitmap = &at->second;
      summary.settled_bytes = static_cast<std::uint32_t>(bitmap->size());
    }
    append_raw(out, summary);
    if (uses != nullptr) {
      for (const ChunkUse& use : *uses) append_raw(out, use);
    }
    if (bitmap != nullptr) {
      const auto bytes = std::as_bytes(std::span(*bitmap));
      out.insert(out.end(), bytes.begin(), bytes.end());
      out.resize(round_up(out.size(), 8));
    }
    ++count;
  }
  for (const SummaryEntry& note : segment.notes) {
    if (note.kind == SummaryKind::settled) {
      if (find_segment(sequence_of(note.position)) == nullptr) continue;
    } else if (note.kind == SummaryKind::retry_state) {
      const Entry* const entry = find_entry(note.message());
      if (entry == nullptr || entry->queue_id() != note.queue_id) continue;
      const auto latest = state(note.message(), *entry, note.recipient);
      if (!latest || latest->position != note.position) continue;
    } else {
      continue;
    }
    append_raw(out, note);
    ++count;
  }
  return count;
}

Status Index::apply_summary(Segment& segment, Bytes entries, std::uint32_t count) {
  carried_.clear();
  const auto bad = [] { return error(StatusCode::kDataLoss, "summary is not well-formed"); };
  for (; count != 0; --count) {
    SummaryEntry entry;
    if (entries.size() < sizeof entry) return bad();
    std::memcpy(&entry, entries.data(), sizeof entry);
    entries = entries.subspan(sizeof entry);
    const mail::QueueId id{entry.queue_id};
    const bool here = sequence_of(entry.position) == segment.sequence && offset_of(entry.position) >= batches_offset &&
                      offset_of(entry.position) + entry.bytes <= segment.end && entry.bytes >= sizeof(RecordHeader);
    switch (entry.kind) {
      case SummaryKind::message: {
        const std::uint64_t uses_bytes = std::uint64_t{entry.chunk_uses} * sizeof(ChunkUse);
        const std::uint64_t bitmap_bytes = round_up(entry.settled_bytes, 8);
        if (!here || entry.recipient == 0 || uses_bytes > entries.size() ||
            bitmap_bytes > entries.size() - uses_bytes ||
            (entry.settled_bytes != 0 && entry.settled_bytes != (entry.recipient + 7u) / 8u)) {
          return bad();
        }
        const std::uint64_t offset = offset_of(entry.position);
        if (!segment.entries.empty() && segment.entries.back().units >= offset / record_alignment) return bad();
        std::vector<ChunkUse> uses(entry.chunk_uses);
        if (!uses.empty()) std::memcpy(uses.data(), entries.data(), uses_bytes);
        entries = entries.subspan(uses_bytes);
        add_message(segment, id, offset, entry.bytes, entry.recipient, entries.first(entry.settled_bytes),
                    std::move(uses));
        entries = entries.subspan(bitmap_bytes);
        break;
      }
      case SummaryKind::settled:
        settle(segment, entry.position, id, entry.recipient);
        break;
      case SummaryKind::gone:
        replace(nullptr, entry.position, id);
        break;
      case SummaryKind::retry_state:
        if (!here || entry.bytes > sizeof(RecordHeader) + opaque_bytes_limit) return bad();
        set_state(segment, entry.position, entry.bytes, entry.message(), id, entry.recipient);
        break;
      default:
        return bad();
    }
  }
  carried_.clear();  // of messages that died before the summary was made
  return OkStatus();
}

}  // namespace postern::spool
