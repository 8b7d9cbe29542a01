// What the runs of the subcommands share: starting the engine, naming a run, and driving a source to its end.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <postern/base/status.h>

#include "bench/engine.h"
#include "bench/progress.h"
#include "bench/sink.h"
#include "bench/source.h"

namespace postern::bench {

// With descriptors for so many connections, as far as the limit allows.
[[nodiscard]] StatusOr<std::unique_ptr<Engine>> start_engine(std::size_t connections);
// A number that tells this run's messages from those of another.
[[nodiscard]] std::uint64_t new_run();
[[nodiscard]] WallTime wall_now();
// Prints the status to stderr; returns the exit code for its kind.
[[nodiscard]] int complain(const Status& status);

// After its last message a source waits for replies this long; what is not answered then is reported so.
inline constexpr Duration answer_patience = std::chrono::seconds(60);

// Until the source is done, interrupted (it finishes what is under way) or interrupted twice. `check` runs in every
// round and may stop the source.
void drive(Engine& engine, Source& source, Progress& progress, const std::function<void()>& check);

// Stops the sink: the last replies go out, for 2 s at most; then all connections of the engine end.
void finish(Engine& engine, Sink& sink);

}  // namespace postern::bench
