#include "io/uring/operations.h"

namespace postern::io::uring {

void Operations::grow() {
  POSTERN_CHECK(chunks_.size() * chunk_size < operations_max, "too many operations are pending");
  const auto first = static_cast<std::uint32_t>(chunks_.size() * chunk_size);
  chunks_.push_back(std::make_unique<Operation[]>(chunk_size));
  // The lowest slot first: what is in use stays close together.
  for (std::uint32_t i = chunk_size; i-- > 0;) {
    Operation& operation = chunks_.back()[i];
    operation.slot = first + i;
    operation.next = free_;
    free_ = operation.slot;
  }
}

std::size_t Operations::pending_in_ring() const {
  std::size_t count = 0;
  for (const auto& chunk : chunks_) {
    for (std::size_t i = 0; i < chunk_size; ++i) {
      if (chunk[i].what != Operation::What::idle && chunk[i].what != Operation::What::work) ++count;
    }
  }
  return count;
}

}  // namespace postern::io::uring
