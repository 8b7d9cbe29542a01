// One line per record, in the order of the log.
#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <fmt/format.h>

#include <postern/queue/retry_state.h>
#include <postern/spool/record.h>

#include "spooltool/commands.h"
#include "spooltool/log_image.h"
#include "spooltool/segment_walk.h"
#include "spooltool/text.h"

namespace postern::spooltool {
namespace {

std::string place_text(std::uint64_t position) {
  return std::to_string(spool::sequence_of(position)) + ":" + std::to_string(spool::offset_of(position));
}

class Dumper {
 public:
  Dumper(bool json, std::FILE* out) : json_(json), out_(out) {}

  // `name` is what to call the file. `index`: tells which messages wait; null: nothing is known of that.
  void dump(const std::string& name, const ReadFile& file, const spool::SegmentHeader& header,
            const spool::SegmentHeader* next, const spool::Index* index);
  [[nodiscard]] bool damaged() const { return damaged_; }
  void note_damage(const std::string& file, const std::string& what) {
    damaged_ = true;
    Json json{{"type", "damage"}, {"file", file}, {"what", what}};
    line(json, fmt::format("damage      {}: {}", file, what));
  }

 private:
  void line(const Json& json, const std::string& text) {
    const std::string shown = json_ ? to_line(json) : text;
    std::fprintf(out_, "%s\n", shown.c_str());
  }
  [[nodiscard]] Json at(std::string_view type, std::uint64_t offset) const {
    return {{"type", type}, {"file", file_}, {"segment", sequence_}, {"offset", offset}};
  }
  void dump_header(const spool::SegmentHeader& header, const Reach& reach);
  void dump_record(const Found& found, const spool::Index* index);

  const bool json_;
  std::FILE* const out_;
  std::string file_;
  std::uint64_t sequence_ = 0;
  bool damaged_ = false;
};

void Dumper::dump_header(const spool::SegmentHeader& header, const Reach& reach) {
  Json json = at("segment", 0);
  json["log"] = spool::log_directory(static_cast<std::uint16_t>(header.log)).substr(5);
  json["start"] = header.start;
  json["previous"] = header.previous;
  json["oldest"] = header.oldest;
  json["bytes"] = header.segment_bytes;
  json["sealed"] = reach.footer.has_value();
  std::string text = fmt::format("# {}: segment {} of log {}, start {}, behind {}, oldest {}, {}, ", file_, sequence_,
                                 std::string(json["log"]), header.start, header.previous, header.oldest,
                                 bytes_text(header.segment_bytes));
  if (reach.footer) {
    json["end"] = reach.footer->end;
    json["summary_entries"] = reach.footer->entries;
    text += fmt::format("sealed at {} with {} in its summary", reach.footer->end,
                        count_text(reach.footer->entries, "entry", "entries"));
  } else {
    text += "not sealed";
  }
  line(json, text);
}

void Dumper::dump_record(const Found& found, const spool::Index* index) {
  const spool::RecordHeader& header = found.header;
  Json json = at(kind_text(header), found.offset);
  json["bytes"] = found.bytes;
  std::string text = std::to_string(found.offset);
  text.resize(std::max<std::size_t>(text.size() + 1, 11), ' ');
  text += kind_text(header) + " ";
  const std::string id = mail::QueueId{header.queue_id}.to_string();
  switch (header.kind) {
    case spool::RecordKind::message: {
      json["queue_id"] = id;
      json["recipients"] = header.recipient;
      text += id + " " + count_text(header.recipient, "recipient", "recipients");
      if (const auto view = spool::read_message(header, found.record)) {
        json["envelope_bytes"] = view->envelope.size();
        json["added_bytes"] = view->added_fields.size();
        json["content_bytes"] = view->facts.size;
        json["form"] = form_text(view->facts.form);
        json["chunks"] = view->extents.size();
        text += fmt::format(", envelope {}, added {}, content {} {}", view->envelope.size(), view->added_fields.size(),
                            view->facts.size, form_text(view->facts.form));
        if (!view->extents.empty()) text += fmt::format(" ({})", count_text(view->extents.size(), "chunk", "chunks"));
      }
      if (header.subject != 0) {
        json["replaces"] = {{"segment", spool::sequence_of(header.subject)},
                            {"offset", spool::offset_of(header.subject)}};
        text += fmt::format(", replaces {}", place_text(header.subject));
      }
      if (index != nullptr) {
        const spool::Entry* const entry = index->find_entry(header.position);
        const unsigned waiting = entry == nullptr ? 0u : entry->unsettled;
        json["waiting"] = waiting;
        text += fmt::format(", {} waiting", waiting);
      }
      break;
    }
    case spool::RecordKind::chunk:
      json["content"] = header.queue_id;
      json["index"] = header.subject;
      json["content_bytes"] = header.bytes - sizeof header - header.meta_bytes;
      text += std::to_string(header.subject) + " of content " + std::to_string(header.queue_id) + ", " +
              std::to_string(header.bytes - sizeof header - header.meta_bytes) + " bytes";
      break;
    case spool::RecordKind::settled:
    case spool::RecordKind::retry_state: {
      json["queue_id"] = id;
      json["recipient"] = header.recipient;
      json["message"] = {{"segment", spool::sequence_of(header.subject)}, {"offset", spool::offset_of(header.subject)}};
      text += id + " recipient " + std::to_string(header.recipient) + " of " + place_text(header.subject);
      if (header.kind == spool::RecordKind::settled) {
        json["outcome"] = outcome_text(header.outcome);
        text += fmt::format(", {}", outcome_text(header.outcome));
        break;
      }
      const auto state = queue::decode_retry_state(found.record.subspan(sizeof header, header.meta_bytes));
      if (!state.ok()) {
        json["unreadable"] = message_of(state.status());
        text += fmt::format(", {}", message_of(state.status()));
        break;
      }
      json["attempts"] = state->attempts;
      json["next_due"] = time_text(state->due);
      json["last_reply"] = state->last_reply.to_log_text();
      text += fmt::format(", {}, due {}: {}", count_text(state->attempts, "attempt", "attempts"), time_text(state->due),
                          state->last_reply.to_log_text());
      break;
    }
    default:
      text += std::to_string(found.bytes) + " bytes";
  }
  if (found.salvaged) {
    json["salvaged"] = true;
    text += " (whole, in a damaged batch)";
  }
  line(json, text);
}

void Dumper::dump(const std::string& name, const ReadFile& file, const spool::SegmentHeader& header,
                  const spool::SegmentHeader* next, const spool::Index* index) {
  file_ = name;
  sequence_ = header.sequence;
  const Reach reach = find_reach(file, header, next);
  dump_header(header, reach);
  SegmentWalk walk(file, header, reach);
  for (Found found = walk.next(); found.kind != Found::Kind::end; found = walk.next()) {
    const std::string offset = std::to_string(found.offset);
    const std::string lead = offset + std::string(offset.size() < 10 ? 11 - offset.size() : 1, ' ');
    switch (found.kind) {
      case Found::Kind::batch: {
        Json json = at("batch", found.offset);
        json["number"] = found.batch.number;
        json["bytes"] = found.batch.bytes;
        json["used"] = found.batch.used;
        json["records"] = found.batch.records;
        json["oldest"] = found.batch.oldest;
        line(json, lead + "batch " + std::to_string(found.batch.number) + ": " +
                       count_text(found.batch.records, "record", "records") + ", " + std::to_string(found.batch.used) +
                       " of " + std::to_string(found.batch.bytes) + " bytes used");
        break;
      }
      case Found::Kind::record:
        dump_record(found, index);
        break;
      case Found::Kind::damage: {
        // Under our eyes the daemon may have begun another segment in this file.
        const StatusOr<spool::SegmentHeader> now = read_segment_header(file);
        if (!now.ok() || now->sequence != header.sequence) {
          Json json = at("changed", found.offset);
          return line(json, lead + "changed: the file is used for another segment by now");
        }
        damaged_ = true;
        Json json = at("damage", found.offset);
        json["bytes"] = found.bytes;
        json["lost_bytes"] = found.lost_bytes;
        line(json, lead + "damage: " + std::to_string(found.bytes) + " bytes, " + std::to_string(found.lost_bytes) +
                       " of them in no record that is whole");
        break;
      }
      case Found::Kind::torn: {
        Json json = at("torn", found.offset);
        json["bytes"] = found.bytes;
        line(json, lead + "torn: a batch of " + std::to_string(found.bytes) + " bytes, never acknowledged");
        break;
      }
      case Found::Kind::end:
        break;
    }
  }
}

// The whole header of a segment in use, or nullopt.
std::optional<spool::SegmentHeader> header_of(const DataDir& data, const LogImage& image, std::size_t number) {
  if (number >= image.index().segment_count()) return std::nullopt;
  const StatusOr<ReadFile> file = ReadFile::open(data.path_of(image.path_of(image.index().segment(number))));
  if (!file.ok()) return std::nullopt;
  const StatusOr<spool::SegmentHeader> header = read_segment_header(*file);
  return header.ok() ? std::optional(*header) : std::nullopt;
}

// `path` as it stands, or within data_dir.
int dump_segment(const std::string& path, const std::string& data_dir, Dumper& dumper) {
  StatusOr<ReadFile> file = ReadFile::open(path);
  if (file.status().code() == StatusCode::kNotFound && !path.starts_with('/')) {
    StatusOr<ReadFile> inside = ReadFile::open(data_dir + "/" + path);
    if (inside.ok()) file = std::move(inside);
  }
  if (!file.ok()) return complain(file.status());
  const StatusOr<spool::SegmentHeader> header = read_segment_header(*file);
  if (!header.ok()) return complain(header.status());
  dumper.dump(path, *file, *header, nullptr, nullptr);
  return dumper.damaged() ? exit_damage : exit_good;
}

int dump_log(const DataDir& data, std::uint16_t log, Dumper& dumper) {
  const StatusOr<std::unique_ptr<LogImage>> made = LogImage::read(data, log, data.in_use());
  if (!made.ok()) return complain(made.status());
  const LogImage& image = **made;
  const spool::Index& index = image.index();
  for (std::size_t i = 0; i < index.segment_count(); ++i) {
    const std::string name = image.path_of(index.segment(i));
    const StatusOr<ReadFile> file = ReadFile::open(data.path_of(name));
    const StatusOr<spool::SegmentHeader> header = file.ok() ? read_segment_header(*file) : file.status();
    if (!header.ok() || header->sequence != index.segment(i).sequence) {
      // Retired since the log was looked at, or gone bad since.
      if (!data.in_use()) dumper.note_damage(name, "its header cannot be read any more");
      continue;
    }
    const std::optional<spool::SegmentHeader> next = header_of(data, image, i + 1);
    dumper.dump(name, *file, *header, next ? &*next : nullptr, &index);
  }
  if (data.in_use()) return exit_good;
  for (const spool::Slot slot : image.left_alone()) {
    const std::string name = spool::slot_path(log, slot);
    dumper.note_damage(name, "left alone: its header is damaged, or another's; see `check`");
  }
  return exit_good;
}

}  // namespace

int run_dump(const DumpArguments& arguments, std::FILE* out) {
  Dumper dumper(arguments.json, out);
  if (!arguments.segment.empty()) return flushed(out, dump_segment(arguments.segment, arguments.data_dir, dumper));
  std::optional<std::uint16_t> only;
  if (!arguments.log.empty()) {
    only = arguments.log.size() > 3 ? std::nullopt
                                    : spool::parse_log_name(std::string(3 - arguments.log.size(), '0') + arguments.log);
    if (!only) {
      return complain(error(StatusCode::kInvalidArgument,
                            "--log " + arguments.log + ": give the name of the log's directory, like 00a"));
    }
  }
  const StatusOr<DataDir> data = DataDir::open(arguments.data_dir);
  if (!data.ok()) return complain(data.status());
  int code = exit_good;
  bool any = false;
  for (const std::uint16_t log : data->logs()) {
    if (only && *only != log) continue;
    any = true;
    if (const int one = dump_log(*data, log, dumper); one != exit_good) code = one;
  }
  if (only && !any) {
    return complain(
        error(StatusCode::kNotFound, data->path_of(spool::log_directory(*only)) + ": there is no such log"));
  }
  if (code == exit_good && dumper.damaged()) code = exit_damage;
  return flushed(out, code);
}

}  // namespace postern::spooltool
