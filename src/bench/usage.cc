#include "bench/usage.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string_view>
#include <unistd.h>
#include <utility>

#include <linux/perf_event.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#include <postern/base/text.h>

#include "io/errors.h"

namespace postern::bench {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) return std::nullopt;
  return std::move(text).str();
}

// The number behind `name` in lines of "name number", "name: number" or "name:\tnumber kB".
std::optional<std::uint64_t> field(const std::string& text, std::string_view name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::string_view rest = line;
    if (!rest.starts_with(name)) continue;
    rest.remove_prefix(name.size());
    if (rest.empty() || (rest.front() != ':' && rest.front() != ' ')) continue;
    rest = trim(rest.substr(1));
    return parse_uint<std::uint64_t>(rest.substr(0, rest.find_first_of(" \t")));
  }
  return std::nullopt;
}

std::vector<std::string> words_of(std::string_view text) {
  std::istringstream stream{std::string(text)};
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::uint64_t number(const std::vector<std::string>& words, std::size_t index) {
  return index < words.size() ? parse_uint<std::uint64_t>(words[index]).value_or(0) : 0;
}

std::string process_file(pid_t process, std::string_view name) {
  return "/proc/" + std::to_string(process) + "/" + std::string(name);
}

// Fields of /proc/PID/stat behind the command's name; [0] is the state, field 3 of proc(5).
std::vector<std::string> stat_of(pid_t process) {
  const std::optional<std::string> text = read_file(process_file(process, "stat"));
  const std::size_t end = text ? text->rfind(')') : std::string::npos;
  return end == std::string::npos ? std::vector<std::string>() : words_of(std::string_view(*text).substr(end + 1));
}

struct Mounts {
  std::string unified;  // cgroup v2
  std::string cpu;      // v1, controller cpuacct
  std::string memory;   // v1
};

Mounts cgroup_mounts() {
  Mounts found;
  std::ifstream file("/proc/self/mounts");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = words_of(line);
    if (words.size() < 4) continue;
    const std::string options = "," + words[3] + ",";
    if (words[2] == "cgroup2" && found.unified.empty()) found.unified = words[1];
    if (words[2] == "cgroup" && options.find(",cpuacct,") != std::string::npos) found.cpu = words[1];
    if (words[2] == "cgroup" && options.find(",memory,") != std::string::npos) found.memory = words[1];
  }
  return found;
}

// A new group in that hierarchy; "" when it cannot be made. Never one that is there: in another process namespace the
// same id is somebody else's, and his relay's CPU would be counted as ours.
std::string make_group(const std::string& mount) {
  constexpr int tries = 16;
  if (mount.empty()) return {};
  const std::string base = mount + "/postern-bench." + std::to_string(::getpid());
  for (int i = 0; i < tries; ++i) {
    const std::string folder = i == 0 ? base : base + "." + std::to_string(i);
    if (::mkdir(folder.c_str(), 0755) == 0) return folder;
    if (errno != EEXIST) break;
  }
  return {};
}

// A process that was killed leaves its group a moment after the group's list of processes has no more of it.
void remove_group(const std::string& folder) {
  constexpr timespec pause{.tv_sec = 0, .tv_nsec = 10'000'000};
  constexpr int pauses_max = 200;
  if (folder.empty()) return;
  for (int i = 0; i < pauses_max && ::rmdir(folder.c_str()) != 0 && errno == EBUSY; ++i) ::nanosleep(&pause, nullptr);
}

}  // namespace

// --- cgroups ---------------------------------------------------------------------------------------------------------

std::unique_ptr<ControlGroup> ControlGroup::make() {
  const Mounts mounts = cgroup_mounts();
  std::unique_ptr<ControlGroup> made(new ControlGroup);
  made->cpu_folder_ = make_group(mounts.unified);
  if (!made->cpu_folder_.empty() && read_file(made->cpu_folder_ + "/cpu.stat")) {
    // Both hierarchies may be there at once, each with some of the controllers.
    made->memory_folder_ =
        read_file(made->cpu_folder_ + "/memory.peak") ? made->cpu_folder_ : make_group(mounts.memory);
    return made;
  }
  if (!made->cpu_folder_.empty()) ::rmdir(made->cpu_folder_.c_str());
  made->version_ = 1;
  made->cpu_folder_ = make_group(mounts.cpu);
  if (made->cpu_folder_.empty()) return nullptr;
  made->memory_folder_ = make_group(mounts.memory);
  return made;
}

ControlGroup::~ControlGroup() {
  if (memory_folder_ != cpu_folder_) remove_group(memory_folder_);
  remove_group(cpu_folder_);
}

bool ControlGroup::enter() const {
  for (const std::string* folder : {&cpu_folder_, &memory_folder_}) {
    if (folder->empty() || (folder == &memory_folder_ && *folder == cpu_folder_)) continue;
    const int descriptor = ::open((*folder + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC);
    if (descriptor < 0) return false;
    const bool moved = ::write(descriptor, "0", 1) == 1;
    ::close(descriptor);
    if (!moved) return false;
  }
  return true;
}

std::optional<Usage> ControlGroup::cpu() const {
  Usage usage;
  if (version_ == 2) {
    const std::optional<std::string> text = read_file(cpu_folder_ + "/cpu.stat");
    if (!text) return std::nullopt;
    const auto all = field(*text, "usage_usec");
    if (!all) return std::nullopt;
    usage.cpu_us = static_cast<double>(*all);
    usage.user_us = static_cast<double>(field(*text, "user_usec").value_or(0));
    usage.system_us = static_cast<double>(field(*text, "system_usec").value_or(0));
    return usage;
  }
  const auto nanoseconds = [this](const char* file) {
    const std::optional<std::string> text = read_file(cpu_folder_ + file);
    return text ? parse_uint<std::uint64_t>(trim(std::string_view(*text).substr(0, text->find('\n')))) : std::nullopt;
  };
  const auto all = nanoseconds("/cpuacct.usage");
  if (!all) return std::nullopt;
  usage.cpu_us = static_cast<double>(*all) / 1e3;
  usage.user_us = static_cast<double>(nanoseconds("/cpuacct.usage_user").value_or(0)) / 1e3;
  usage.system_us = static_cast<double>(nanoseconds("/cpuacct.usage_sys").value_or(0)) / 1e3;
  return usage;
}

std::optional<std::uint64_t> ControlGroup::peak_memory_bytes() const {
  if (memory_folder_.empty()) return std::nullopt;
  for (const char* file : {"/memory.peak", "/memory.max_usage_in_bytes"}) {
    if (const std::optional<std::string> text = read_file(memory_folder_ + file)) {
      return parse_uint<std::uint64_t>(std::string_view(*text).substr(0, text->find('\n')));
    }
  }
  return std::nullopt;
}

std::optional<std::uint64_t> ControlGroup::anonymous_memory_bytes() const {
  if (memory_folder_.empty()) return std::nullopt;
  const std::optional<std::string> text = read_file(memory_folder_ + "/memory.stat");
  if (!text) return std::nullopt;
  const std::optional<std::uint64_t> unified = field(*text, "anon");
  return unified ? unified : field(*text, "rss");  // v1
}

std::vector<pid_t> ControlGroup::processes() const {
  std::vector<pid_t> found;
  for (const std::string& word : words_of(read_file(cpu_folder_ + "/cgroup.procs").value_or(""))) {
    if (const auto process = parse_uint<std::uint32_t>(word)) found.push_back(static_cast<pid_t>(*process));
  }
  return found;
}

// --- /proc -----------------------------------------------------------------------------------------------------------

std::vector<pid_t> process_tree(pid_t root) {
  struct Pair {
    pid_t process, parent;
  };
  std::vector<Pair> all;
  std::error_code trouble;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc", trouble)) {
    const auto process = parse_uint<std::uint32_t>(entry.path().filename().native());
    if (!process) continue;
    const std::vector<std::string> stat = stat_of(static_cast<pid_t>(*process));
    if (stat.size() > 1 && stat[0] != "Z")
      all.push_back({static_cast<pid_t>(*process), static_cast<pid_t>(number(stat, 1))});
  }
  std::vector<pid_t> tree;
  if (std::ranges::find(all, root, &Pair::process) != all.end()) tree.push_back(root);
  for (std::size_t i = 0; i < tree.size(); ++i) {
    for (const Pair& pair : all) {
      if (pair.parent == tree[i] && std::ranges::find(tree, pair.process) == tree.end()) tree.push_back(pair.process);
    }
  }
  return tree;
}

Usage usage_of(const std::vector<pid_t>& processes) {
  Usage usage;
  const double tick_us = 1e6 / static_cast<double>(::sysconf(_SC_CLK_TCK));
  for (const pid_t process : processes) {
    const std::vector<std::string> stat = stat_of(process);
    // utime, stime and, of children waited for, cutime, cstime: fields 14 to 17.
    const double user_us = static_cast<double>(number(stat, 11) + number(stat, 13)) * tick_us;
    const double system_us = static_cast<double>(number(stat, 12) + number(stat, 14)) * tick_us;
    usage.user_us += user_us;
    usage.system_us += system_us;
    // Ticks are coarse; the scheduler's own sum, in ns, is not, but knows living threads only.
    double scheduled_us = 0;
    std::error_code trouble;
    for (const fs::directory_entry& thread : fs::directory_iterator(process_file(process, "task"), trouble)) {
      const std::string folder = thread.path().native();
      scheduled_us += static_cast<double>(number(words_of(read_file(folder + "/schedstat").value_or("")), 0)) / 1e3;
      const std::string status = read_file(folder + "/status").value_or("");
      usage.context_switches += field(status, "voluntary_ctxt_switches").value_or(0) +
                                field(status, "nonvoluntary_ctxt_switches").value_or(0);
    }
    usage.cpu_us += std::max(scheduled_us, user_us + system_us - 2 * tick_us);
    if (const std::optional<std::string> io = read_file(process_file(process, "io"))) {
      if (const auto bytes = field(*io, "write_bytes")) {
        usage.disk_bytes_written = usage.disk_bytes_written.value_or(0) + *bytes;
      }
    }
  }
  return usage;
}

std::uint64_t peak_memory_of(const std::vector<pid_t>& processes) {
  std::uint64_t kib = 0;
  for (const pid_t process : processes) {
    kib += field(read_file(process_file(process, "status")).value_or(""), "VmHWM").value_or(0);
  }
  return kib * 1024;
}

// --- disks -----------------------------------------------------------------------------------------------------------

StatusOr<std::string> device_of(const std::string& folder) {
  struct stat found{};
  if (::stat(folder.c_str(), &found) != 0) return io::errno_status(errno, folder);
  const std::string device = std::to_string(major(found.st_dev)) + ":" + std::to_string(minor(found.st_dev));
  std::ifstream file("/proc/diskstats");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = words_of(line);
    if (words.size() > 13 && words[0] + ":" + words[1] == device) return words[2];
  }
  return error(StatusCode::kNotFound, folder + " is on no block device that /proc/diskstats knows");
}

StatusOr<Disk> disk_of(const std::string& device) {
  constexpr std::uint64_t sector_bytes = 512;  // of diskstats, whatever the device has
  std::ifstream file("/proc/diskstats");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> words = words_of(line);
    if (words.size() < 14 || words[2] != device) continue;
    // Fields 5, 7 and 16 of the kernel's iostats page, behind three of names.
    return Disk{
        .writes = number(words, 7), .bytes_written = number(words, 9) * sector_bytes, .flushes = number(words, 18)};
  }
  return error(StatusCode::kNotFound, "no device " + device);
}

// --- events ----------------------------------------------------------------------------------------------------------

namespace {

StatusOr<perf_event_attr> attributes_of(EventCounter::Event event) {
  perf_event_attr made{};
  made.size = sizeof made;
  made.inherit = 1;
  if (event == EventCounter::Event::context_switches) {
    made.type = PERF_TYPE_SOFTWARE;
    made.config = PERF_COUNT_SW_CONTEXT_SWITCHES;
    return made;
  }
  for (const char* root : {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"}) {
    const auto text = read_file(std::string(root) + "/events/raw_syscalls/sys_enter/id");
    const auto id =
        text ? parse_uint<std::uint64_t>(trim(std::string_view(*text).substr(0, text->find('\n')))) : std::nullopt;
    if (!id) continue;
    made.type = PERF_TYPE_TRACEPOINT;
    made.config = *id;
    return made;
  }
  return error(StatusCode::kUnavailable,
               "no tracepoint raw_syscalls:sys_enter (root, a kernel with tracing and a mounted tracefs have it)");
}

}  // namespace

StatusOr<std::unique_ptr<EventCounter>> EventCounter::attach(Event event, const std::vector<pid_t>& processes) {
  StatusOr<perf_event_attr> attributes = attributes_of(event);
  if (!attributes.ok()) return attributes.status();
  std::unique_ptr<EventCounter> made(new EventCounter);
  for (const pid_t process : processes) {
    std::error_code trouble;
    for (const fs::directory_entry& entry : fs::directory_iterator(process_file(process, "task"), trouble)) {
      const auto thread = parse_uint<std::uint32_t>(entry.path().filename().native());
      if (!thread) continue;
      const long opened =
          ::syscall(SYS_perf_event_open, &*attributes, static_cast<pid_t>(*thread), -1, -1, PERF_FLAG_FD_CLOEXEC);
      if (opened < 0 && errno != ESRCH) {
        return error(StatusCode::kUnavailable, std::string("perf_event_open: ") + std::strerror(errno));
      }
      if (opened >= 0) made->events_.push_back(static_cast<int>(opened));
    }
  }
  return made;
}

EventCounter::~EventCounter() {
  for (const int event : events_) ::close(event);
}

std::uint64_t EventCounter::count() const {
  std::uint64_t sum = 0;
  for (const int event : events_) {
    std::uint64_t value = 0;
    if (::read(event, &value, sizeof value) == sizeof value) sum += value;
  }
  return sum;
}

}  // namespace postern::bench
