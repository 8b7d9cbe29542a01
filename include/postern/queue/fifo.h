// A first-in first-out list for outputs: no allocation once it has grown to the size it needs. Its users say its bound.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace postern::queue {

template <class T>
class Fifo {
 public:
  [[nodiscard]] bool empty() const { return head_ == items_.size(); }
  [[nodiscard]] std::size_t size() const { return items_.size() - head_; }
  [[nodiscard]] T& front() { return items_[head_]; }

  void push(T item) {
    // Taken ones are dropped before growth would copy them; each is moved at most once per halving: amortized O(1).
    if (items_.size() == items_.capacity() && head_ > items_.size() / 2) {
      items_.erase(items_.begin(), items_.begin() + static_cast<std::ptrdiff_t>(head_));
      head_ = 0;
    }
    items_.push_back(std::move(item));
  }
  void pop() {
    ++head_;
    if (empty()) {
      items_.clear();
      head_ = 0;
    }
  }
  [[nodiscard]] std::optional<T> take() {
    if (empty()) return std::nullopt;
    std::optional<T> item(std::move(front()));
    pop();
    return item;
  }

 private:
  std::vector<T> items_;
  std::size_t head_ = 0;
};

}  // namespace postern::queue
