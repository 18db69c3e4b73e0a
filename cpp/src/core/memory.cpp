#include "core/memory.hpp"

#include <cstdlib>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace evenflow {
namespace {

size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

void* allocate(size_t bytes) {
#if defined(__linux__)
  constexpr size_t kPage = size_t{1} << 12, kHugePage = size_t{1} << 21;
  if (bytes >= kHugePage) {
    // Whole small pages only: what exceeds the huge ones shall not take another.
    const size_t size = round_up(bytes, kPage);
    void* p = nullptr;
    if (posix_memalign(&p, kHugePage, size) != 0) throw std::bad_alloc();
    madvise(p, size, MADV_HUGEPAGE);
    return p;
  }
#endif
  constexpr size_t kLine = 64;
  void* p = std::aligned_alloc(kLine, round_up(bytes ? bytes : 1, kLine));
  if (!p) throw std::bad_alloc();
  return p;
}

}  // namespace evenflow
