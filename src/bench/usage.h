// What a relay uses: CPU, memory, context switches, disk, and system calls where they can be counted. Read from a
// cgroup of its own (v2, else v1) when one could be made, else from /proc for the process and its descendants.
//
// A cgroup counts processes that have ended too; /proc knows them as far as their parents have waited for them. Context
// switches are counted by EventCounter where that is allowed, since some relays fork a process for each message; those
// of Usage, and bytes written in any case, come from /proc: of processes that have ended they miss all.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include <postern/base/status.h>

namespace postern::bench {

struct Usage {
  double cpu_us = 0;
  double user_us = 0;
  double system_us = 0;
  std::uint64_t context_switches = 0;
  std::optional<std::uint64_t> system_calls;
  std::optional<std::uint64_t> disk_bytes_written;  // that the processes caused, from /proc/PID/io
};

// One block device, the whole of it whoever writes.
struct Disk {
  std::uint64_t writes = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t flushes = 0;
};

// A cgroup made for one command, removed with this.
class ControlGroup {
 public:
  // nullptr: none can be made here (no permission, no such hierarchy).
  [[nodiscard]] static std::unique_ptr<ControlGroup> make();
  ~ControlGroup();
  ControlGroup(const ControlGroup&) = delete;
  ControlGroup& operator=(const ControlGroup&) = delete;

  // Moves the calling process; for a child before it executes. Only system calls.
  [[nodiscard]] bool enter() const;
  [[nodiscard]] std::string_view name() const { return version_ == 2 ? "cgroup v2" : "cgroup v1"; }
  // CPU only; nullopt when it cannot be read.
  [[nodiscard]] std::optional<Usage> cpu() const;
  [[nodiscard]] std::optional<std::uint64_t> peak_memory_bytes() const;
  // What processes hold of memory now, without files in the page cache: those of a queue would be most of it.
  [[nodiscard]] std::optional<std::uint64_t> anonymous_memory_bytes() const;
  // All processes in it.
  [[nodiscard]] std::vector<pid_t> processes() const;

 private:
  ControlGroup() = default;
  int version_ = 2;
  std::string cpu_folder_;     // v2: the one folder
  std::string memory_folder_;  // empty: no such controller
};

// The process and its descendants that live now.
[[nodiscard]] std::vector<pid_t> process_tree(pid_t root);
// CPU with that of children waited for, context switches of all threads, bytes written, summed.
[[nodiscard]] Usage usage_of(const std::vector<pid_t>& processes);
// Sum of each one's peak of resident memory.
[[nodiscard]] std::uint64_t peak_memory_of(const std::vector<pid_t>& processes);

// The device that holds a folder; kNotFound for a file system without one (tmpfs, overlay, network).
[[nodiscard]] StatusOr<std::string> device_of(const std::string& folder);
[[nodiscard]] StatusOr<Disk> disk_of(const std::string& device);

// Counts one kind of event in processes that exist now, their threads and children to come, by perf_event_open(2).
class EventCounter {
 public:
  enum class Event : std::uint8_t {
    system_calls,      // needs the tracepoint raw_syscalls:sys_enter: root, and a kernel with tracing
    context_switches,  // needs root, or kernel.perf_event_paranoid of 1 or less
  };
  // kUnavailable says why not.
  [[nodiscard]] static StatusOr<std::unique_ptr<EventCounter>> attach(Event event, const std::vector<pid_t>& processes);
  ~EventCounter();
  EventCounter(const EventCounter&) = delete;
  EventCounter& operator=(const EventCounter&) = delete;
  [[nodiscard]] std::uint64_t count() const;

 private:
  EventCounter() = default;
  std::vector<int> events_;
};

}  // namespace postern::bench
