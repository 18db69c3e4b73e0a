#include "core/memory.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace evenflow {
namespace {

size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

constexpr size_t kLine = 64;

#if defined(__linux__)
constexpr size_t kPage = size_t{1} << 12, kHugePage = size_t{1} << 21;
constexpr size_t kLarge = size_t{1} << 17;  // bytes: from here on not from the C library

void* map_pages(size_t bytes) {
  const bool huge = bytes >= kHugePage;
  // Whole small pages only: what exceeds the huge ones shall not take another.
  const size_t size = round_up(bytes, kPage);
  if (size < bytes || size > SIZE_MAX - kHugePage) throw std::bad_alloc();
  const size_t reserved = huge ? size + kHugePage - kPage : size;
  void* const mapped = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  if (!huge) return mapped;
  char* const first = static_cast<char*>(mapped);
  const size_t before =
      round_up(reinterpret_cast<uintptr_t>(first), kHugePage) - reinterpret_cast<uintptr_t>(first);
  const size_t behind = reserved - before - size;
  if (before) munmap(first, before);
  if (behind) munmap(first + before + size, behind);
  madvise(first + before, size, MADV_HUGEPAGE);
  return first + before;
}
#endif

}  // namespace

void* allocate(size_t bytes) {
#if defined(__linux__)
  if (bytes >= kLarge) return map_pages(bytes);
#endif
  const size_t size = round_up(bytes ? bytes : 1, kLine);
  void* const memory = std::aligned_alloc(kLine, size);
  if (!memory) throw std::bad_alloc();
  return std::memset(memory, 0, size);
}

void deallocate(void* memory, size_t bytes) noexcept {
#if defined(__linux__)
  if (bytes >= kLarge) {
    munmap(memory, round_up(bytes, kPage));
    return;
  }
#endif
  (void)bytes;
  std::free(memory);
}

}  // namespace evenflow
