// The relay as a command of ours: started in a process group (and cgroup) of its own, ended with SIGTERM, and with
// SIGKILL when that does not help.
#pragma once

#include <memory>
#include <string>

#include <sys/types.h>

#include <postern/base/status.h>
#include <postern/base/time.h>

#include "bench/usage.h"

namespace postern::bench {

class Child {
 public:
  // By `sh -c`. Its standard output becomes our standard error: ours is for the report.
  [[nodiscard]] static StatusOr<std::unique_ptr<Child>> start(const std::string& command);
  ~Child();  // stop()
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  [[nodiscard]] pid_t process() const { return process_; }
  // nullptr: it has none of its own.
  [[nodiscard]] const ControlGroup* control_group() const { return group_.get(); }
  [[nodiscard]] bool running();
  // SIGTERM to all of its group, up to 10 s of patience, SIGKILL.
  void stop();

 private:
  Child() = default;
  pid_t process_ = -1;
  std::unique_ptr<ControlGroup> group_;
};

}  // namespace postern::bench
