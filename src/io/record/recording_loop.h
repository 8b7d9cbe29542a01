// An io::Loop around another one that writes a trace of what a crash could show: every operation on files, with its
// data, and what accepted clients are told and next hops answer. It changes nothing else: completions, their order and
// their memory are those of the loop within, so the conformance suite holds for it too.
//
// For test programs (tests/crash); the daemon has no way to it. Costs a copy of everything written and a lock.
#pragma once

#include <memory>

#include "io/loop.h"
#include "io/record/trace.h"

namespace postern::io::record {

// `trace` outlives the loop; all loops of a process share one.
[[nodiscard]] std::unique_ptr<Loop> make_recording_loop(std::unique_ptr<Loop> within, TraceWriter& trace);

}  // namespace postern::io::record
