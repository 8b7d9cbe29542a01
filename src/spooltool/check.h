// What `postern-spool check` finds: every segment in use is read whole, and every waiting message is known to be whole
// or is named. Reports are values here; check_report.cc shows them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <postern/mail/queue_id.h>

#include "spooltool/files.h"
#include "spooltool/progress.h"

namespace postern::spooltool {

struct Damage {
  std::string file;  // relative to data_dir
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::string what;
};

// Of one log. Lists keep at most list_max; the counts count all.
struct LogCheck {
  static constexpr std::size_t list_max = 1000;

  std::uint16_t log = 0;
  std::string unreadable;  // not empty: why nothing else is known of this log
  // Segment files: open + sealed + damaged are in use.
  std::uint64_t segments_open = 0;
  std::uint64_t segments_sealed = 0;
  std::uint64_t segments_damaged = 0;  // in use or left alone, not those that were set aside
  std::uint64_t segments_reserved = 0;
  std::uint64_t segments_live = 0;     // in use and needed for a waiting message
  std::uint64_t segments_changed = 0;  // used again by the daemon while they were read: nothing is said of them
  std::uint64_t files_set_aside = 0;   // damaged-*.seg
  std::uint64_t messages = 0;          // that wait
  std::uint64_t recipients_waiting = 0;
  std::uint64_t recipients_settled = 0;  // of messages that wait for others
  std::uint64_t bytes_live = 0;
  std::uint64_t bytes_total = 0;  // of all segment files
  std::uint64_t bytes_torn = 0;   // never acknowledged: no harm
  std::uint64_t records = 0;      // read and found valid
  std::uint64_t damage_count = 0;
  std::vector<Damage> damage;
  std::uint64_t hurt_count = 0;  // waiting messages that cannot be read whole
  std::vector<mail::QueueId> hurt;
  std::vector<std::string> alarms;  // what posternd would say of it at a start
  std::vector<std::string> foreign;

  [[nodiscard]] bool sound() const { return unreadable.empty() && damage_count == 0 && alarms.empty(); }
};

struct SpoolCheck {
  std::string data_dir;
  bool in_use = false;
  std::vector<LogCheck> logs;
  std::vector<std::string> foreign;  // in logs/, and no log

  [[nodiscard]] bool sound() const;
};

[[nodiscard]] SpoolCheck check_spool(const DataDir& data, Progress& progress);

}  // namespace postern::spooltool
