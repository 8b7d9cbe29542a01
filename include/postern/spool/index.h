// What a log knows of its segments in memory: which messages live where, whose recipients are settled, and where the
// latest state of a waiting recipient lies. Built by Recovery, kept by Log, read by Replay and Compactor.
//
// Memory: 28 bytes per message of a used segment, in them the place of its recipient's state when it has one recipient;
// 28 to 57 per recipient with a state of messages with more; a bitmap per message of which some but not all recipients
// are settled, and about 100 bytes per large message. Bounded by the bytes of the segments.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <postern/base/planted.h>
#include <postern/base/status.h>
#include <postern/mail/location.h>
#include <postern/mail/queue_id.h>
#include <postern/spool/checksum.h>
#include <postern/spool/format.h>
#include <postern/spool/types.h>

namespace postern::spool {

// There is one for each waiting message, ten million of them on a bad day: the queue id stands in halves, or it would
// cost 4 bytes of padding.
struct Entry {
  std::uint32_t queue_id_high = 0;
  std::uint32_t queue_id_low = 0;
  std::uint32_t units : 24 = 0;  // offset in the segment / record_alignment
  bool large : 1 = false;        // has chunks: see Index::large()
  bool moved : 1 = false;        // dead here, because rewritten elsewhere
  std::uint32_t bytes = 0;       // of the record
  std::uint16_t recipients = 0;
  std::uint16_t unsettled = 0;  // 0: dead
  // Index::state() of the only recipient: where its record lies, how long it is (in record_alignment; 0: there is none,
  // or it is in Index::states_), and by how many sequences its segment is ahead of this one.
  std::uint32_t state_units : 24 = 0;
  std::uint32_t state_length : 8 = 0;
  std::int32_t state_ahead = 0;

  [[nodiscard]] std::uint64_t queue_id() const { return std::uint64_t{queue_id_high} << 32 | queue_id_low; }
};
static_assert(sizeof(Entry) == 28);
static_assert(segment_bytes_limit / record_alignment <= 1u << 24);

// Where the latest state of a recipient lies.
struct StateRef {
  std::uint64_t position = 0;
  std::uint32_t bytes = 0;  // of its record, rounded up to record_alignment
};

struct Segment {
  explicit Segment(const SegmentKey& key) : checksum(key) {}

  std::uint64_t sequence = 0;
  std::uint64_t previous = 0;
  Slot slot;
  std::uint32_t start = 0;
  std::uint64_t bytes = 0;
  Checksum checksum;
  std::uint64_t end = batches_offset;  // of the last batch made (writer) or found (recovery)
  std::uint64_t durable_end = batches_offset;
  bool seal_durable = false;   // and the summary is written: the segment may be retired
  bool set_aside = false;      // holds what could not be read: its file is left alone
  bool sealed = false;         // its summary is made: nothing is appended any more
  std::vector<Entry> entries;  // by ascending units
  std::uint64_t live_messages = 0;
  std::uint64_t live_bytes = 0;  // of records and chunks that are needed
  std::uint64_t live_chunks = 0;
  std::uint64_t pins = 0;  // readers, and moves that were not taken yet
  // What the summary will say besides the living messages; emptied when sealed.
  std::vector<SummaryEntry> notes;
  std::uint64_t summary_extra_bytes = 0;  // bound of the messages' ChunkUses and bitmaps

  [[nodiscard]] std::uint64_t position_of(const Entry& entry) const { return (sequence << 24) | entry.units; }
  [[nodiscard]] bool needed() const { return live_messages != 0 || live_chunks != 0 || pins != 0; }
};

class Index {
 public:
  // --- segments, by ascending sequence -----------------------------------------------------------------------------
  Segment& add_segment(std::unique_ptr<Segment> segment);  // its sequence is above all others
  [[nodiscard]] Segment* find_segment(std::uint64_t sequence);
  [[nodiscard]] const Segment* find_segment(std::uint64_t sequence) const;
  [[nodiscard]] std::size_t segment_count() const { return segments_.size(); }
  [[nodiscard]] Segment& segment(std::size_t index) { return *segments_[index]; }
  [[nodiscard]] const Segment& segment(std::size_t index) const { return *segments_[index]; }
  // Forgets the oldest segment with all that its entries left.
  std::unique_ptr<Segment> remove_oldest();
#ifdef POSTERN_PLANTED_BUGS
  std::unique_ptr<Segment> planted_remove(std::size_t index);
#endif
  // Forgets what is known of a segment's messages (a summary that turned out damaged).
  void clear_messages(Segment& segment);

  // --- messages ----------------------------------------------------------------------------------------------------
  // A message whose record is in `in`, behind all others there. `settled`: bitmap, may be empty. Not live when all are
  // settled. Chunk uses of unknown segments are kept and count nowhere.
  void add_message(Segment& in, mail::QueueId id, std::uint64_t offset, std::uint32_t bytes, std::uint16_t recipients,
                   Bytes settled, std::vector<ChunkUse> uses);
  struct Found {
    Segment* segment = nullptr;
    Entry* entry = nullptr;
  };
  // The entry at a position, dead or alive; entry == nullptr: none.
  [[nodiscard]] Found find(std::uint64_t position);
  [[nodiscard]] const Entry* find_entry(std::uint64_t position) const;
  [[nodiscard]] bool is_settled(std::uint64_t position, const Entry& entry, std::uint16_t recipient) const;

  // A settlement recorded in `in`. False when that recipient was settled already or the message is unknown; the note
  // for the summary is made in any case, when the message lies in an older segment.
  bool settle(Segment& in, std::uint64_t position, mail::QueueId id, std::uint16_t recipient);
  // The record at `position` was replaced by one in `in` (Recovery: nullptr, when no note is to be made), which
  // add_message() brings next, or soon. Its states, which lie where they lay, go over to that.
  void replace(Segment* in, std::uint64_t position, mail::QueueId id);
  // The message can not be read and is given up.
  void drop(std::uint64_t position);
  // A state recorded in `in` at `position`, of a recipient of the message at `message`. Not taken when that message is
  // unknown or the recipient settled.
  void set_state(Segment& in, std::uint64_t position, std::uint32_t bytes, std::uint64_t message, mail::QueueId id,
                 std::uint16_t recipient);
  [[nodiscard]] std::optional<StateRef> state(std::uint64_t message, const Entry& entry, std::uint16_t recipient) const;

  // Chunks of content without a message yet.
  void add_chunk(std::uint64_t position, std::uint32_t bytes);
  // `died`: nobody needs it any more; else a message counts it from now on, or a copy took its place.
  void remove_chunk(std::uint64_t position, std::uint32_t bytes, bool died);

  // The living messages with chunks, by position: where their chunks lie.
  [[nodiscard]] const std::map<std::uint64_t, std::vector<ChunkUse>>& large() const { return large_; }

  [[nodiscard]] std::uint64_t live_messages() const { return live_messages_; }
  [[nodiscard]] std::uint64_t live_bytes() const { return live_bytes_; }
  [[nodiscard]] std::uint64_t segment_bytes() const { return segment_bytes_; }  // sum over all segments
  // How many bytes were needed once and are not any more; only grows. What was moved does not count.
  [[nodiscard]] std::uint64_t died_bytes() const { return died_bytes_; }

  // --- summaries ---------------------------------------------------------------------------------------------------
  // Bound of the bytes that build_summary() will need, with what `more` adds.
  [[nodiscard]] static std::uint64_t summary_bytes(const Segment& segment, std::uint64_t more = 0);
  // What one more message may add to the summary of its segment.
  [[nodiscard]] static std::uint64_t message_summary_bytes(std::uint16_t recipients, std::size_t chunk_segments);
  // The entries of the summary of `segment`, appended to `out`; returns how many.
  std::uint32_t build_summary(const Segment& segment, std::vector<std::byte>& out) const;
  // Takes over what a summary says about `segment`. kDataLoss: it is not well-formed; part of it may have been taken.
  [[nodiscard]] Status apply_summary(Segment& segment, Bytes entries, std::uint32_t count);

 private:
  struct SharedState {
    std::uint64_t message = 0;  // position
    std::uint64_t position = 0;
    std::uint16_t recipient = 0;
    std::uint16_t length = 0;  // in record_alignment
  };
  struct StateHash {
    std::size_t operator()(const SharedState& state) const;
  };
  struct StateEqual {
    bool operator()(const SharedState& a, const SharedState& b) const {
      return a.message == b.message && a.recipient == b.recipient;
    }
  };
  struct Carried {
    std::uint16_t recipient = 0;
    StateRef state;
  };
  void keep_state(Segment& segment, Entry& entry, std::uint16_t recipient, const StateRef& state);
  void forget_state(std::uint64_t message, Entry& entry, std::uint16_t recipient);
  void kill(Segment& segment, Entry& entry);     // all is settled
  void give_up(Segment& segment, Entry& entry);  // whatever is not
  void use_chunks(const std::vector<ChunkUse>& uses, bool add);
  void count_bytes(Segment& segment, std::uint64_t bytes, bool add);

  std::deque<std::unique_ptr<Segment>> segments_;
  // By position and not by queue id: a message and the record that replaced it may both be here for a while.
  absl::flat_hash_map<std::uint64_t, std::vector<std::uint8_t>> partly_settled_;  // bitmap
  // Of messages with more than one recipient, or so far behind their message that Entry has no room to say it.
  absl::flat_hash_set<SharedState, StateHash, StateEqual> states_;
  // By queue id: states between replace() and add_message(). Empty but within apply_summary().
  absl::flat_hash_map<std::uint64_t, std::vector<Carried>> carried_;
  std::map<std::uint64_t, std::vector<ChunkUse>> large_;
  std::uint64_t live_messages_ = 0;
  std::uint64_t live_bytes_ = 0;
  std::uint64_t segment_bytes_ = 0;
  std::uint64_t died_bytes_ = 0;
};

}  // namespace postern::spool
