#include "io/record/trace.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <type_traits>
#include <utility>

#include "io/errors.h"

namespace postern::io::record {
namespace {

constexpr std::uint64_t magic = 0x31'65'63'61'72'74'70'70;  // "pptrace1"

// An entry without its texts and bytes, which follow it in the order of their sizes here.
struct Fixed {
  std::uint64_t operation = 0;
  std::int64_t at_ns = 0;
  std::int64_t result = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t path_bytes = 0;
  std::uint64_t other_path_bytes = 0;
  std::uint64_t data_bytes = 0;
  std::int32_t descriptor = 0;
  std::int32_t open_flags = 0;
  std::uint8_t what = 0;
  std::uint8_t kind = 0;
  std::uint8_t synced = 0;
  std::uint8_t zeros = 0;
  std::uint32_t unused = 0;
};
static_assert(sizeof(Fixed) == 80 && std::is_trivially_copyable_v<Fixed>);

bool all_zeros(Bytes data) {
  return std::ranges::all_of(data, [](std::byte each) { return each == std::byte{0}; });
}

}  // namespace

StatusOr<std::unique_ptr<TraceWriter>> TraceWriter::create(const std::string& path) {
  std::FILE* const file = std::fopen(path.c_str(), "wbe");
  if (file == nullptr) return error(StatusCode::kUnavailable, path + ": " + std::strerror(errno));
  std::unique_ptr<TraceWriter> made(new TraceWriter(file));
  made->failed_ = std::fwrite(&magic, sizeof magic, 1, file) != 1;
  return made;
}

TraceWriter::~TraceWriter() {
  if (file_ != nullptr) (void)std::fclose(file_);
}

std::uint64_t TraceWriter::next_operation() {
  const std::lock_guard lock(mutex_);
  return ++operations_;
}

void TraceWriter::add(Entry entry, Bytes data) {
  if (!data.empty()) {
    entry.length = data.size();
    entry.zeros = all_zeros(data);
  }
  const std::lock_guard lock(mutex_);
  const Bytes kept = entry.zeros ? Bytes{} : data;
  const Fixed fixed{
      .operation = entry.operation,
      .at_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
                   .count(),
      .result = entry.result,
      .offset = entry.offset,
      .length = entry.length,
      .path_bytes = entry.path.size(),
      .other_path_bytes = entry.other_path.size(),
      .data_bytes = kept.size(),
      .descriptor = entry.descriptor,
      .open_flags = entry.open_flags,
      .what = static_cast<std::uint8_t>(entry.what),
      .kind = static_cast<std::uint8_t>(entry.kind),
      .synced = entry.synced,
      .zeros = entry.zeros,
  };
  const auto put = [this](const void* from, std::size_t size) {
    failed_ = failed_ || std::fwrite(from, 1, size, file_) != size;
  };
  put(&fixed, sizeof fixed);
  put(entry.path.data(), entry.path.size());
  put(entry.other_path.data(), entry.other_path.size());
  put(kept.data(), kept.size());
}

Status TraceWriter::finish() {
  const std::lock_guard lock(mutex_);
  const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
  if (failed_ || !closed)
    return error(StatusCode::kUnavailable, "the trace could not be written: " + std::string(std::strerror(errno)));
  return OkStatus();
}

StatusOr<std::vector<Entry>> read_trace(const std::string& path) {
  struct Close {
    void operator()(std::FILE* file) const { (void)std::fclose(file); }
  };
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rbe"));
  if (file == nullptr) return error(StatusCode::kUnavailable, path + ": " + std::strerror(errno));
  const auto get = [&](void* into, std::size_t size) { return std::fread(into, 1, size, file.get()) == size; };
  std::uint64_t found = 0;
  if (!get(&found, sizeof found) || found != magic) return error(StatusCode::kDataLoss, path + ": no trace");
  std::vector<Entry> entries;
  for (Fixed fixed; get(&fixed, sizeof fixed);) {
    Entry entry;
    entry.what = static_cast<Entry::What>(fixed.what);
    entry.kind = static_cast<FileRequest::Kind>(fixed.kind);
    entry.synced = fixed.synced != 0;
    entry.at = WallTime(std::chrono::duration_cast<Duration>(std::chrono::nanoseconds(fixed.at_ns)));
    entry.operation = fixed.operation;
    entry.result = fixed.result;
    entry.descriptor = fixed.descriptor;
    entry.open_flags = fixed.open_flags;
    entry.offset = fixed.offset;
    entry.length = fixed.length;
    entry.zeros = fixed.zeros != 0;
    entry.path.resize(fixed.path_bytes);
    entry.other_path.resize(fixed.other_path_bytes);
    entry.data.resize(fixed.data_bytes);
    if (!get(entry.path.data(), entry.path.size()) || !get(entry.other_path.data(), entry.other_path.size()) ||
        !get(entry.data.data(), entry.data.size())) {
      return error(StatusCode::kDataLoss, path + ": ends in the middle of an entry");
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace postern::io::record
