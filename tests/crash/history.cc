#include "tests/crash/history.h"

#include <algorithm>
#include <cstring>
#include <fcntl.h>
#include <set>
#include <utility>

#include <postern/base/check.h>

namespace postern::crash {
namespace {

using io::record::Entry;
using What = Entry::What;
using Kind = io::FileRequest::Kind;

constexpr std::size_t sector_bytes = 512;
constexpr std::size_t block_bytes = 4096;

std::string parent_of(const std::string& path) {
  return path.substr(0, std::max<std::size_t>(path.rfind('/'), 1));
}

void put(std::vector<std::byte>& into, std::uint64_t offset, std::uint64_t length, Bytes data) {
  if (offset >= into.size()) return;
  const std::size_t size = std::min<std::uint64_t>(length, into.size() - offset);
  if (data.empty()) {
    std::memset(into.data() + offset, 0, size);
  } else {
    std::memcpy(into.data() + offset, data.data(), size);
  }
}

}  // namespace

void History::apply(const Entry& entry) {
  ++entries_;
  settle_late(entries_);
  switch (entry.what) {
    case What::log_opened:
      if (const NodePtr node = find(entry.path)) open_[entry.descriptor] = node;
      return;
    case What::closed:
      open_.erase(entry.descriptor);
      return;
    case What::write:
      under_way_[entry.operation] = &entry;
      return change(entry, false);
    case What::file:
      under_way_[entry.operation] = &entry;
      return begin_file(entry);
    case What::end:
      return end(entry);
    case What::stream_in:
    case What::stream_out:
    case What::said:
    case What::heard:
      return;
  }
}

void History::change(const Entry& entry, bool size_only) {
  const NodePtr node = node_of(entry.descriptor);
  POSTERN_CHECK(node != nullptr, "writes go to files that the trace has seen opened");
  write_to_[entry.operation] = node;
  node->changes.push_back({.operation = entry.operation,
                           .offset = entry.offset,
                           .length = entry.length,
                           .size_only = size_only,
                           .data = entry.data});
}

void History::begin_file(const Entry& entry) {
  switch (entry.kind) {
    case Kind::open: {
      NodePtr node = find(entry.path);
      const bool creates = (entry.open_flags & O_CREAT) != 0;
      // What truncation takes is gone once the new name is there: an old file under the name before is legal too.
      if (creates && (node == nullptr || (entry.open_flags & O_TRUNC) != 0)) {
        node = std::make_shared<Node>();
        names_[entry.path] = node;
        journal_.push_back({.operation = entry.operation, .made = entry.path, .node = node});
      }
      if (node == nullptr && (entry.open_flags & O_DIRECTORY) != 0) node = given_folder(entry.path);
      opening_[entry.operation] = std::move(node);
      return;
    }
    case Kind::make_directory: {
      if (find(entry.path) != nullptr) return;
      auto node = std::make_shared<Node>();
      node->directory = true;
      node->path = entry.path;
      journal_.push_back({.operation = entry.operation, .made = entry.path, .node = std::move(node)});
      return;
    }
    case Kind::rename:
    case Kind::rename_new: {
      const NodePtr node = find(entry.path);
      if (node == nullptr) return;
      journal_.push_back({.operation = entry.operation, .gone = entry.path, .made = entry.other_path, .node = node});
      return;
    }
    case Kind::unlink:
      if (find(entry.path) == nullptr) return;
      journal_.push_back({.operation = entry.operation, .gone = entry.path});
      return;
    case Kind::close:
      open_.erase(entry.descriptor);
      return;
    case Kind::write:
      return change(entry, false);
    case Kind::allocate:
      return change(entry, true);
    case Kind::sync:
    case Kind::sync_data:
      return begin_sync(entry);
    case Kind::read:
    case Kind::file_size:
    case Kind::list_directory:
    case Kind::space:
    case Kind::identity:
      return;
  }
}

void History::begin_sync(const Entry& entry) {
  const NodePtr node = node_of(entry.descriptor);
  POSTERN_CHECK(node != nullptr, "syncs are of files that the trace has seen opened");
  write_to_[entry.operation] = node;
  for (Change& each : node->changes) {
    if (each.state == State::done) {
      each.state = State::covered;
      each.covered_by = entry.operation;
    }
  }
  if (!node->directory) return;
  for (NameChange& each : journal_) {
    const bool here = (!each.made.empty() && parent_of(each.made) == node->path) ||
                      (each.made.empty() && parent_of(each.gone) == node->path);
    if (each.state == State::done && here) {
      each.state = State::covered;
      each.covered_by = entry.operation;
    }
  }
}

void History::end_sync(const Entry& begin) {
  Node& node = *write_to_[begin.operation];
  if (node.directory) {
    if (lie_ == Lie::directory_sync) return;
    for (NameChange& each : journal_) each.durable |= each.covered_by == begin.operation;
    return;
  }
  if (lie_ == Lie::file_sync) return;
  std::erase_if(node.changes, [&](const Change& each) {
    if (each.covered_by != begin.operation) return false;
    settle(node, each);
    return true;
  });
}

void History::settle(Node& node, const Change& change) {
  const std::uint64_t end = change.offset + change.length;
  if (end > node.stable.size()) node.stable.resize(end);
  if (!change.size_only) put(node.stable, change.offset, change.length, change.data);
}

void History::settle_late(std::uint64_t now) {
  if (lie_ != Lie::late_write) return;
  for (const auto& [path, node] : names_) {
    std::erase_if(node->changes, [&](const Change& each) {
      if (each.durable_from == 0 || each.durable_from > now) return false;
      settle(*node, each);
      return true;
    });
  }
}

void History::end(const Entry& entry) {
  const auto found = under_way_.find(entry.operation);
  POSTERN_CHECK(found != under_way_.end(), "what ends has begun");
  const Entry& begin = *found->second;
  under_way_.erase(found);
  const bool good = entry.result >= 0;

  if (begin.what == What::write || begin.kind == Kind::write || begin.kind == Kind::allocate) {
    // What failed may have landed in part all the same.
    const NodePtr node = write_to_[entry.operation];
    write_to_.erase(entry.operation);
    const auto change = std::ranges::find(node->changes, entry.operation, &Change::operation);
    if (!good) return;
    change->state = State::done;
    if (begin.what != What::write || !begin.synced) return;
    ++durable_writes_;
    if (lie_ == Lie::late_write) {
      change->durable_from = entries_ + late_entries;
      return;
    }
    if (lie_ != Lie::lost_write || durable_writes_ % 20 != 0) settle(*node, *change);
    node->changes.erase(change);
    return;
  }
  switch (begin.kind) {
    case Kind::open: {
      const NodePtr node = opening_[entry.operation];
      opening_.erase(entry.operation);
      if (good && node != nullptr) open_[static_cast<io::Descriptor>(entry.result)] = node;
      break;
    }
    case Kind::sync:
    case Kind::sync_data:
      if (good) end_sync(begin);
      write_to_.erase(entry.operation);
      return;
    default:
      break;
  }
  const auto change = std::ranges::find(journal_, entry.operation, &NameChange::operation);
  if (change == journal_.end()) return;
  if (!good) {
    if (!change->made.empty() && begin.kind == Kind::open) names_.erase(change->made);
    journal_.erase(change);
    return;
  }
  change->state = State::done;
  if (!change->gone.empty()) names_.erase(change->gone);
  if (!change->made.empty()) names_[change->made] = change->node;
}

History::NodePtr History::node_of(io::Descriptor descriptor) const {
  const auto found = open_.find(descriptor);
  return found == open_.end() ? nullptr : found->second;
}

History::NodePtr History::find(const std::string& path) const {
  const auto found = names_.find(path);
  return found == names_.end() ? nullptr : found->second;
}

// One that was there before the run. Not in the journal: no crash takes it.
History::NodePtr History::given_folder(const std::string& path) {
  auto node = std::make_shared<Node>();
  node->directory = true;
  node->path = path;
  return node;
}

void History::tear(const Change& change, std::vector<std::byte>& bytes, Random& random) {
  const std::uint64_t how = random.below(6);
  if (how == 0) return;
  const std::size_t unit = random.below(2) == 0 ? sector_bytes : block_bytes;
  const std::uint64_t border = change.offset + random.below(change.length + 1) / unit * unit;
  const std::uint64_t end = change.offset + change.length;
  for (std::uint64_t at = change.offset; at < end;) {
    const std::uint64_t next = std::min<std::uint64_t>((at / unit + 1) * unit, end);
    const bool lands = how == 1 ? true : how == 2 ? at < border : how == 3 ? at >= border : random.below(2) == 0;
    if (lands) put(bytes, at, next - at, change.data.empty() ? Bytes{} : change.data.subspan(at - change.offset));
    at = next;
  }
}

std::vector<std::byte> History::content(const Node& node, Random& random) {
  std::vector<std::byte> bytes = node.stable;
  for (const Change& each : node.changes) {
    const std::uint64_t end = each.offset + each.length;
    if (end > bytes.size() && random.below(3) != 0) bytes.resize(end);
    if (!each.size_only) tear(each, bytes, random);
  }
  return bytes;
}

// Which changes of names an image has.
std::vector<bool> History::names_kept(Random& random) const {
  std::vector<bool> kept(journal_.size());
  if (random.below(2) == 0) {
    // In order: up to the last durable one at least, and up to any later one at most.
    std::size_t count = 0;
    for (std::size_t i = 0; i < journal_.size(); ++i) {
      if (journal_[i].durable) count = i + 1;
    }
    count += random.below(journal_.size() - count + 1);
    for (std::size_t i = 0; i < count; ++i) kept[i] = journal_[i].state != State::under_way || random.below(2) == 0;
    return kept;
  }
  // Each for itself; but what is durable can be reached, so the folders that it lies in are there.
  std::set<std::string> needed;
  for (std::size_t i = journal_.size(); i-- > 0;) {
    const NameChange& each = journal_[i];
    kept[i] = each.durable || needed.contains(each.made) || random.below(2) == 0;
    if (!each.durable) continue;
    for (std::string path = parent_of(each.made.empty() ? each.gone : each.made); path.size() > 1;
         path = parent_of(path)) {
      needed.insert(path);
    }
  }
  return kept;
}

Image History::image(Random& random) const {
  const std::vector<bool> kept = names_kept(random);
  std::map<std::string, NodePtr> names;
  for (std::size_t i = 0; i < journal_.size(); ++i) {
    if (!kept[i]) continue;
    const NameChange& each = journal_[i];
    if (!each.gone.empty()) names.erase(each.gone);
    if (!each.made.empty()) names[each.made] = each.node;
  }
  Image made;
  for (const auto& [path, node] : names) {
    made[path] = {.directory = node->directory,
                  .bytes = node->directory ? std::vector<std::byte>{} : content(*node, random)};
  }
  return made;
}

}  // namespace postern::crash
