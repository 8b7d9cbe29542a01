// Messages out of a spool: those that wait, and on request what stands whole in segments that recovery gave up.
#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_set.h>
#include <fmt/format.h>

#include <postern/base/text.h>
#include <postern/spool/record.h>

#include "spooltool/commands.h"
#include "spooltool/export.h"
#include "spooltool/log_image.h"
#include "spooltool/progress.h"
#include "spooltool/segment_walk.h"
#include "spooltool/text.h"

namespace postern::spooltool {
namespace {

// In a spool in use a message may be moved while it is sought: then the log is looked at again.
constexpr int passes_max = 5;

class Exporter {
 public:
  Exporter(const DataDir& data, ExportFolder& folder, bool include_damaged)
      : data_(data), folder_(folder), include_damaged_(include_damaged) {}

  // Of one log: those in `wanted`, or all that wait when it is null. Anything but OK: nothing more can be written.
  [[nodiscard]] Status export_log(std::uint16_t log, const std::set<std::uint64_t>* wanted);

  [[nodiscard]] std::uint64_t exported() const { return exported_; }
  [[nodiscard]] std::uint64_t kept() const { return kept_; }
  [[nodiscard]] std::uint64_t incomplete() const { return incomplete_; }
  [[nodiscard]] std::uint64_t unreadable() const { return unreadable_; }
  [[nodiscard]] std::uint64_t from_damaged() const { return from_damaged_; }
  [[nodiscard]] int code() const { return code_; }
  [[nodiscard]] bool met(std::uint64_t queue_id) const { return met_.contains(queue_id); }

 private:
  using Ids = absl::flat_hash_set<std::uint64_t>;
  using SettledRecipients = absl::flat_hash_set<std::pair<std::uint64_t, std::uint16_t>>;
  [[nodiscard]] Status export_waiting(LogImage& image, bool in_use, const std::set<std::uint64_t>* wanted,
                                      const Ids* again, Ids& moved);
  enum class Result : std::uint8_t { written, kept, moved, unreadable };
  [[nodiscard]] StatusOr<Result> export_one(LogImage& image, bool in_use, const spool::Segment& segment,
                                            const spool::Entry& entry);
  [[nodiscard]] Status write_message(LogImage& image, const spool::MessageView& view, Status& unread);
  // A file that holds what recovery does not read.
  struct DamagedFile {
    std::string path;
    ReadFile file;
    spool::SegmentHeader header;
  };
  [[nodiscard]] std::vector<DamagedFile> damaged_files(const LogImage& image);
  [[nodiscard]] Status export_damaged(LogImage& image, const std::set<std::uint64_t>* wanted);
  [[nodiscard]] Status export_damaged_file(LogImage& image, const DamagedFile& damaged, const Ids& candidates,
                                           const SettledRecipients& settled);
  void complain_once(const Status& status) { code_ = std::max(code_, complain(status)); }

  const DataDir& data_;
  ExportFolder& folder_;
  const bool include_damaged_;
  Ids met_;  // as far as it is asked for later: of damaged segments only what is new is wanted
  mail::Envelope envelope_;
  std::uint64_t exported_ = 0;
  std::uint64_t kept_ = 0;
  std::uint64_t incomplete_ = 0;
  std::uint64_t unreadable_ = 0;
  std::uint64_t from_damaged_ = 0;
  int code_ = exit_good;
};

Status Exporter::export_log(std::uint16_t log, const std::set<std::uint64_t>* wanted) {
  Ids again;
  for (int pass = 1; pass <= passes_max; ++pass) {
    const bool in_use = data_.in_use();
    const StatusOr<std::unique_ptr<LogImage>> image = LogImage::read(data_, log, in_use);
    if (!image.ok()) {
      complain_once(image.status());
      return OkStatus();
    }
    // What recovery could not save is in no index: nobody must believe that this was all.
    if (wanted == nullptr && pass == 1) {
      for (const std::string& alarm : (*image)->report().alarms) complain_once(error(StatusCode::kDataLoss, alarm));
    }
    Ids moved;
    POSTERN_RETURN_IF_ERROR(
        export_waiting(**image, in_use && pass < passes_max, wanted, pass == 1 ? nullptr : &again, moved));
    if (moved.empty() || pass == passes_max) {
      return include_damaged_ ? export_damaged(**image, wanted) : OkStatus();
    }
    again = std::move(moved);
  }
  return OkStatus();
}

Status Exporter::export_waiting(LogImage& image, bool in_use, const std::set<std::uint64_t>* wanted, const Ids* again,
                                Ids& moved) {
  Progress progress("messages exported");
  const spool::Index& index = image.index();
  std::uint64_t done = 0;
  for (std::size_t i = 0; i < index.segment_count(); ++i) {
    const spool::Segment& segment = index.segment(i);
    for (const spool::Entry& entry : segment.entries) {
      if (entry.unsettled == 0) continue;
      progress.show(++done, index.live_messages());
      if (wanted != nullptr && !wanted->contains(entry.queue_id())) continue;
      if (again != nullptr && !again->contains(entry.queue_id())) continue;
      const StatusOr<Result> result = export_one(image, in_use, segment, entry);
      if (!result.ok()) return result.status();
      if (*result == Result::moved) {
        moved.insert(entry.queue_id());
        continue;
      }
      if (wanted != nullptr || include_damaged_) met_.insert(entry.queue_id());
    }
  }
  return OkStatus();
}

StatusOr<Exporter::Result> Exporter::export_one(LogImage& image, bool in_use, const spool::Segment& segment,
                                                const spool::Entry& entry) {
  const mail::QueueId id{entry.queue_id()};
  const auto lost = [&](const Status& why, const spool::ExtentList& chunks = {}) {
    if (in_use && !image.still_there(segment, chunks)) return Result::moved;
    ++unreadable_;
    complain_once(error(StatusCode::kDataLoss, id.to_string() + ": " + std::string(message_of(why))));
    return Result::unreadable;
  };
  const StatusOr<spool::MessageView> view = image.read_message(segment, entry);
  if (!view.ok()) return lost(view.status());
  if (const Status status = envelope_.decode(view->envelope); !status.ok()) return lost(status);
  if (Status begun = folder_.begin(id, *view); !begun.ok()) {
    if (begun.code() != StatusCode::kAlreadyExists) return begun;
    ++kept_;
    complain(begun);
    code_ = exit_unwritten;
    return Result::kept;
  }
  Status unread;
  POSTERN_RETURN_IF_ERROR(write_message(image, *view, unread));
  if (!unread.ok() && (!include_damaged_ || (in_use && !image.still_there(segment, view->extents)))) {
    folder_.abandon();
    return lost(unread, view->extents);
  }
  if (!unread.ok()) {
    ++incomplete_;
    complain_once(error(StatusCode::kDataLoss, id.to_string() + ": " + std::string(message_of(unread)) +
                                                   "; what else there is of it was exported"));
  }
  POSTERN_RETURN_IF_ERROR(folder_.end(envelope_, image.read_recipients(segment, entry), image.path_of(segment)));
  ++exported_;
  return Result::written;
}

// `unread`: why a piece is missing, when one is.
Status Exporter::write_message(LogImage& image, const spool::MessageView& view, Status& unread) {
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < view.extents.size(); ++i) {
    const spool::Extent extent = view.extents[i];
    const StatusOr<Bytes> chunk = image.read_chunk(extent, i);
    if (chunk.ok()) {
      POSTERN_RETURN_IF_ERROR(folder_.write(*chunk));
    } else {
      if (unread.ok()) unread = chunk.status();
      folder_.note_missing({offset, extent.bytes, std::string(message_of(chunk.status()))});
    }
    offset += extent.bytes;
  }
  return folder_.write(view.content);
}

// Of every record in a segment file.
template <class Each>
void walk_records(const ReadFile& file, const spool::SegmentHeader& header, const Each& each) {
  SegmentWalk walk(file, header, find_reach(file, header, nullptr));
  for (Found found = walk.next(); found.kind != Found::Kind::end; found = walk.next()) {
    if (found.kind == Found::Kind::record) each(found);
  }
}

std::vector<Exporter::DamagedFile> Exporter::damaged_files(const LogImage& image) {
  std::vector<std::string> paths = image.files().damaged;
  for (const spool::Slot slot : image.left_alone()) paths.push_back(spool::slot_path(image.log(), slot));
  for (std::size_t i = 0; i < image.index().segment_count(); ++i) {
    const spool::Segment& segment = image.index().segment(i);
    if (segment.set_aside) paths.push_back(image.path_of(segment));
  }
  std::vector<DamagedFile> files;
  for (const std::string& path : paths) {
    StatusOr<ReadFile> file = ReadFile::open(data_.path_of(path));
    const StatusOr<spool::SegmentHeader> header = file.ok() ? read_segment_header(*file) : file.status();
    if (header.ok()) {
      files.push_back({path, *std::move(file), *header});
    } else {
      complain_once(header.status());
    }
  }
  return files;
}

// What is whole in files that recovery does not read, or not all of. Which of it was delivered before is known only as
// far as settlements are still there. Memory: some tens of bytes per message in these files.
Status Exporter::export_damaged(LogImage& image, const std::set<std::uint64_t>* wanted) {
  const std::vector<DamagedFile> files = damaged_files(image);
  Ids candidates;
  for (const DamagedFile& damaged : files) {
    walk_records(damaged.file, damaged.header, [&](const Found& found) {
      const std::uint64_t id = found.header.queue_id;
      if (found.header.kind != spool::RecordKind::message || met_.contains(id)) return;
      if (wanted == nullptr || wanted->contains(id)) candidates.insert(id);
    });
  }
  if (candidates.empty()) return OkStatus();
  SettledRecipients settled;
  const auto note = [&](const Found& found) {
    if (found.header.kind == spool::RecordKind::settled && candidates.contains(found.header.queue_id)) {
      settled.emplace(found.header.queue_id, found.header.recipient);
    }
  };
  for (const DamagedFile& damaged : files) walk_records(damaged.file, damaged.header, note);
  for (std::size_t i = 0; i < image.index().segment_count(); ++i) {
    const StatusOr<ReadFile> file = ReadFile::open(data_.path_of(image.path_of(image.index().segment(i))));
    const StatusOr<spool::SegmentHeader> header = file.ok() ? read_segment_header(*file) : file.status();
    if (header.ok()) walk_records(*file, *header, note);
  }
  for (const DamagedFile& damaged : files) {
    POSTERN_RETURN_IF_ERROR(export_damaged_file(image, damaged, candidates, settled));
  }
  return OkStatus();
}

Status Exporter::export_damaged_file(LogImage& image, const DamagedFile& damaged, const Ids& candidates,
                                     const SettledRecipients& settled) {
  Status status;
  walk_records(damaged.file, damaged.header, [&](const Found& found) {
    const mail::QueueId id{found.header.queue_id};
    if (!status.ok() || found.header.kind != spool::RecordKind::message) return;
    if (!candidates.contains(id.value) || met_.contains(id.value)) return;
    const auto view = spool::read_message(found.header, found.record);
    if (!view || !envelope_.decode(view->envelope).ok()) return;
    std::vector<RecipientFacts> recipients(view->recipients);
    std::size_t open = 0;
    for (std::size_t i = 0; i < recipients.size(); ++i) {
      const bool before =
          !view->settled.empty() && ((std::to_integer<unsigned>(view->settled[i / 8]) >> (i % 8)) & 1u) != 0;
      if (before || settled.contains({id.value, static_cast<std::uint16_t>(i)})) {
        recipients[i].state = RecipientState::settled;
      } else {
        ++open;
      }
    }
    if (open == 0) return;
    met_.insert(id.value);
    status = folder_.begin(id, *view);
    if (status.code() == StatusCode::kAlreadyExists) {
      ++kept_;
      complain(std::exchange(status, OkStatus()));
      code_ = exit_unwritten;
      return;
    }
    Status unread;
    if (status.ok()) status = write_message(image, *view, unread);
    if (status.ok()) status = folder_.end(envelope_, recipients, damaged.path);
    if (!status.ok()) return;
    if (!unread.ok()) ++incomplete_;
    ++exported_;
    ++from_damaged_;
  });
  return status;
}

}  // namespace

int run_export(const ExportArguments& arguments, std::FILE* out) {
  std::set<std::uint64_t> wanted;
  for (const std::string& text : arguments.queue_ids) {
    const auto id = mail::QueueId::parse(text);
    if (!id) {
      return complain(error(StatusCode::kInvalidArgument,
                            fmt::format("\"{}\" is no queue id: 13 characters, as in the 250 and in the event log",
                                        log_escaped(text, 64))));
    }
    wanted.insert(id->value);
  }
  const StatusOr<DataDir> data = DataDir::open(arguments.data_dir);
  if (!data.ok()) return complain(data.status());
  StatusOr<ExportFolder> folder =
      ExportFolder::open(arguments.to, {.lf = arguments.lf, .trace = arguments.trace, .force = arguments.force});
  const auto unwritten = [&folder](const Status& status) {
    complain(status);
    if (folder.ok()) {  // what was complete before may still be had
      folder->abandon();
      (void)folder->flush();
    }
    return exit_unwritten;
  };
  if (!folder.ok()) return unwritten(folder.status());

  Exporter exporter(*data, *folder, arguments.include_damaged);
  for (const std::uint16_t log : data->logs()) {
    const bool any =
        std::any_of(wanted.begin(), wanted.end(), [log](std::uint64_t id) { return mail::QueueId{id}.log() == log; });
    if (!arguments.all && !any) continue;
    if (const Status status = exporter.export_log(log, arguments.all ? nullptr : &wanted); !status.ok()) {
      return unwritten(status);
    }
  }
  if (const Status status = folder->flush(); !status.ok()) return unwritten(status);

  int code = exporter.code();
  for (const std::uint64_t id : wanted) {
    if (exporter.met(id)) continue;
    std::fprintf(stderr, "postern-spool: no message %s waits in %s\n", mail::QueueId{id}.to_string().c_str(),
                 data->path().c_str());
    code = std::max<int>(code, exit_no_such);
  }
  if (arguments.json) {
    const Json json{{"exported", exporter.exported()},
                    {"from_damaged_segments", exporter.from_damaged()},
                    {"incomplete", exporter.incomplete()},
                    {"unreadable", exporter.unreadable()},
                    {"kept", exporter.kept()},
                    {"folder", arguments.to}};
    std::fprintf(out, "%s\n", to_line(json).c_str());
  } else {
    std::string text = count_text(exporter.exported(), "message", "messages") + " exported into " + arguments.to;
    if (exporter.from_damaged() != 0) {
      text += fmt::format("; {} of them from damaged segments, perhaps delivered before", exporter.from_damaged());
    }
    if (exporter.incomplete() != 0) text += fmt::format("; {} of them incomplete", exporter.incomplete());
    if (exporter.unreadable() != 0) text += fmt::format("; {} cannot be read", exporter.unreadable());
    if (exporter.kept() != 0) text += fmt::format("; {} were there already", exporter.kept());
    std::fprintf(out, "%s\n", text.c_str());
  }
  return flushed(out, code);
}

}  // namespace postern::spooltool
