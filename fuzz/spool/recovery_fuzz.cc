// Asks: does recovery end, without harm, whatever stands in the segment files; and does the log that follows work?
#include <cstddef>
#include <cstdint>

#include <postern/base/check.h>
#include <postern/spool/log.h>
#include <postern/spool/replay.h>

#include "fuzz/spool/changed_log.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace postern;
  using namespace postern::spool;
  fuzz::Disk disk = fuzz::changed_log(data, size);
  const auto log = fuzz::start(disk);
  if (!log) return 0;
  disk.bad_blocks.clear();
  fuzz::turn(*log, disk);
  Replay replay(*log);
  for (int i = 0; !replay.done(); ++i) {
    POSTERN_CHECK(i < 100'000);
    if (replay.take_message()) continue;
    if (const auto read = replay.take_read()) replay.on_read(read->window, disk.read(read->intent));
  }
  if (log->intake() == Intake::open) fuzz::fill(*log, disk, 5);
  fuzz::turn(*log, disk);
  return 0;
}
