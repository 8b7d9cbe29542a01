// What the benchmarks of TLS share: a server, and times of several kinds of work that are done in turn.
#pragma once

#include <algorithm>
#include <cstddef>
#include <ctime>
#include <memory>
#include <utility>
#include <vector>

#include "tests/tls/certificates.h"
#include "tls/server_context.h"

namespace postern::tls {

inline std::shared_ptr<const net::TlsContext> bench_context() {
  ServerContextOptions options;
  options.certificates = {make_certificate({.names = {"mx.example.test"}}).parsed()};
  options.ticket_keys = std::make_shared<const TicketKeys>();
  return *make_server_context(std::move(options));
}

inline double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// The times of one kind of work, round by round.
class Times {
 public:
  template <class Work>
  void time(Work&& work) {
    const double began = thread_seconds();
    work();
    add(thread_seconds() - began);
  }
  void add(double seconds) { seconds_.push_back(seconds); }

  [[nodiscard]] double median_seconds() const { return median(seconds_); }
  // What this took as a multiple of `other`, which had as many rounds, each beside ours: what else the machine did, it
  // did to both.
  [[nodiscard]] double over(const Times& other) const {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < seconds_.size(); ++i) ratios.push_back(seconds_[i] / other.seconds_[i]);
    return median(std::move(ratios));
  }

 private:
  [[nodiscard]] static double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::ranges::nth_element(values, middle);
    return *middle;
  }
  std::vector<double> seconds_;
};

}  // namespace postern::tls
