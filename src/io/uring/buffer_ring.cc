#include "io/uring/buffer_ring.h"

#include <bit>
#include <cerrno>

#include <sys/mman.h>

#include "io/errors.h"

#if defined(__SANITIZE_ADDRESS__)
#define POSTERN_POISONS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POSTERN_POISONS 1
#endif
#endif
#ifdef POSTERN_POISONS
#include <sanitizer/asan_interface.h>
#endif

namespace postern::io::uring {
namespace {

// With the address sanitizer, a buffer that is not lent must not be touched: its next bytes are another connection's.
void poison([[maybe_unused]] const std::byte* bytes, [[maybe_unused]] std::size_t size) {
#ifdef POSTERN_POISONS
  __asan_poison_memory_region(bytes, size);
#endif
}
void unpoison([[maybe_unused]] const std::byte* bytes, [[maybe_unused]] std::size_t size) {
#ifdef POSTERN_POISONS
  __asan_unpoison_memory_region(bytes, size);
#endif
}

constexpr std::size_t page_bytes = 4096;

}  // namespace

StatusOr<std::unique_ptr<BufferRing>> BufferRing::create(io_uring& ring, const BufferRingOptions& options) {
  POSTERN_CHECK(std::has_single_bit(options.count) && options.count <= 32'768 && options.bytes > 0,
                "receive buffers are a power of two, 32,768 at most");
  std::unique_ptr<BufferRing> result(new BufferRing);
  const std::size_t entries_bytes = (options.count * sizeof(io_uring_buf) + page_bytes - 1) / page_bytes * page_bytes;
  result->options_ = options;
  result->mapping_bytes_ = entries_bytes + std::size_t{options.count} * options.bytes;
  void* const mapping =
      mmap(nullptr, result->mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return errno_status(errno, "mapping receive buffers");
  result->mapping_ = static_cast<std::byte*>(mapping);
  result->entries_ = static_cast<io_uring_buf_ring*>(mapping);
  result->buffers_ = result->mapping_ + entries_bytes;

  io_uring_buf_reg registration{};
  registration.ring_addr = reinterpret_cast<__u64>(mapping);
  registration.ring_entries = options.count;
  registration.bgid = group;
  if (const int code = io_uring_register_buf_ring(&ring, &registration, 0); code < 0) {
    return errno_status(-code, "providing receive buffers to io_uring (Linux 5.19 or later; a memory limit?)");
  }
  result->ring_ = &ring;
  result->registered_ = true;
  result->lent_.resize(options.count);
  io_uring_buf_ring_init(result->entries_);
  for (unsigned id = 0; id < options.count; ++id) result->provide(static_cast<std::uint16_t>(id));
  result->free_ = options.count;
  return result;
}

BufferRing::~BufferRing() {
  if (registered_) io_uring_unregister_buf_ring(ring_, group);
  if (mapping_ == nullptr) return;
  unpoison(mapping_, mapping_bytes_);
  munmap(mapping_, mapping_bytes_);
}

void BufferRing::provide(std::uint16_t id) {
  poison(buffer(id), options_.bytes);
  io_uring_buf_ring_add(entries_, buffer(id), options_.bytes, id, io_uring_buf_ring_mask(options_.count), 0);
  io_uring_buf_ring_advance(entries_, 1);
}

MutableBytes BufferRing::lend(std::uint16_t id, std::size_t size) {
  POSTERN_CHECK(id < options_.count && !lent_[id], "the kernel fills a buffer that it was given");
  lent_[id] = true;
  --free_;
  unpoison(buffer(id), size);
  return {buffer(id), size};
}

void BufferRing::take_back(std::uint16_t id) {
  POSTERN_CHECK(id < options_.count && lent_[id], "a receive buffer is given back once");
  lent_[id] = false;
  ++free_;
  provide(id);
}

}  // namespace postern::io::uring
