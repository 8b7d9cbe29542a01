// Asks: does the walk through a segment end, whatever stands in the file; are its findings in order, apart, and valid;
// and does it see every message that the daemon's recovery would deliver out of the same files?
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include <postern/base/check.h>
#include <postern/spool/log.h>
#include <postern/spool/record.h>
#include <postern/spool/replay.h>

#include "fuzz/spool/changed_log.h"
#include "spooltool/segment_walk.h"

namespace {

using namespace postern;
using spooltool::Found;
using spooltool::ReadFile;

using Positions = std::set<std::uint64_t>;

// A file of the kernel's memory: the walk reads files, and a disk would be slow and worn.
class MemoryFile {
 public:
  explicit MemoryFile(Bytes bytes) : descriptor_(memfd_create("segment", MFD_CLOEXEC)) {
    POSTERN_CHECK(descriptor_ >= 0);
    POSTERN_CHECK(write(descriptor_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  [[nodiscard]] ReadFile open() const {
    StatusOr<ReadFile> file = ReadFile::open("/proc/self/fd/" + std::to_string(descriptor_));
    POSTERN_CHECK(file.ok());
    return *std::move(file);
  }

 private:
  int descriptor_;
};

// Messages that the daemon would take up and could read whole.
Positions living(const fuzz::Disk& disk) {
  Positions found;
  const auto log = fuzz::start(disk);
  if (!log) return found;
  std::vector<mail::Location> locations;
  spool::Replay replay(*log);
  for (int i = 0; !replay.done(); ++i) {
    POSTERN_CHECK(i < 100'000);
    if (const auto message = replay.take_message()) {
      locations.push_back(message->location);
    } else if (const auto read = replay.take_read()) {
      replay.on_read(read->window, disk.read(read->intent));
    }
  }
  for (const mail::Location& location : locations) {
    const StatusOr<spool::ReadRange> range = log->read_plan(location);
    if (!range.ok()) continue;
    spool::AlignedBuffer buffer(range->bytes);
    if (!disk.read(range->slot, range->offset, buffer.bytes().first(range->bytes)).ok()) continue;
    if (log->decode_message(location, buffer.first(range->bytes)).ok()) found.insert(location.position);
  }
  return found;
}

// Positions of the valid records of one segment.
void walk(const ReadFile& file, const spool::SegmentHeader& header, const spooltool::Reach& reach, Positions& records) {
  POSTERN_CHECK(reach.limit <= header.segment_bytes);
  spooltool::SegmentWalk segment(file, header, reach);
  std::uint64_t told_to = spool::batches_offset;  // of batches, torn ones and damage
  std::uint64_t record_to = spool::batches_offset;
  std::uint64_t batch_to = 0;
  for (std::uint64_t count = 0;; ++count) {
    POSTERN_CHECK(count <= header.segment_bytes / spool::record_alignment);
    const Found found = segment.next();
    if (found.kind == Found::Kind::end) break;
    POSTERN_CHECK(found.bytes > 0 && found.offset + found.bytes <= header.segment_bytes);
    if (found.kind == Found::Kind::record) {
      POSTERN_CHECK(found.offset >= record_to);
      POSTERN_CHECK(found.salvaged ? found.offset >= told_to : found.offset + found.bytes <= batch_to);
      record_to = found.offset + found.bytes;
      const std::uint64_t position = spool::make_position(header.sequence, found.offset);
      POSTERN_CHECK(found.record.size() == found.bytes && found.header.position == position);
      const auto checked = spool::check_record(segment.checksum(), position, found.record);
      POSTERN_CHECK(checked.has_value());
      if (spool::check_content(segment.checksum(), *checked, found.record)) records.insert(position);
      continue;
    }
    POSTERN_CHECK(found.offset >= told_to && found.offset % spool::block_bytes == 0);
    POSTERN_CHECK(found.lost_bytes <= found.bytes);
    told_to = found.offset + found.bytes;
    if (found.kind == Found::Kind::batch) batch_to = told_to;
    record_to = std::max(record_to, found.offset);
  }
  POSTERN_CHECK(segment.next().kind == Found::Kind::end);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // A question that is never asked has no answer.
  static const bool asks = !living(fuzz::changed_log(nullptr, 0)).empty();
  POSTERN_CHECK(asks);
  fuzz::Disk disk = fuzz::changed_log(data, size);
  const Positions wanted = living(disk);
  // A block that cannot be read is one of zeros to the walk.
  for (const auto& [slot, offset] : disk.bad_blocks) {
    std::vector<std::byte>& file = disk.files.at(slot);
    if (offset < file.size()) std::memset(file.data() + offset, 0, std::min(spool::block_bytes, file.size() - offset));
  }
  struct Segment {
    ReadFile file;
    spool::SegmentHeader header;
  };
  std::multimap<std::uint64_t, Segment> segments;  // by sequence
  for (const auto& [slot, bytes] : disk.files) {
    ReadFile file = MemoryFile(bytes).open();
    const StatusOr<spool::SegmentHeader> header = spooltool::read_segment_header(file);
    if (header.ok()) segments.emplace(header->sequence, Segment{std::move(file), *header});
  }
  Positions seen;
  for (auto at = segments.begin(); at != segments.end(); ++at) {
    const auto next = std::next(at);
    const spool::SegmentHeader* const behind = next == segments.end() ? nullptr : &next->second.header;
    const Segment& segment = at->second;
    walk(segment.file, segment.header, spooltool::find_reach(segment.file, segment.header, behind), seen);
  }
  // A forged summary may list messages behind what it says is the end.
  if (disk.forged) return 0;
  for (const std::uint64_t position : wanted) POSTERN_CHECK(seen.contains(position));
  return 0;
}
