#include "bench/interrupt.h"

#include <atomic>
#include <csignal>

namespace postern::bench {
namespace {

std::atomic<int> count{0};
static_assert(std::atomic<int>::is_always_lock_free, "it is written by a signal handler");

}  // namespace

void catch_interrupts() {
  struct sigaction action = {};  // without SA_RESTART: the loop's wait shall end
  action.sa_handler = [](int) { count.fetch_add(1, std::memory_order_relaxed); };
  for (const int number : {SIGINT, SIGTERM}) ::sigaction(number, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

int interrupts() {
  return count.load(std::memory_order_relaxed);
}

}  // namespace postern::bench
