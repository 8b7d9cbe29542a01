// From what stands on the command line to checked options. Every failure is kInvalidArgument and says what is wrong.
#pragma once

#include <cstdint>

#include <postern/base/status.h>

#include "bench/commands.h"
#include "bench/sink.h"
#include "bench/source.h"
#include "io/loop.h"

namespace postern::bench {

// `run` and `date` go into every message.
[[nodiscard]] StatusOr<SourceOptions> source_options(const LoadArguments& arguments, const std::string& target,
                                                     std::uint64_t run, WallTime date);
[[nodiscard]] StatusOr<SinkOptions> sink_options(const HopArguments& arguments, const std::string& listen);
// Zero for an empty text.
[[nodiscard]] StatusOr<Duration> optional_duration(const std::string& text);

}  // namespace postern::bench
