// What a run has to say, as JSON and as lines for people. Both show the same numbers under the same names.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "bench/histogram.h"
#include "bench/ledger.h"
#include "bench/sink.h"
#include "bench/source.h"

namespace postern::bench {

using Json = nlohmann::ordered_json;

// Version, kernel, CPUs, load and time: what a figure cannot be compared without.
[[nodiscard]] Json surroundings();
// count, p50, p90, p99, p99.9, max and mean, in milliseconds.
[[nodiscard]] Json milliseconds(const Histogram& histogram);
[[nodiscard]] Json to_json(const Source& source, const SourceOptions& options);
[[nodiscard]] Json to_json(const Sink::Counts& counts);
[[nodiscard]] Json to_json(const Ledger::Counts& counts);
[[nodiscard]] double per(double amount, double count);  // 0 when count is

// CPU of this process since start().
class OwnUsage {
 public:
  void start();
  [[nodiscard]] double cpu_us() const;  // user and system, all threads

 private:
  [[nodiscard]] static double now_us();
  double began_us_ = 0;
};

// One line a value; a small object of plain values is one line too.
[[nodiscard]] std::string to_text(const Json& report);
void print(const Json& report, bool as_json);  // to stdout

}  // namespace postern::bench
