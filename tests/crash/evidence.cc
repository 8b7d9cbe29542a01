#include "tests/crash/evidence.h"

#include <fstream>
#include <sstream>
#include <utility>

#include <nlohmann/json.hpp>

namespace postern::crash {
namespace {

using io::record::Entry;
using What = Entry::What;

}  // namespace

StatusOr<Manifest> read_manifest(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  Manifest made;
  bool first = true;
  try {
    while (std::getline(file, line)) {
      const nlohmann::json json = nlohmann::json::parse(line);
      if (std::exchange(first, false)) {
        made.root = json.at("root");
        made.data = json.at("data");
        made.mail = json.at("mail");
        made.segment_bytes = json.at("segment_bytes");
      } else {
        made.sent.push_back({.sender = json.at("sender"),
                             .recipients = json.at("recipients"),
                             .content = json.at("content"),
                             .queue_id = json.at("queue_id")});
      }
    }
  } catch (const nlohmann::json::exception& wrong) {
    return error(StatusCode::kDataLoss, path + ": " + wrong.what());
  }
  if (made.sent.empty()) return error(StatusCode::kDataLoss, path + ": names no message");
  return made;
}

void Evidence::apply(const Entry& entry) {
  now_ = entry.at;
  if (entry.what == What::closed || entry.what == What::stream_in || entry.what == What::stream_out) {
    lines_.erase(entry.descriptor);
    return;
  }
  if (entry.what != What::said && entry.what != What::heard) return;
  std::string& line = lines_[entry.descriptor];
  for (const char c : as_text(entry.data)) {
    if (c != '\n') {
      line.push_back(c);
      continue;
    }
    if (line.ends_with('\r')) line.pop_back();
    if (entry.what == What::said) {
      on_said(line);
    } else {
      on_heard(line);
    }
    line.clear();
  }
}

void Evidence::on_said(std::string_view line) {
  constexpr std::string_view promise = "250 2.0.0 Ok: queued as ";
  if (line.starts_with(promise)) acknowledged_.emplace(line.substr(promise.size()));
}

void Evidence::on_heard(std::string_view line) {
  constexpr std::string_view kept = "250 2.0.0 Ok: kept ";
  constexpr std::string_view report = "250 2.0.0 Ok: reported ";
  const bool is_report = line.starts_with(report);
  if (!is_report && !line.starts_with(kept)) return;
  std::istringstream words{std::string(line.substr(is_report ? report.size() : kept.size()))};
  std::string id;
  if (is_report) words >> id;
  Taken taken{.recipients = {}, .at = now_};
  for (std::string word; words >> word;) taken.recipients.push_back(word);
  if (!is_report) return taken_.push_back(std::move(taken));
  for (const std::string& recipient : taken.recipients) reported_[recipient].insert(id);
}

}  // namespace postern::crash
