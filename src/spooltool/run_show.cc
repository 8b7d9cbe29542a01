// One waiting message: where it lies, its envelope and the state of each recipient, and the header of its content.
#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include <postern/base/text.h>
#include <postern/smtp/content_converter.h>

#include "spooltool/commands.h"
#include "spooltool/log_image.h"
#include "spooltool/text.h"

namespace postern::spooltool {
namespace {

// In a spool in use a message may be rewritten elsewhere between the look at the index and the look at the record.
constexpr int tries_max = 3;
constexpr std::size_t header_bytes_max = 64u << 10;
constexpr std::size_t line_bytes_max = 1000;

// The header section's lines, without line ends and dot-stuffing; at most `max` of them.
std::vector<std::string> header_lines(std::string_view content, const mail::ContentFacts& facts, std::size_t max) {
  const std::size_t size =
      static_cast<std::size_t>(std::min<std::uint64_t>({facts.header_bytes, content.size(), header_bytes_max}));
  using Kind = smtp::ContentConverter::Kind;
  smtp::ContentConverter converter(facts.form == mail::ContentForm::dot_stuffed ? Kind::stuffed_to_lf
                                                                                : Kind::plain_to_lf);
  std::string text;
  converter.append(as_bytes(content.substr(0, size)), text);
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size() && lines.size() < max;) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

struct Shown {
  Json json;
  std::string text;
};

StatusOr<Shown> look(LogImage& image, const LogImage::Place& place, unsigned lines) {
  const StatusOr<spool::MessageView> view = image.read_message(*place.segment, *place.entry);
  if (!view.ok()) return view.status();
  mail::Envelope envelope;
  if (const Status status = envelope.decode(view->envelope); !status.ok()) {
    return error(StatusCode::kDataLoss, view->id.to_string() + ": " + std::string(message_of(status)));
  }
  const std::vector<RecipientFacts> recipients = image.read_recipients(*place.segment, *place.entry);
  // Where content is in chunks the header is in the first.
  std::string content(as_text(view->content));
  std::string unreadable;
  if (!view->extents.empty()) {
    const StatusOr<Bytes> first = image.read_chunk(view->extents[0], 0);
    content = first.ok() ? as_text(*first) : std::string_view();
    if (!first.ok()) unreadable = message_of(first.status());
  }
  const std::vector<std::string> header = header_lines(content, view->facts, lines);
  const std::uint64_t offset = std::uint64_t{place.entry->units} * spool::record_alignment;

  Shown shown;
  Json& json = shown.json;
  json["queue_id"] = view->id.to_string();
  add_envelope(json, envelope, recipients);
  json["content_bytes"] = view->facts.size;
  json["form"] = form_text(view->facts.form);
  json["file"] = image.path_of(*place.segment);
  json["segment"] = place.segment->sequence;
  json["offset"] = offset;
  json["record_bytes"] = place.entry->bytes;
  json["chunks"] = Json::array();
  for (std::size_t i = 0; i < view->extents.size(); ++i) {
    const spool::Extent extent = view->extents[i];
    json["chunks"].push_back({{"segment", spool::sequence_of(extent.position)},
                              {"offset", spool::offset_of(extent.position)},
                              {"bytes", extent.bytes}});
  }
  json["added_fields"] = as_text(view->added_fields);
  json["header"] = header;
  if (!unreadable.empty()) json["unreadable"] = unreadable;

  std::string& text = shown.text;
  const auto line = [&text](std::string_view name, std::string_view value) {
    text += name;
    text.append(name.size() < 12 ? 12 - name.size() : 1, ' ');
    text += value;
    text += '\n';
  };
  line("message", view->id.to_string());
  std::string received =
      time_text(envelope.head.received_at) + " by " + std::string(protocol_text(envelope.head.protocol));
  if (!envelope.client_address().empty()) {
    received += fmt::format(" from {} ({})", log_escaped(envelope.client_address()), log_escaped(envelope.helo_name()));
  }
  line("received", received);
  line("from", fmt::format("<{}>", log_escaped(envelope.reverse_path().text)));
  if (const std::string wishes = wishes_text(envelope.head); !wishes.empty()) line("asks for", wishes);
  line("content", std::to_string(view->facts.size) + " bytes, " + std::string(form_text(view->facts.form)) +
                      (view->extents.empty()
                           ? std::string()
                           : fmt::format(", most of it in {}", count_text(view->extents.size(), "chunk", "chunks"))));
  line("lies in", image.path_of(*place.segment) + " at offset " + std::to_string(offset) + " (segment " +
                      std::to_string(place.segment->sequence) + ")");
  for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
    std::string to = fmt::format("<{}> ", log_escaped(envelope.recipient(i).forward_path.text));
    const RecipientFacts facts = i < recipients.size() ? recipients[i] : RecipientFacts{};
    to += to_text(facts.state);
    if (facts.tried) {
      to += fmt::format(", {}, next due {}, last reply: {}", count_text(facts.retry.attempts, "attempt", "attempts"),
                        time_text(facts.retry.due), facts.retry.last_reply.to_log_text());
      if (facts.retry.warned) to += ", no (further) notice of delay";
    } else if (facts.state == RecipientState::waiting) {
      to += ", no attempt recorded";
    }
    line("to", to);
  }
  if (!unreadable.empty()) line("unreadable", unreadable);
  text += '\n';
  for (const std::string& one : header) text += log_escaped(one, line_bytes_max) + "\n";
  return shown;
}

}  // namespace

int run_show(const ShowArguments& arguments, std::FILE* out) {
  const auto id = mail::QueueId::parse(arguments.queue_id);
  if (!id) {
    return complain(error(StatusCode::kInvalidArgument,
                          fmt::format("\"{}\" is no queue id: 13 characters, as in the 250 and in the event log",
                                      log_escaped(arguments.queue_id, 64))));
  }
  const StatusOr<DataDir> data = DataDir::open(arguments.data_dir);
  if (!data.ok()) return complain(data.status());
  const auto log = static_cast<std::uint16_t>(id->log());
  const bool known = std::find(data->logs().begin(), data->logs().end(), log) != data->logs().end();
  for (int attempt = 1; known; ++attempt) {
    const bool in_use = data->in_use();
    const StatusOr<std::unique_ptr<LogImage>> image = LogImage::read(*data, log, in_use);
    if (!image.ok()) return complain(image.status());
    const LogImage::Place place = (*image)->find(*id);
    if (place.entry == nullptr) {
      if (!(*image)->report().alarms.empty()) {
        std::fputs("postern-spool: the log is damaged, and the message may have been where it is: see `check`\n",
                   stderr);
      }
      break;
    }
    const StatusOr<Shown> shown = look(**image, place, arguments.lines);
    if (shown.ok()) {
      std::fputs((arguments.json ? to_line(shown->json) + "\n" : shown->text).c_str(), out);
      return flushed(out, shown->json.contains("unreadable") ? exit_damage : exit_good);
    }
    if (!in_use || attempt == tries_max || (*image)->still_there(*place.segment)) {
      return complain(error(StatusCode::kDataLoss, message_of(shown.status())));
    }
  }
  std::fprintf(stderr,
               "postern-spool: no message %s waits in %s: it was delivered or failed, or is in another spool; "
               "posternd's event log has its end\n",
               id->to_string().c_str(), data->path().c_str());
  return exit_no_such;
}

}  // namespace postern::spooltool
