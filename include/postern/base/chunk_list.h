// Content in memory: a list of chunks that one message owns.
//
// Small content takes one allocation of about its size; larger content takes chunks of 64 KiB, page-aligned, that can
// be written to disk with O_DIRECT from where they lie. Chunks never move: views stay valid until the chunk is dropped.
// Budgets are the caller's: memory_bytes() says what to account for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <absl/container/inlined_vector.h>

#include <postern/base/bytes.h>

namespace postern {

class ChunkList {
 public:
  static constexpr std::size_t small_bytes = 4096;       // a first chunk grows no larger than this
  static constexpr std::size_t chunk_bytes = 64u << 10;  // all others have exactly this size
  static constexpr std::size_t chunk_alignment = 4096;   // of chunks of chunk_bytes

  ChunkList() = default;
  ChunkList(ChunkList&& other) noexcept;
  ChunkList& operator=(ChunkList&& other) noexcept;
  ~ChunkList() = default;

  // Copies `bytes` behind what is there. Without an expectation the first chunk is small_bytes large.
  void append(Bytes bytes);

  // Room to write into: at least one byte, in the last chunk or a new one. Then say how much was written. Between the
  // two, nothing else but const functions.
  [[nodiscard]] MutableBytes prepare();
  void commit(std::size_t size);

  // Before the first byte: how much is to come in all (SIZE=, BDAT's size), as far as the caller believes it. Up to
  // small_bytes the first chunk is that large exactly; beyond, all chunks are of chunk_bytes.
  void expect(std::uint64_t total_bytes);

  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  // What is allocated for chunks.
  [[nodiscard]] std::size_t memory_bytes() const { return memory_bytes_; }
  // What append(size more bytes) would add to memory_bytes(), to ask a budget before.
  [[nodiscard]] std::size_t growth_for(std::size_t size) const;

  [[nodiscard]] std::size_t chunk_count() const { return chunks_.size() - dropped_; }
  // The chunks still held, in order. Chunk 0 is the oldest one held.
  [[nodiscard]] Bytes chunk(std::size_t index) const;

  // Frees the oldest chunk, which has gone to disk. There is one.
  void drop_front();
  // Frees everything and forgets the expectation.
  void clear();

  // All bytes in one piece, for tests and small texts.
  void copy_to(MutableBytes target) const;  // target.size() ≤ size(); copies the first that many

 private:
  struct Free {
    bool aligned;
    Free() : aligned(false) {}
    explicit Free(bool is_aligned) : aligned(is_aligned) {}
    void operator()(std::byte* memory) const;
  };
  struct Chunk {
    std::unique_ptr<std::byte, Free> memory;
    std::uint32_t size = 0;
    std::uint32_t capacity = 0;
  };
  [[nodiscard]] std::size_t next_capacity() const;
  void add_chunk();

  absl::InlinedVector<Chunk, 1> chunks_;
  std::size_t dropped_ = 0;  // chunks at the front of chunks_ that are gone
  std::uint64_t size_ = 0;   // of the chunks held
  std::size_t memory_bytes_ = 0;
  std::size_t first_capacity_ = small_bytes;
};

}  // namespace postern
