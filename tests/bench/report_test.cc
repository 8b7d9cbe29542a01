// Reports: the same numbers for machines and for people.
#include "bench/report.h"

#include <gtest/gtest.h>

namespace postern::bench {
namespace {

TEST(Report, MillisecondsOfAHistogram) {
  Histogram histogram;
  for (int i = 0; i < 1000; ++i) histogram.add(std::chrono::milliseconds(2));
  const Json said = milliseconds(histogram);
  EXPECT_EQ(said["count"], 1000);
  EXPECT_EQ(said["p50"], 2.0);
  EXPECT_EQ(said["p99.9"], 2.0);
  EXPECT_EQ(said["max"], 2.0);
}

TEST(Report, SmallObjectsAreOneLineAndNestedOnesAreIndented) {
  Json report;
  report["accepted"] = 20'000;
  report["latency_ms"] = {{"p50", 0.5}, {"p99", 1234.56}};
  report["relay"]["none"] = nullptr;
  report["relay"]["inner"] = {{"a", "text"}};
  EXPECT_EQ(to_text(report),
            "accepted                          20000\n"
            "latency_ms                        p50 0.5  p99 1235\n"
            "relay\n"
            "  none                            -\n"
            "  inner                           a text\n");
}

TEST(Report, NothingByNothingIsZero) {
  EXPECT_EQ(per(5, 0), 0);
  EXPECT_EQ(per(1, 3), 0.333);
}

TEST(Report, SurroundingsNameKernelAndProcessors) {
  const Json said = surroundings();
  EXPECT_FALSE(said["kernel"].get<std::string>().empty());
  EXPECT_GE(said["cpus"].get<unsigned>(), 1u);
}

}  // namespace
}  // namespace postern::bench
