// Memory aligned to a block, as direct I/O asks for it. Uninitialized.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

#include <postern/base/bytes.h>
#include <postern/spool/format.h>

namespace postern::spool {

class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t bytes)
      : data_(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{block_bytes}))), size_(bytes) {}

  [[nodiscard]] std::byte* data() { return data_.get(); }
  [[nodiscard]] const std::byte* data() const { return data_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] MutableBytes bytes() { return {data_.get(), size_}; }
  [[nodiscard]] Bytes first(std::size_t count) const { return {data_.get(), count}; }

 private:
  struct Free {
    void operator()(std::byte* data) const { ::operator delete(data, std::align_val_t{block_bytes}); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

}  // namespace postern::spool
