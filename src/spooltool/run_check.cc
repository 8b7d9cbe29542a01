// Shows what check.cc found.
#include <string>

#include "spooltool/check.h"
#include "spooltool/commands.h"
#include "spooltool/text.h"

namespace postern::spooltool {
namespace {

constexpr std::size_t shown_max = 10;  // of each list, to people; JSON has all that was kept

Json damage_json(const Damage& damage) {
  return {{"file", damage.file}, {"offset", damage.offset}, {"bytes", damage.bytes}, {"what", damage.what}};
}

Json log_json(const LogCheck& log) {
  Json json;
  json["log"] = spool::log_directory(log.log).substr(5);
  if (!log.unreadable.empty()) {
    json["unreadable"] = log.unreadable;
    return json;
  }
  json["segments"] = {{"open", log.segments_open},         {"sealed", log.segments_sealed},
                      {"reserved", log.segments_reserved}, {"damaged", log.segments_damaged},
                      {"live", log.segments_live},         {"changed", log.segments_changed},
                      {"set_aside", log.files_set_aside}};
  json["messages"] = log.messages;
  json["recipients"] = {{"waiting", log.recipients_waiting}, {"settled", log.recipients_settled}};
  json["bytes"] = {{"live", log.bytes_live}, {"total", log.bytes_total}, {"torn", log.bytes_torn}};
  json["records"] = log.records;
  json["damage_count"] = log.damage_count;
  json["damage"] = Json::array();
  for (const Damage& damage : log.damage) json["damage"].push_back(damage_json(damage));
  json["hurt_count"] = log.hurt_count;
  json["hurt"] = Json::array();
  for (const mail::QueueId id : log.hurt) json["hurt"].push_back(id.to_string());
  json["alarms"] = log.alarms;
  json["foreign"] = log.foreign;
  return json;
}

void print_log(const LogCheck& log, std::FILE* out) {
  const auto line = [out](const std::string& text) { std::fprintf(out, "%s\n", text.c_str()); };
  const std::string indent = "  ";
  line(spool::log_directory(log.log));
  if (!log.unreadable.empty()) return line(indent + "cannot be read: " + log.unreadable);
  line(indent + "segments    " + std::to_string(log.segments_open) + " open, " + std::to_string(log.segments_sealed) +
       " sealed, " + std::to_string(log.segments_reserved) + " reserved, " + std::to_string(log.segments_damaged) +
       " damaged; " + std::to_string(log.segments_live) + " hold waiting mail");
  line(indent + "messages    " + std::to_string(log.messages) + " waiting");
  line(indent + "recipients  " + std::to_string(log.recipients_waiting) + " waiting, " +
       std::to_string(log.recipients_settled) + " of the same messages settled");
  line(indent + "bytes       " + bytes_text(log.bytes_live) + " live of " + bytes_text(log.bytes_total));
  if (log.bytes_torn != 0) {
    line(indent + "torn tail   " + bytes_text(log.bytes_torn) + ", never acknowledged: no harm");
  }
  if (log.segments_changed != 0) {
    line(indent + "changed     " + count_text(log.segments_changed, "segment was", "segments were") +
         " used again while being read: nothing is said of them");
  }
  for (std::size_t i = 0; i < log.damage.size() && i < shown_max; ++i) {
    const Damage& damage = log.damage[i];
    line(indent + "DAMAGE      " + damage.file + " at offset " + std::to_string(damage.offset) + ": " + damage.what);
  }
  if (log.damage_count > shown_max) {
    line(indent + "DAMAGE      and " + std::to_string(log.damage_count - shown_max) + " more; see --json");
  }
  if (log.hurt_count != 0) {
    std::string text = indent + "HURT        " + count_text(log.hurt_count, "waiting message", "waiting messages") +
                       " cannot be read whole:";
    for (std::size_t i = 0; i < log.hurt.size() && i < shown_max; ++i) text.append(" ").append(log.hurt[i].to_string());
    line(text + (log.hurt_count > shown_max ? " …" : ""));
  }
  for (std::size_t i = 0; i < log.alarms.size() && i < shown_max; ++i) {
    line(indent + "ALARM       at a start posternd would say: " + log.alarms[i]);
  }
  for (std::size_t i = 0; i < log.foreign.size() && i < shown_max; ++i) {
    line(indent + "note        " + log.foreign[i] + " is no segment file; left alone");
  }
}

}  // namespace

int run_check(const CheckArguments& arguments, std::FILE* out) {
  const StatusOr<DataDir> data = DataDir::open(arguments.data_dir);
  if (!data.ok()) return complain(data.status());
  SpoolCheck found;
  {
    Progress progress("segments checked");
    found = check_spool(*data, progress);
  }
  if (arguments.json) {
    Json json;
    json["data_dir"] = found.data_dir;
    json["in_use"] = found.in_use;
    json["sound"] = found.sound();
    json["logs"] = Json::array();
    for (const LogCheck& log : found.logs) json["logs"].push_back(log_json(log));
    json["foreign"] = found.foreign;
    std::fprintf(out, "%s\n", to_line(json).c_str());
  } else {
    if (found.in_use) {
      std::fprintf(out, "%s is in use by a posternd: this is the picture of one moment\n", found.data_dir.c_str());
    }
    for (const LogCheck& log : found.logs) print_log(log, out);
    for (const std::string& name : found.foreign) std::fprintf(out, "note: %s is no log; left alone\n", name.c_str());
    if (found.logs.empty()) std::fprintf(out, "%s: no log in it yet\n", found.data_dir.c_str());
    std::fputs(found.sound() ? "sound\n" : "DAMAGED\n", out);
  }
  // A log that nothing could be read of: by a newer program, or by want of rights.
  for (const LogCheck& log : found.logs) {
    if (!log.unreadable.empty()) return flushed(out, exit_unread);
  }
  return flushed(out, found.sound() ? exit_good : exit_damage);
}

}  // namespace postern::spooltool
