// A disk in memory that loses, tears and damages, and a rig that carries one log's intents to it.
//
// The fault model: a write in flight at a crash leaves each of its sectors old or new. A file whose making was
// interrupted has any length, zeros, and no header. Reads of marked blocks fail.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/random.h>
#include <postern/base/time.h>
#include <postern/spool/log.h>
#include <postern/spool/recovery.h>
#include <postern/spool/replay.h>

namespace postern::spool::test {

inline constexpr std::size_t sector_bytes = 512;

class Disk {
 public:
  std::map<std::uint32_t, std::vector<std::byte>> files;
  std::set<std::pair<std::uint32_t, std::uint64_t>> bad_blocks;  // slot, offset

  void write(Slot slot, std::uint64_t offset, Bytes data);
  // Each sector by a toss of `random`, or only the first `sectors`.
  void write_torn(Slot slot, std::uint64_t offset, Bytes data, Random& random);
  [[nodiscard]] Status read(Slot slot, std::uint64_t offset, MutableBytes target) const;
};

struct Found {
  mail::QueueId id;
  mail::Location location;
  std::string envelope;
  std::string added_fields;
  std::string content;
  std::uint16_t recipients = 0;
  std::map<std::uint16_t, std::string> unsettled;  // index → state
};

class Rig {
 public:
  explicit Rig(const Options& options, std::uint64_t seed = 1) : options_(options), random_(seed) {}

  static Options small();  // 64 KiB segments, 16 KiB batches: many of everything

  // Recovers what the disk holds and starts a log on it, up to the first header's being durable (`until_open`).
  void start(bool until_open = true);
  [[nodiscard]] Recovered recover();
  Disk& disk() { return disk_; }
  Log& log() { return *log_; }
  [[nodiscard]] bool running() const { return log_ != nullptr; }

  // --- the driver's turns
  void serve_slots();
  [[nodiscard]] bool begin_write(bool more_is_coming = false);  // true: one is in flight
  void end_write();
  void fail_write();
  bool compact_once();  // one read of compaction
  void run();           // until nothing is left to do (compaction included)
  void write_all();     // until idle, without compaction
  // The process is gone; the write in flight is torn.
  void crash(bool torn = true);

  // --- appending and reading
  mail::QueueId append(std::string_view content, std::string_view envelope = "envelope", std::uint16_t recipients = 1,
                       std::uint64_t ticket = 0);
  [[nodiscard]] MessageRecord record(std::string_view content, std::string_view envelope, std::uint16_t recipients);
  [[nodiscard]] std::vector<Found> replay();  // reads all content too
  [[nodiscard]] StatusOr<Found> read(mail::Location location);
  mail::Location locate(mail::QueueId id) const { return locations_.at(id.value); }

  Instant now{};
  std::vector<std::uint64_t> durable;  // tickets, in order
  std::vector<Moved> moved;
  std::uint64_t free_bytes = UINT64_MAX;
  bool fail_creates = false;
  std::vector<std::string> set_aside;  // the new paths, in order
  Random& random() { return random_; }
  RecoveryReport report;
  std::map<std::uint64_t, mail::Location> locations_;  // of what append() appended, kept current

 private:
  Options options_;
  Disk disk_;
  std::unique_ptr<Log> log_;
  Random random_;
  std::optional<WriteIntent> in_flight_;
  std::vector<Bytes> pieces_;
};

[[nodiscard]] std::string filler(std::size_t size, std::uint64_t seed);

}  // namespace postern::spool::test
