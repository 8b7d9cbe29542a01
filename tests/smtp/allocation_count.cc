#include "tests/smtp/allocation_count.h"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define POSTERN_TEST_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define POSTERN_TEST_SANITIZER 1
#endif
#endif

namespace {
std::atomic<std::size_t> allocations{0};
}  // namespace

namespace postern::smtp {

std::size_t allocations_so_far() {
  return allocations.load(std::memory_order_relaxed);
}

#ifdef POSTERN_TEST_SANITIZER
bool allocations_are_counted() {
  return false;
}
#else
bool allocations_are_counted() {
  return true;
}
#endif

}  // namespace postern::smtp

#ifndef POSTERN_TEST_SANITIZER
void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  std::abort();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
#endif
