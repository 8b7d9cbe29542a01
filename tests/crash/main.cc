// postern-crash: what a crash of a recorded run may have left, and whether anything promised is lost in it.
//
//   postern-crash check TRACE MANIFEST [--images N] [--seed S] [--lie NAME]    tries N images; 1 when one is bad
//   postern-crash try TRACE MANIFEST --only I [--images N] [--seed S] [--lie NAME]   one of them, in this process
//   postern-crash write TRACE MANIFEST --images N --out FOLDER [--seed S]      writes N images for a real posternd
//
// Two images in three are of a moment right behind the end of a durable write, one of any moment. The same seed gives
// the same images.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <sys/wait.h>

#include <postern/base/random.h>

#include "io/record/trace.h"
#include "tests/crash/evidence.h"
#include "tests/crash/history.h"
#include "tests/crash/trial.h"

namespace postern::crash {
namespace {

using io::record::Entry;

constexpr std::pair<std::string_view, Lie> lies[] = {{"none", Lie::none},
                                                     {"lost_write", Lie::lost_write},
                                                     {"late_write", Lie::late_write},
                                                     {"directory_sync", Lie::directory_sync},
                                                     {"file_sync", Lie::file_sync}};
// Real time that one image may take; it takes a tenth of a second or so.
constexpr unsigned patience_s = 60;

struct Arguments {
  std::string command;
  std::string trace;
  std::string manifest;
  std::size_t images = 300;
  std::uint64_t seed = 1;
  Lie lie = Lie::none;
  std::string out{};
  std::optional<std::size_t> only{};
};

int usage() {
  std::fprintf(
      stderr,
      "postern-crash check|try|write TRACE MANIFEST [--images N] [--seed S] [--lie NAME] [--only I] [--out FOLDER]\n");
  return 2;
}

std::optional<Arguments> parse(int count, char** words) {
  if (count < 4 || count % 2 != 0) return std::nullopt;
  Arguments made{.command = words[1], .trace = words[2], .manifest = words[3]};
  for (int i = 4; i < count; i += 2) {
    const std::string_view word = words[i];
    const char* const value = words[i + 1];
    if (word == "--images") {
      made.images = std::strtoull(value, nullptr, 10);
    } else if (word == "--seed") {
      made.seed = std::strtoull(value, nullptr, 10);
    } else if (word == "--only") {
      made.only = std::strtoull(value, nullptr, 10);
    } else if (word == "--out") {
      made.out = value;
    } else if (word == "--lie") {
      const auto* const found =
          std::ranges::find(lies, std::string_view(value), &std::pair<std::string_view, Lie>::first);
      if (found == std::end(lies)) return std::nullopt;
      made.lie = found->second;
    } else {
      return std::nullopt;
    }
  }
  const bool known =
      made.command == "check" || (made.command == "try" && made.only) || (made.command == "write" && !made.out.empty());
  if (!known || made.images == 0) return std::nullopt;
  return made;
}

// How many entries stand before each of the crashes, in ascending order.
std::vector<std::size_t> choose_moments(const std::vector<Entry>& trace, std::size_t images, Random& random) {
  std::vector<std::size_t> borders;
  std::map<std::uint64_t, bool> writes;  // by operation
  for (std::size_t i = 0; i < trace.size(); ++i) {
    if (trace[i].what == Entry::What::write && trace[i].synced) writes[trace[i].operation] = true;
    if (trace[i].what == Entry::What::end && writes.erase(trace[i].operation) > 0) borders.push_back(i + 1);
  }
  std::vector<std::size_t> chosen;
  const std::size_t at_borders = std::min(borders.size(), images * 2 / 3);
  for (std::size_t i = 0; i < at_borders; ++i) chosen.push_back(borders[i * borders.size() / at_borders]);
  while (chosen.size() < images) chosen.push_back(1 + random.below(trace.size()));
  std::ranges::sort(chosen);
  return chosen;
}

// A trial in a process of its own: a bug that stops a process, or never ends, is a verdict like others.
class Apart {
 public:
  // `seed` decides the image too.
  Apart(std::size_t number, std::size_t moment, const History& history, const Manifest& manifest,
        const Evidence& evidence, std::uint64_t seed)
      : number_(number), moment_(moment) {
    std::array<int, 2> ends{};
    if (pipe(ends.data()) != 0) return;
    std::fflush(stdout);
    child_ = fork();
    if (child_ == 0) {
      close(ends[0]);
      alarm(patience_s);
      Random random(seed);
      const Image image = history.image(random);
      tell(ends[1], try_image(image, manifest, evidence, seed));
      std::_Exit(0);  // what the trial left behind is not taken down
    }
    close(ends[1]);
    answer_ = ends[0];
  }
  Apart(Apart&& other) noexcept
      : number_(other.number_),
        moment_(other.moment_),
        child_(other.child_),
        answer_(std::exchange(other.answer_, -1)) {}
  Apart(const Apart&) = delete;
  Apart& operator=(const Apart&) = delete;
  Apart& operator=(Apart&&) = delete;
  ~Apart() {
    if (answer_ >= 0) close(answer_);
  }

  [[nodiscard]] std::size_t number() const { return number_; }
  [[nodiscard]] std::size_t moment() const { return moment_; }

  // Waits for it.
  [[nodiscard]] Verdict verdict() const {
    if (child_ < 0) return {.violations = {"the process could not be made"}};
    std::string text;
    std::array<char, 4096> buffer{};
    for (ssize_t got = 0; (got = read(answer_, buffer.data(), buffer.size())) > 0;) {
      text.append(buffer.data(), static_cast<std::size_t>(got));
    }
    int status = 0;
    waitpid(child_, &status, 0);
    if (WIFSIGNALED(status)) return {.violations = {std::string("the process died: ") + strsignal(WTERMSIG(status))}};
    const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
    if (json.is_discarded()) return {.violations = {"the process died"}};
    return {.violations = json.at("violations"),
            .waiting = json.at("waiting"),
            .delivered = json.at("delivered"),
            .doubled = json.at("doubled")};
  }

 private:
  static void tell(int descriptor, const Verdict& verdict) {
    const std::string text = nlohmann::json{
        {"violations", verdict.violations},
        {"waiting", verdict.waiting},
        {"delivered", verdict.delivered},
        {"doubled",
         verdict.doubled}}.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    for (std::string_view rest = text; !rest.empty();) {
      const ssize_t done = ::write(descriptor, rest.data(), rest.size());
      if (done <= 0) std::_Exit(1);
      rest.remove_prefix(static_cast<std::size_t>(done));
    }
  }

  std::size_t number_;
  std::size_t moment_;
  pid_t child_ = -1;
  int answer_ = -1;
};

// For a real posternd: the files below FOLDER/N/, and FOLDER/N/owed.json: the recipients whose mail must still come, or
// lie in a Maildir; those whose failure must still be reported; and all that a next hop had taken.
void write_image(const Image& image, const Manifest& manifest, const Evidence& evidence, const std::string& folder) {
  namespace fs = std::filesystem;
  const auto place_of = [&](const std::string& path) { return folder + path.substr(manifest.root.size()); };
  fs::create_directories(place_of(manifest.data) + "/logs");
  fs::create_directories(place_of(manifest.mail));
  fs::permissions(place_of(manifest.data), fs::perms::owner_all);
  for (const auto& [path, file] : image) {
    // A Maildir's folders are made from the top: making what is there already may be under way.
    if (!path.starts_with(manifest.root + "/")) continue;
    const std::string place = place_of(path);
    if (!fs::exists(fs::path(place).parent_path())) continue;
    if (file.directory) {
      fs::create_directories(place);
    } else {
      std::ofstream(place, std::ios::binary)
          .write(reinterpret_cast<const char*>(file.bytes.data()), static_cast<std::streamsize>(file.bytes.size()));
    }
  }
  std::set<std::string> taken;
  for (const Evidence::Taken& each : evidence.taken()) taken.insert(each.recipients.begin(), each.recipients.end());
  nlohmann::json owed{{"mail", nlohmann::json::array()}, {"reports", nlohmann::json::array()}, {"taken", taken}};
  for (const Sent& sent : manifest.sent) {
    if (sent.queue_id.empty() || !evidence.acknowledged().contains(sent.queue_id)) continue;
    for (const std::string& recipient : sent.recipients) {
      if (recipient.starts_with("bad")) {
        if (!evidence.reported().contains(recipient)) owed["reports"].push_back(recipient);
      } else if (!taken.contains(recipient)) {
        owed["mail"].push_back(recipient);
      }
    }
  }
  std::ofstream(folder + "/owed.json") << owed.dump();
}

int run(const Arguments& arguments) {
  const StatusOr<std::vector<Entry>> trace = io::record::read_trace(arguments.trace);
  const StatusOr<Manifest> manifest = read_manifest(arguments.manifest);
  for (const Status& status : {trace.status(), manifest.status()}) {
    if (status.ok()) continue;
    std::fprintf(stderr, "%s\n", std::string(message_of(status)).c_str());
    return 2;
  }
  Random random(arguments.seed);
  const std::vector<std::size_t> moments = choose_moments(*trace, arguments.images, random);
  History history(arguments.lie);
  Evidence evidence;
  std::size_t bad = 0;
  std::size_t waiting = 0;
  std::size_t doubled = 0;
  const auto judge = [&](std::size_t number, std::size_t moment, const Verdict& verdict) {
    waiting += verdict.waiting;
    doubled += verdict.doubled;
    if (verdict.violations.empty()) return;
    ++bad;
    std::printf("image %zu, behind entry %zu of %zu, is bad:\n", number, moment, trace->size());
    for (const std::string& violation : verdict.violations) std::printf("  %s\n", violation.c_str());
  };
  std::deque<Apart> apart;
  const auto judge_first = [&] {
    judge(apart.front().number(), apart.front().moment(), apart.front().verdict());
    apart.pop_front();
  };
  const std::size_t at_once = std::max(std::thread::hardware_concurrency(), 1u);
  std::size_t applied = 0;
  for (std::size_t i = 0; i < moments.size(); ++i) {
    for (; applied < moments[i]; ++applied) {
      history.apply((*trace)[applied]);
      evidence.apply((*trace)[applied]);
    }
    const std::uint64_t seed = arguments.seed * 1'000'003 + i;
    if (arguments.only && *arguments.only != i) continue;
    if (arguments.command == "check") {
      if (apart.size() == at_once) judge_first();
      apart.emplace_back(i, applied, history, *manifest, evidence, seed);
      continue;
    }
    Random image_random(seed);
    const Image image = history.image(image_random);
    if (arguments.command == "write") {
      write_image(image, *manifest, evidence, arguments.out + "/" + std::to_string(i));
    } else {
      judge(i, applied, try_image(image, *manifest, evidence, seed));
    }
  }
  while (!apart.empty()) judge_first();
  std::printf(
      "{\"entries\": %zu, \"durable_writes\": %llu, \"acknowledged\": %zu, \"taken\": %zu, \"reported\": %zu, "
      "\"images\": %zu, \"waiting\": %zu, \"doubled\": %zu, \"bad\": %zu}\n",
      trace->size(), static_cast<unsigned long long>(history.durable_writes()), evidence.acknowledged().size(),
      evidence.taken().size(), evidence.reported().size(), moments.size(), waiting, doubled, bad);
  std::fflush(stdout);
  std::_Exit(bad == 0 ? 0 : 1);  // what a trial in this process left behind is not taken down
}

}  // namespace
}  // namespace postern::crash

int main(int count, char** words) {
  const auto arguments = postern::crash::parse(count, words);
  return arguments ? postern::crash::run(*arguments) : postern::crash::usage();
}
