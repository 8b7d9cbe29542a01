// A small, real log whose files are changed as an input says: what the harnesses of recovery and of postern-spool start
// from.
//
// The input is a list of changes: bytes overwritten, blocks copied, blocks unreadable, files cut. An odd number of
// changes to a structure would only ever meet a wrong checksum, so a change may ask that the checksums of headers,
// footers, batches and records of the changed file be put right afterwards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include <postern/base/status.h>
#include <postern/spool/log.h>

namespace postern::fuzz {

struct Disk {
  std::map<std::uint32_t, std::vector<std::byte>> files;         // by slot
  std::set<std::pair<std::uint32_t, std::uint64_t>> bad_blocks;  // slot, offset
  bool forged = false;  // a checksum was put right: no disk does that, and what it covers may contradict itself

  [[nodiscard]] Status read(const spool::ReadIntent& intent) const {
    return read(intent.slot, intent.offset, intent.target);
  }
  [[nodiscard]] Status read(spool::Slot slot, std::uint64_t offset, MutableBytes target) const;
};

// The log that some fifty messages made, with the changes that `data` names; anything is a list of changes.
[[nodiscard]] Disk changed_log(const std::uint8_t* data, std::size_t size);

// Recovers the log; null: it cannot be used.
[[nodiscard]] std::unique_ptr<spool::Log> start(const Disk& disk);
// Writes, and makes files, until the log is at rest.
void turn(spool::Log& log, Disk& disk);
// Accepts messages of several kinds.
void fill(spool::Log& log, Disk& disk, int messages);

}  // namespace postern::fuzz
