#include "spooltool/check.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include <fmt/format.h>

#include <postern/mail/envelope.h>
#include <postern/spool/record.h>

#include "spooltool/log_image.h"
#include "spooltool/segment_walk.h"
#include "spooltool/text.h"

namespace postern::spooltool {
namespace {

class LogChecker {
 public:
  LogChecker(const DataDir& data, LogImage& image, bool in_use, LogCheck& result)
      : data_(data), image_(image), in_use_(in_use), result_(result) {}

  // `tell` is called after each segment.
  template <class Tell>
  void run(const Tell& tell) {
    count();
    const spool::Index& index = image_.index();
    for (std::size_t i = 0; i < index.segment_count(); ++i) {
      check_segment(i);
      tell();
    }
    check_large();
    check_left_alone();
    for (const std::string& file : image_.files().damaged) {
      check_set_aside(file);
      tell();
    }
  }

 private:
  void count();
  void check_segment(std::size_t number);
  void check_large();
  void check_left_alone();
  void check_set_aside(const std::string& file);
  // Whether all of the message can be read; says so when not.
  bool check_message(const spool::Segment& segment, const spool::Entry& entry);
  void add(Damage damage) {
    ++result_.damage_count;
    if (result_.damage.size() < LogCheck::list_max) result_.damage.push_back(std::move(damage));
  }
  void add_hurt(std::uint64_t queue_id) {
    ++result_.hurt_count;
    if (result_.hurt.size() < LogCheck::list_max) result_.hurt.push_back(mail::QueueId{queue_id});
  }

  const DataDir& data_;
  LogImage& image_;
  const bool in_use_;
  LogCheck& result_;
  std::set<std::uint64_t> damaged_;  // sequences of segments in which something is damaged: their messages are checked
  mail::Envelope envelope_;
};

void LogChecker::count() {
  const spool::Index& index = image_.index();
  result_.alarms = image_.report().alarms;
  result_.foreign = image_.files().foreign;
  result_.segments_reserved = image_.reserved();
  result_.files_set_aside = image_.files().damaged.size();
  result_.messages = index.live_messages();
  result_.bytes_live = index.live_bytes();
  for (const spool::SlotFile& file : image_.files().slots) result_.bytes_total += file.bytes;
  for (std::size_t i = 0; i < index.segment_count(); ++i) {
    const spool::Segment& segment = index.segment(i);
    if (segment.needed()) ++result_.segments_live;
    for (const spool::Entry& entry : segment.entries) {
      if (entry.unsettled == 0) continue;
      result_.recipients_waiting += entry.unsettled;
      result_.recipients_settled += static_cast<std::uint64_t>(entry.recipients - entry.unsettled);
    }
  }
}

void LogChecker::check_segment(std::size_t number) {
  const spool::Index& index = image_.index();
  const spool::Segment& segment = index.segment(number);
  const std::string path = image_.path_of(segment);
  const LogCheck before = result_;
  // What was found in a file that has become another segment's meanwhile says nothing.
  const auto changed = [&] {
    if (!in_use_ || image_.still_there(segment)) return false;
    result_ = before;
    ++result_.segments_changed;
    return true;
  };
  const StatusOr<ReadFile> file = ReadFile::open(data_.path_of(path));
  const StatusOr<spool::SegmentHeader> header = file.ok() ? read_segment_header(*file) : file.status();
  if (!header.ok() || header->sequence != segment.sequence) {
    if (changed()) return;
    damaged_.insert(segment.sequence);
    ++result_.segments_damaged;
    add({path, 0, spool::batches_offset,
         header.ok() ? "the header is another segment's" : std::string(message_of(header.status()))});
    return;
  }
  std::optional<spool::SegmentHeader> next;
  if (number + 1 < index.segment_count()) {
    const StatusOr<ReadFile> behind = ReadFile::open(data_.path_of(image_.path_of(index.segment(number + 1))));
    const StatusOr<spool::SegmentHeader> its = behind.ok() ? read_segment_header(*behind) : behind.status();
    if (its.ok()) next = *its;
  }
  const Reach reach = find_reach(*file, *header, next ? &*next : nullptr);
  if (next && !segment.sealed) {
    add({path, segment.bytes - spool::block_bytes, spool::block_bytes,
         "the segment's summary is damaged; all of it is read instead"});
  }

  std::uint64_t living = 0;
  for (const spool::Entry& entry : segment.entries) living += entry.unsettled != 0 ? 1u : 0u;
  std::uint64_t met = 0;
  bool whole = true;
  SegmentWalk walk(*file, *header, reach);
  for (Found found = walk.next(); found.kind != Found::Kind::end; found = walk.next()) {
    if (found.kind == Found::Kind::torn) result_.bytes_torn += found.bytes;
    if (found.kind == Found::Kind::damage) {
      whole = false;
      add({path, found.offset, found.bytes,
           bytes_text(found.bytes) + " of the log are damaged, " + bytes_text(found.lost_bytes) +
               " of them in no record that is whole"});
    }
    if (found.kind != Found::Kind::record) continue;
    ++result_.records;
    if (found.header.kind != spool::RecordKind::message) continue;
    const spool::Entry* const entry = index.find_entry(found.header.position);
    const auto view = spool::read_message(found.header, found.record);
    if (!view) {
      add({path, found.offset, found.bytes, "a message's record makes no sense"});
    } else if (entry != nullptr && entry->unsettled != 0 && !found.salvaged && envelope_.decode(view->envelope).ok()) {
      ++met;
    }
  }
  if (walk.unreadable_bytes() != 0) {
    whole = false;
    add({path, 0, walk.unreadable_bytes(),
         fmt::format("the disk does not read {} of it", bytes_text(walk.unreadable_bytes()))});
  }
  if (whole && segment.set_aside) {
    add({path, 0, segment.bytes,
         "damage was found in it at an earlier start, and is gone: mail in it may be missing in the queue. See `export "
         "--all --include-damaged`"});
  }
  const bool complete = whole && met == living;
  if (!complete && changed()) return;
  if (!complete) {  // which of its messages is it?
    damaged_.insert(segment.sequence);
    const std::uint64_t told = result_.damage_count;
    for (const spool::Entry& entry : segment.entries) {
      if (entry.unsettled != 0) (void)check_message(segment, entry);
    }
    // Its summary and its batches disagree, yet each message is there: only the tail of a log in use moves like this.
    if (whole && told == result_.damage_count) damaged_.erase(segment.sequence);
  }
  if (damaged_.contains(segment.sequence) || segment.set_aside) {
    ++result_.segments_damaged;
  } else {
    ++(segment.sealed ? result_.segments_sealed : result_.segments_open);
  }
}

bool LogChecker::check_message(const spool::Segment& segment, const spool::Entry& entry) {
  const StatusOr<spool::MessageView> view = image_.read_message(segment, entry);
  Status status = view.ok() ? envelope_.decode(view->envelope) : view.status();
  const std::uint64_t offset = std::uint64_t{entry.units} * spool::record_alignment;
  for (std::size_t i = 0; status.ok() && i < view->extents.size(); ++i) {
    const StatusOr<Bytes> chunk = image_.read_chunk(view->extents[i], i);
    if (!chunk.ok()) status = chunk.status();
  }
  if (status.ok()) return true;
  const spool::ExtentList chunks = view.ok() ? view->extents : spool::ExtentList();
  if (in_use_ && !image_.still_there(segment, chunks)) return true;  // moved meanwhile
  add({image_.path_of(segment), offset, entry.bytes,
       "message " + mail::QueueId{entry.queue_id()}.to_string() +
           " cannot be read: " + std::string(message_of(status))});
  add_hurt(entry.queue_id());
  return false;
}

// Messages whose own record is sound, and a piece of whose content lies in a segment that is not, or is gone.
void LogChecker::check_large() {
  const spool::Index& index = image_.index();
  for (const auto& [position, uses] : index.large()) {
    const std::uint64_t sequence = spool::sequence_of(position);
    if (damaged_.contains(sequence)) continue;  // it was checked with its segment
    const bool doubtful = std::any_of(uses.begin(), uses.end(), [&](const spool::ChunkUse& use) {
      return damaged_.contains(use.sequence) || index.find_segment(use.sequence) == nullptr;
    });
    const spool::Segment* const segment = index.find_segment(sequence);
    const spool::Entry* const entry = index.find_entry(position);
    if (doubtful && segment != nullptr && entry != nullptr && entry->unsettled != 0) {
      (void)check_message(*segment, *entry);
    }
  }
}

void LogChecker::check_left_alone() {
  if (in_use_ && result_.alarms.empty()) return;  // recycled between two looks
  for (const spool::Slot slot : image_.left_alone()) {
    const std::string path = spool::slot_path(image_.log(), slot);
    const StatusOr<ReadFile> file = ReadFile::open(data_.path_of(path));
    const StatusOr<spool::SegmentHeader> header = file.ok() ? read_segment_header(*file) : file.status();
    ++result_.segments_damaged;
    if (!header.ok()) {
      add({path, 0, spool::batches_offset, std::string(message_of(header.status()))});
    } else if (header->log != image_.log() || header->slot != slot.value) {
      add({path, 0, sizeof(spool::SegmentHeader),
           "this file is " + spool::slot_path(static_cast<std::uint16_t>(header->log), spool::Slot{header->slot}) +
               " by its header: put it back there"});
    } else {
      add({path, 0, sizeof(spool::SegmentHeader), fmt::format("a second file claims segment {}", header->sequence)});
    }
  }
}

void LogChecker::check_set_aside(const std::string& path) {
  const StatusOr<ReadFile> file = ReadFile::open(data_.path_of(path));
  const StatusOr<spool::SegmentHeader> header = file.ok() ? read_segment_header(*file) : file.status();
  if (!header.ok()) {
    add({path, 0, 0, std::string(message_of(header.status()))});
    return;
  }
  SegmentWalk walk(*file, *header, find_reach(*file, *header, nullptr));
  std::uint64_t messages = 0;
  std::optional<std::uint64_t> first;
  for (Found found = walk.next(); found.kind != Found::Kind::end; found = walk.next()) {
    if (found.kind == Found::Kind::damage && !first) first = found.offset;
    if (found.kind == Found::Kind::record && found.header.kind == spool::RecordKind::message) ++messages;
  }
  add({path, first.value_or(0), header->segment_bytes,
       "posternd set it aside: mail in it could not be read; " + count_text(messages, "message", "messages") +
           " in it are whole, most of them delivered. See `dump --segment`, `export --all --include-damaged`; then "
           "remove it"});
}

}  // namespace

bool SpoolCheck::sound() const {
  return std::all_of(logs.begin(), logs.end(), [](const LogCheck& log) { return log.sound(); });
}

SpoolCheck check_spool(const DataDir& data, Progress& progress) {
  SpoolCheck result{.data_dir = data.path(), .in_use = data.in_use(), .logs = {}, .foreign = data.foreign()};
  // Segments are counted by files first: those that turn out to be reserved are through at once.
  std::uint64_t all = 0;
  std::uint64_t done = 0;
  for (const std::uint16_t log : data.logs()) {
    const StatusOr<LogFiles> files = data.list(log);
    if (files.ok()) all += files->slots.size() + files->damaged.size();
  }
  for (const std::uint16_t log : data.logs()) {
    LogCheck& checked = result.logs.emplace_back();
    checked.log = log;
    progress.show(done, all);
    const StatusOr<std::unique_ptr<LogImage>> image = LogImage::read(data, log, result.in_use);
    if (!image.ok()) {
      checked.unreadable = message_of(image.status());
      continue;
    }
    const std::uint64_t before = done;
    LogChecker checker(data, **image, result.in_use, checked);
    checker.run([&] { progress.show(++done, all); });
    done = before + (*image)->files().slots.size() + (*image)->files().damaged.size();
  }
  result.in_use = result.in_use || data.in_use();  // started meanwhile
  return result;
}

}  // namespace postern::spooltool
