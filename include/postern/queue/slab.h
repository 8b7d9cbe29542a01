// Objects of one kind in chunks, named by 32-bit indexes: no allocation per object, no move when it grows, half the
// size of pointers.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <postern/base/check.h>

namespace postern::queue {

inline constexpr std::uint32_t no_index = UINT32_MAX;

// Objects are made once per slot and keep their content over free() and take(): who takes one sets it. Freed slots are
// reused last in, first out. Chunks are not given back before the slab goes.
template <class T>
class Slab {
 public:
  static constexpr std::size_t chunk_bytes = std::size_t{64} * 1024;
  static constexpr std::uint32_t chunk_objects = static_cast<std::uint32_t>(std::bit_floor(chunk_bytes / sizeof(T)));
  static_assert(chunk_objects > 0);

  [[nodiscard]] T& operator[](std::uint32_t index) { return chunks_[index / chunk_objects][index % chunk_objects]; }
  [[nodiscard]] const T& operator[](std::uint32_t index) const {
    return chunks_[index / chunk_objects][index % chunk_objects];
  }

  [[nodiscard]] std::uint32_t take() {
    ++in_use_;
    if (!free_.empty()) {
      const std::uint32_t index = free_.back();
      free_.pop_back();
      return index;
    }
    if (made_ == chunks_.size() * chunk_objects) {
      POSTERN_CHECK(chunks_.size() < no_index / chunk_objects, "2^32 objects");
      chunks_.push_back(std::make_unique<T[]>(chunk_objects));
    }
    return made_++;
  }
  void free(std::uint32_t index) {
    --in_use_;
    free_.push_back(index);
  }

  [[nodiscard]] std::size_t in_use() const { return in_use_; }
  // Indexes ever taken are below it.
  [[nodiscard]] std::uint32_t made() const { return made_; }
  [[nodiscard]] std::size_t memory_bytes() const {
    return chunks_.size() * chunk_objects * sizeof(T) + chunks_.capacity() * sizeof(void*) +
           free_.capacity() * sizeof(std::uint32_t);
  }

 private:
  std::vector<std::unique_ptr<T[]>> chunks_;
  std::vector<std::uint32_t> free_;
  std::uint32_t made_ = 0;
  std::size_t in_use_ = 0;
};

}  // namespace postern::queue
