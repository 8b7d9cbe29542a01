#include "tests/sim/isolated.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <poll.h>
#include <unistd.h>
#include <vector>

#include <sys/wait.h>

#include <postern/base/check.h>

namespace postern::sim {
namespace {

void write_all(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

// What the child says: the outcome without its violations as bytes, then those, a line each.
struct Report {
  std::uint64_t hash;
  std::uint64_t lines;
  std::uint32_t crashes;
  double simulated_seconds;
  Oracle::Counts counts;
};

[[noreturn]] void child(const Scenario& scenario, int results, int words) {
  dup2(words, STDERR_FILENO);
  const Outcome outcome = run(scenario);
  const Report report{.hash = outcome.hash,
                      .lines = outcome.lines,
                      .crashes = outcome.crashes,
                      .simulated_seconds = outcome.simulated_seconds,
                      .counts = outcome.counts};
  write_all(results, {reinterpret_cast<const char*>(&report), sizeof report});
  for (const std::string& violation : outcome.violations) write_all(results, violation + "\n");
  _exit(0);  // without destructors: what a crash left behind is not taken down
}

// Reads both pipes to their ends; false: the patience is over.
bool read_all(int results, int words, std::string& report, std::string& said) {
  const auto give_up = std::chrono::steady_clock::now() + run_patience;
  std::vector<pollfd> open{{results, POLLIN, 0}, {words, POLLIN, 0}};
  while (open[0].fd >= 0 || open[1].fd >= 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(give_up - std::chrono::steady_clock::now());
    if (left.count() <= 0 || poll(open.data(), open.size(), static_cast<int>(left.count())) <= 0) return false;
    for (std::size_t i = 0; i < open.size(); ++i) {
      if (open[i].fd < 0 || open[i].revents == 0) continue;
      char buffer[4096];
      const ssize_t size = read(open[i].fd, buffer, sizeof buffer);
      if (size > 0) {
        (i == 0 ? report : said).append(buffer, static_cast<std::size_t>(size));
      } else {
        open[i].fd = -1;
      }
    }
  }
  return true;
}

}  // namespace

Verdict run_isolated(const Scenario& scenario) {
  int results[2];
  int words[2];
  POSTERN_CHECK(pipe(results) == 0 && pipe(words) == 0, "a pipe");
  std::fflush(nullptr);
  const pid_t pid = fork();
  POSTERN_CHECK(pid >= 0, "a process");
  if (pid == 0) {
    close(results[0]);
    close(words[0]);
    child(scenario, results[1], words[1]);
  }
  close(results[1]);
  close(words[1]);
  std::string report;
  Verdict verdict;
  const bool in_time = read_all(results[0], words[0], report, verdict.text);
  close(results[0]);
  close(words[0]);
  if (!in_time) {
    kill(pid, SIGKILL);
    verdict.text += "no end within a minute of real time\n";
  }
  int status = 0;
  waitpid(pid, &status, 0);
  if (!in_time) return verdict;
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0 || report.size() < sizeof(Report)) {
    verdict.text += WIFSIGNALED(status) ? std::string("the process died: ") + strsignal(WTERMSIG(status)) + "\n"
                                        : "the process ended early\n";
    return verdict;
  }
  Report head{};
  std::memcpy(&head, report.data(), sizeof head);
  verdict.hash = head.hash;
  verdict.outcome.hash = head.hash;
  verdict.outcome.lines = head.lines;
  verdict.outcome.crashes = head.crashes;
  verdict.outcome.simulated_seconds = head.simulated_seconds;
  verdict.outcome.counts = head.counts;
  verdict.text = report.substr(sizeof head);
  verdict.good = verdict.text.empty();
  return verdict;
}

Scenario shrink(Scenario failing, unsigned runs_max) {
  unsigned runs = 0;
  for (bool smaller = true; smaller;) {
    smaller = false;
    for (const Scenario& simpler : failing.simpler()) {
      if (runs++ >= runs_max) return failing;
      if (run_isolated(simpler).good) continue;
      failing = simpler;
      smaller = true;
      break;
    }
  }
  return failing;
}

}  // namespace postern::sim
