#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include <postern/base/check.h>
#include <postern/base/chunk_list.h>

namespace postern {

void ChunkList::Free::operator()(std::byte* memory) const {
  if (aligned) {
    ::operator delete(memory, std::align_val_t{chunk_alignment});
  } else {
    ::operator delete(memory);
  }
}

ChunkList::ChunkList(ChunkList&& other) noexcept {
  *this = std::move(other);
}

ChunkList& ChunkList::operator=(ChunkList&& other) noexcept {
  chunks_ = std::move(other.chunks_);
  dropped_ = std::exchange(other.dropped_, 0);
  size_ = std::exchange(other.size_, 0);
  memory_bytes_ = std::exchange(other.memory_bytes_, 0);
  first_capacity_ = std::exchange(other.first_capacity_, small_bytes);
  other.chunks_.clear();
  return *this;
}

std::size_t ChunkList::next_capacity() const {
  return chunks_.empty() ? first_capacity_ : chunk_bytes;
}

// Small chunks are not aligned: an allocator rounds an aligned 1 KiB up to several.
void ChunkList::add_chunk() {
  const std::size_t capacity = next_capacity();
  const bool aligned = capacity == chunk_bytes;
  void* const memory = aligned ? ::operator new(capacity, std::align_val_t{chunk_alignment}) : ::operator new(capacity);
  Chunk chunk;
  chunk.memory = {static_cast<std::byte*>(memory), Free{aligned}};
  chunk.capacity = static_cast<std::uint32_t>(capacity);
  chunks_.push_back(std::move(chunk));
  memory_bytes_ += capacity;
}

MutableBytes ChunkList::prepare() {
  if (chunk_count() == 0 || chunks_.back().size == chunks_.back().capacity) add_chunk();
  Chunk& last = chunks_.back();
  return {last.memory.get() + last.size, last.capacity - last.size};
}

void ChunkList::commit(std::size_t size) {
  POSTERN_CHECK(chunk_count() > 0 && size <= chunks_.back().capacity - chunks_.back().size);
  chunks_.back().size += static_cast<std::uint32_t>(size);
  size_ += size;
}

void ChunkList::append(Bytes bytes) {
  while (!bytes.empty()) {
    const MutableBytes room = prepare();
    const std::size_t size = std::min(room.size(), bytes.size());
    std::memcpy(room.data(), bytes.data(), size);
    commit(size);
    bytes = bytes.subspan(size);
  }
}

void ChunkList::expect(std::uint64_t total_bytes) {
  POSTERN_CHECK(chunks_.empty(), "an expectation comes before the first byte");
  if (total_bytes == 0) return;
  first_capacity_ = total_bytes <= small_bytes ? static_cast<std::size_t>(total_bytes) : chunk_bytes;
}

std::size_t ChunkList::growth_for(std::size_t size) const {
  std::size_t room = chunk_count() == 0 ? 0 : chunks_.back().capacity - chunks_.back().size;
  if (size <= room) return 0;
  std::size_t growth = 0;
  if (chunks_.empty()) growth = room = first_capacity_;
  if (size <= room) return growth;
  return growth + (size - room + chunk_bytes - 1) / chunk_bytes * chunk_bytes;
}

Bytes ChunkList::chunk(std::size_t index) const {
  POSTERN_CHECK(index < chunk_count());
  const Chunk& chunk = chunks_[dropped_ + index];
  return {chunk.memory.get(), chunk.size};
}

void ChunkList::drop_front() {
  POSTERN_CHECK(chunk_count() > 0);
  Chunk& chunk = chunks_[dropped_];
  size_ -= chunk.size;
  memory_bytes_ -= chunk.capacity;
  chunk = Chunk{};
  ++dropped_;
  // One erase per as many drops as chunks are left: amortized O(1), and the vector stays in proportion to what is held.
  if (dropped_ > 16 && dropped_ * 2 > chunks_.size() && dropped_ < chunks_.size()) {
    chunks_.erase(chunks_.begin(), chunks_.begin() + static_cast<std::ptrdiff_t>(dropped_));
    dropped_ = 0;
  } else if (dropped_ == chunks_.size() && dropped_ > 1) {
    chunks_.erase(chunks_.begin(), chunks_.end() - 1);
    dropped_ = 1;  // one stays, so that the next chunk is not taken for the first
  }
}

void ChunkList::clear() {
  chunks_.clear();
  dropped_ = 0;
  size_ = 0;
  memory_bytes_ = 0;
  first_capacity_ = small_bytes;
}

void ChunkList::copy_to(MutableBytes target) const {
  POSTERN_CHECK(target.size() <= size_);
  for (std::size_t i = 0; !target.empty(); ++i) {
    const Bytes from = chunk(i).first(std::min(chunk(i).size(), target.size()));
    std::memcpy(target.data(), from.data(), from.size());
    target = target.subspan(from.size());
  }
}

}  // namespace postern
