// What a relay uses: CPU, memory, context switches, disk, and system calls where they can be counted. Read from a
// cgroup of its own (v2, else v1) when one could be made, else from /proc for the process and its descendants.
//
// A cgroup counts processes that have ended too; /proc knows them as far as their parents have waited for them. Context
// switches and bytes written come from /proc in any case: those of processes that have ended are missing.
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

// Counts system calls of processes that exist now, their threads and children to come. Needs the tracepoint
// raw_syscalls:sys_enter: root, and a kernel with tracing.
class SystemCallCounter {
 public:
  // kUnavailable says why not.
  [[nodiscard]] static StatusOr<std::unique_ptr<SystemCallCounter>> attach(const std::vector<pid_t>& processes);
  ~SystemCallCounter();
  SystemCallCounter(const SystemCallCounter&) = delete;
  SystemCallCounter& operator=(const SystemCallCounter&) = delete;
  [[nodiscard]] std::uint64_t count() const;

 private:
  SystemCallCounter() = default;
  std::vector<int> events_;
};

}  // namespace postern::bench
