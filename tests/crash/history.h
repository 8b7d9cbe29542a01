// The disk of a recorded run, entry by entry, and the images that a crash at that moment may leave.
//
// The fault model. A durable write is there once its end stands in the trace; until then any subset of its sectors (512
// bytes, or 4 KiB blocks, or a beginning, or an end) may be. Other writes stay so until a sync of the file has ended
// that began behind them; sizes likewise, and what a size uncovers is zeros. A created, renamed or removed name is
// there once a sync of its folder has ended that began behind it, and then the folders above it are too; until then a
// crash keeps any beginning of the journal of names or, in every other image, any part of it. Folders that the run did
// not make are taken as given. Several unsynced writes of one sector leave any one of their versions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <postern/base/bytes.h>
#include <postern/base/random.h>

#include "io/record/trace.h"

namespace postern::crash {

// A disk that lies, so that the check can be seen to fail.
enum class Lie : std::uint8_t {
  none,
  lost_write,      // one durable write in twenty is reported done, and never lands
  late_write,      // a durable write is reported done while it still lies in a cache
  directory_sync,  // syncing a folder keeps no name
  file_sync,       // syncing a file keeps no byte
};

struct ImageFile {
  bool directory = false;
  std::vector<std::byte> bytes{};
};
using Image = std::map<std::string, ImageFile>;  // by absolute path; only what the run has made

class History {
 public:
  explicit History(Lie lie = Lie::none) : lie_(lie) {}

  // The next entry of the trace; it outlives the history.
  void apply(const io::record::Entry& entry);

  // One image that a crash right behind the last entry may leave.
  [[nodiscard]] Image image(Random& random) const;

  // Durable writes that have ended.
  [[nodiscard]] std::uint64_t durable_writes() const { return durable_writes_; }

 private:
  static constexpr std::uint64_t late_entries = 400;

  enum class State : std::uint8_t { under_way, done, covered };  // covered: by a sync under way
  struct Change {
    std::uint64_t operation = 0;
    State state = State::under_way;
    std::uint64_t covered_by = 0;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    bool size_only = false;          // an allocation
    Bytes data{};                    // empty: zeros
    std::uint64_t durable_from = 0;  // a late write's
  };
  struct Node {
    bool directory = false;
    std::string path;               // of a folder
    std::vector<std::byte> stable;  // what the device has
    std::vector<Change> changes;    // what it may have, in order
  };
  using NodePtr = std::shared_ptr<Node>;
  struct NameChange {
    std::uint64_t operation = 0;
    State state = State::under_way;
    std::uint64_t covered_by = 0;
    bool durable = false;
    std::string gone{};  // a path, or empty
    std::string made{};  // a path, or empty
    NodePtr node{};      // of `made`
  };

  void begin_file(const io::record::Entry& entry);
  void end(const io::record::Entry& entry);
  void begin_sync(const io::record::Entry& begin);
  void end_sync(const io::record::Entry& begin);
  void change(const io::record::Entry& entry, bool size_only);
  [[nodiscard]] NodePtr node_of(io::Descriptor descriptor) const;
  [[nodiscard]] NodePtr find(const std::string& path) const;
  [[nodiscard]] NodePtr given_folder(const std::string& path);
  static void settle(Node& node, const Change& change);
  void settle_late(std::uint64_t now);
  static void tear(const Change& change, std::vector<std::byte>& bytes, Random& random);
  [[nodiscard]] std::vector<bool> names_kept(Random& random) const;
  [[nodiscard]] static std::vector<std::byte> content(const Node& node, Random& random);

  const Lie lie_;
  std::uint64_t entries_ = 0;
  std::uint64_t durable_writes_ = 0;
  std::map<std::string, NodePtr> names_;  // as the kernel has them now
  std::map<io::Descriptor, NodePtr> open_;
  std::vector<NameChange> journal_;  // of the whole run
  std::map<std::uint64_t, const io::record::Entry*> under_way_;
  std::map<std::uint64_t, NodePtr> write_to_;  // by operation
  std::map<std::uint64_t, NodePtr> opening_;
};

}  // namespace postern::crash
