#include "bench/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string_view>
#include <thread>

#include <sys/resource.h>
#include <sys/utsname.h>

#include <postern/base/date.h>
#include <postern/base/text.h>

#include "bench/drive.h"

namespace postern::bench {
namespace {

// Three decimals are enough for everything here, and keep reports readable.
double rounded(double value) {
  return std::round(value * 1000) / 1000;
}

double seconds_between(Instant begin, Instant end) {
  return std::chrono::duration<double>(end - begin).count();
}

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (line.starts_with("model name") && colon != std::string::npos) {
      return std::string(trim(std::string_view(line).substr(colon + 1)));
    }
  }
  return "unknown";
}

void append_number(std::string& out, const Json& value) {
  if (value.is_number_float()) {
    const double number = value.get<double>();
    char text[64];
    std::snprintf(text, sizeof text, std::abs(number) >= 1000 ? "%.0f" : "%.4g", number);
    out += text;
  } else if (value.is_string()) {
    out += value.get<std::string>();
  } else if (value.is_null()) {
    out += "-";
  } else {
    out += value.dump();
  }
}

void append_lines(std::string& out, const Json& report, const std::string& indent) {
  constexpr std::size_t name_width = 34;
  constexpr std::size_t one_line_max = 8;
  for (const auto& [name, value] : report.items()) {
    std::string line = indent + name;
    const bool nested =
        value.is_object() && (value.size() > one_line_max || std::ranges::any_of(value, &Json::is_object));
    if (nested) {
      out += line + "\n";
      append_lines(out, value, indent + "  ");
      continue;
    }
    line.resize(std::max(line.size() + 1, name_width), ' ');
    if (value.is_object()) {
      for (const auto& [part, number] : value.items()) {
        line += part + " ";
        append_number(line, number);
        line += "  ";
      }
    } else {
      append_number(line, value);
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
}

}  // namespace

double per(double amount, double count) {
  return count > 0 ? rounded(amount / count) : 0;
}

Json surroundings() {
  utsname kernel{};
  ::uname(&kernel);
  double load[1] = {0};
  (void)::getloadavg(load, 1);
  return {{"postern_bench", POSTERN_VERSION}, {"kernel", kernel.release}, {"cpus", std::thread::hardware_concurrency()},
          {"processor", processor()},         {"load", rounded(load[0])}, {"time", format_rfc3339(wall_now())}};
}

Json milliseconds(const Histogram& histogram) {
  const auto of = [](Duration value) { return rounded(std::chrono::duration<double, std::milli>(value).count()); };
  return {{"count", histogram.count()},
          {"p50", of(histogram.quantile(0.5))},
          {"p90", of(histogram.quantile(0.9))},
          {"p99", of(histogram.quantile(0.99))},
          {"p99.9", of(histogram.quantile(0.999))},
          {"max", of(histogram.max())},
          {"mean", of(histogram.mean())}};
}

Json to_json(const Source& source, const SourceOptions& options) {
  const Source::Counts& counts = source.counts();
  const double seconds = seconds_between(source.began_at(), source.last_reply_at());
  Json replies = Json::object();
  for (const auto& [code, count] : source.replies()) replies[code == 0 ? "none" : std::to_string(code)] = count;
  Json made{{"accepted", counts.accepted},
            {"refused", counts.refused},
            {"unanswered", counts.begun - counts.accepted - counts.refused},
            {"recipients_accepted", counts.recipients_accepted},
            {"bytes", counts.bytes},
            {"seconds", rounded(seconds)},
            {"accepted_per_second", per(static_cast<double>(counts.accepted), seconds)},
            {"latency_ms", milliseconds(source.latency())}};
  if (options.rate > 0) {
    made["service_time_ms"] = milliseconds(source.service_time());
    made["rate_asked"] = options.rate;
  }
  made["replies"] = std::move(replies);
  made["connections"] = counts.connections;
  made["connections_failed"] = counts.connections_failed;
  if (!source.first_trouble().empty()) made["first_trouble"] = source.first_trouble();
  return made;
}

Json to_json(const Sink::Counts& counts) {
  return {{"messages", counts.messages},
          {"recipients", counts.recipients},
          {"bytes", counts.bytes},
          {"connections", counts.connections},
          {"connections_at_a_time", counts.connections_most},
          {"refusals_made", counts.refusals},
          {"hang_ups_made", counts.hang_ups}};
}

Json to_json(const Ledger::Counts& counts) {
  return {
      {"arrived", counts.arrived}, {"twice", counts.twice}, {"changed", counts.changed}, {"foreign", counts.foreign}};
}

void OwnUsage::start() {
  began_us_ = now_us();
}

double OwnUsage::cpu_us() const {
  return now_us() - began_us_;
}

double OwnUsage::now_us() {
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) * 1e6 + static_cast<double>(used.tv_nsec) / 1e3;
}

std::string to_text(const Json& report) {
  std::string out;
  append_lines(out, report, "");
  return out;
}

void print(const Json& report, bool as_json) {
  // A peer's words may hold bytes that are no UTF-8: they are escaped before, and replaced here if not.
  const std::string text =
      as_json ? report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n" : to_text(report);
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace postern::bench
