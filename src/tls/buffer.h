// Bytes in one piece that grows as they are appended: what std::vector does, without zeroes before the bytes and with
// copies that are as fast for every alignment. Internal to tls.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include <postern/base/bytes.h>
#include <postern/base/copy.h>

namespace postern::tls {

class Buffer {
 public:
  void append(Bytes bytes) {
    if (capacity_ - size_ < bytes.size()) reserve(std::max(size_ + bytes.size(), 2 * capacity_));
    copy_bytes(memory_.get() + size_, bytes.data(), bytes.size());
    size_ += bytes.size();
  }
  void reserve(std::size_t capacity) {
    if (capacity <= capacity_) return;
    auto larger = std::make_unique_for_overwrite<std::byte[]>(capacity);
    copy_bytes(larger.get(), memory_.get(), size_);
    memory_ = std::move(larger);
    capacity_ = capacity;
  }
  void clear() { size_ = 0; }
  void give_back() {
    memory_.reset();
    size_ = capacity_ = 0;
  }

  [[nodiscard]] Bytes bytes() const { return {memory_.get(), size_}; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t capacity() const { return capacity_; }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::size_t size_ = 0, capacity_ = 0;
};

}  // namespace postern::tls
