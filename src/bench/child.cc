#include "bench/child.h"

#include <cerrno>
#include <csignal>
#include <ctime>
#include <fcntl.h>
#include <unistd.h>

#include <sys/wait.h>

#include "io/errors.h"

namespace postern::bench {

StatusOr<std::unique_ptr<Child>> Child::start(const std::string& command) {
  std::unique_ptr<Child> child(new Child);
  child->group_ = ControlGroup::make();
  int joined[2] = {-1, -1};
  if (::pipe2(joined, O_CLOEXEC) != 0) return io::errno_status(errno, "pipe");
  const pid_t process = ::fork();
  if (process < 0) {
    ::close(joined[0]);
    ::close(joined[1]);
    return io::errno_status(errno, "fork");
  }
  if (process == 0) {
    ::setpgid(0, 0);
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
    const char in_group = child->group_ != nullptr && child->group_->enter() ? 'y' : 'n';
    if (::write(joined[1], &in_group, 1) != 1) ::_exit(126);
    ::execl("/bin/sh", "sh", "-c", command.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }
  ::close(joined[1]);
  ::setpgid(process, process);  // whoever comes first
  char in_group = 'n';
  while (::read(joined[0], &in_group, 1) < 0 && errno == EINTR) continue;
  ::close(joined[0]);
  child->process_ = process;
  if (in_group != 'y') child->group_.reset();
  return child;
}

Child::~Child() {
  stop();
}

bool Child::running() {
  if (process_ < 0) return false;
  int status = 0;
  const pid_t ended = ::waitpid(process_, &status, WNOHANG);
  if (ended == 0) return true;
  process_ = -1;
  return false;
}

void Child::stop() {
  constexpr timespec pause{.tv_sec = 0, .tv_nsec = 10'000'000};
  constexpr int pauses_max = 1000;
  const pid_t group = process_;
  if (group < 0) return;
  ::kill(-group, SIGTERM);
  for (int i = 0; i < pauses_max && running(); ++i) ::nanosleep(&pause, nullptr);
  // Descendants that outlived the first one, also those with a session of their own.
  ::kill(-group, SIGKILL);
  if (group_ != nullptr) {
    for (const pid_t left : group_->processes()) ::kill(left, SIGKILL);
  }
  if (process_ >= 0) {
    ::waitpid(process_, nullptr, 0);
    process_ = -1;
  }
  // A cgroup can be removed when it is empty.
  for (int i = 0; i < pauses_max && group_ != nullptr && !group_->processes().empty(); ++i)
    ::nanosleep(&pause, nullptr);
}

}  // namespace postern::bench
