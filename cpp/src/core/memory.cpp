#include "core/memory.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <vector>

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "core/control_groups.hpp"

namespace evenflow {
namespace {

size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

constexpr size_t kLine = 64;

#if defined(__linux__)
constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kLarge = size_t{1} << 17;  // bytes; blocks of this size and more are mapped directly

/// Bytes of a small page: 4 kB, on ARM up to 64 kB.
size_t page_size() {
  static const size_t size = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return size;
}

void* map_pages(size_t bytes) {
  const bool huge = bytes >= kHugePage;
  // Round up to small pages only, so that a remainder does not take another huge page.
  const size_t page = page_size(), size = round_up(bytes, page);
  if (size < bytes || size > SIZE_MAX - kHugePage) throw std::bad_alloc();
  const size_t reserved = huge ? size + kHugePage - page : size;
  void* const mapped = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  if (!huge) return mapped;
  char* const first = static_cast<char*>(mapped);
  const size_t head =
      round_up(reinterpret_cast<uintptr_t>(first), kHugePage) - reinterpret_cast<uintptr_t>(first);
  const size_t tail = reserved - head - size;
  if (head) munmap(first, head);
  if (tail) munmap(first + head + size, tail);
  madvise(first + head, size, MADV_HUGEPAGE);
  return first + head;
}
#endif

}  // namespace

void* allocate(size_t bytes) {
#if defined(__linux__)
  if (bytes >= kLarge) return map_pages(bytes);
#endif
  const size_t size = round_up(bytes ? bytes : 1, kLine);
  if (size < bytes) throw std::bad_alloc();
#if defined(_WIN32)
  void* const memory = _aligned_malloc(size, kLine);
#else
  void* const memory = std::aligned_alloc(kLine, size);
#endif
  if (!memory) throw std::bad_alloc();
  return std::memset(memory, 0, size);
}

void deallocate(void* memory, size_t bytes) noexcept {
#if defined(__linux__)
  if (bytes >= kLarge) {
    munmap(memory, round_up(bytes, page_size()));
    return;
  }
#endif
  (void)bytes;
#if defined(_WIN32)
  _aligned_free(memory);
#else
  std::free(memory);
#endif
}

#if defined(_WIN32)

int64_t free_memory(const std::string&) {
  MEMORYSTATUSEX status = {};
  status.dwLength = sizeof status;
  if (!GlobalMemoryStatusEx(&status)) return std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(std::min(status.ullAvailPhys, status.ullAvailPageFile));
}

#else

namespace {

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

int64_t number_in(const std::string& path, const std::string& word, int64_t otherwise) {
  const std::vector<int64_t> numbers = numbers_after(path, word);
  return numbers.empty() ? otherwise : numbers[0];
}

/// Bytes that a group's processes may still allocate. Cached files do not count: the system drops them before
/// it ends a process. A limit "max" is none. Above memory.high version 2 slows processes down.
int64_t left_in(const std::string& group) {
  int64_t limit = kNoLimit;
  for (const char* file : {"/memory.max", "/memory.high", "/memory.limit_in_bytes"}) {
    limit = std::min(limit, number_in(group + file, "", kNoLimit));
  }
  if (limit == kNoLimit) return kNoLimit;
  int64_t kept = number_in(group + "/memory.current", "", number_in(group + "/memory.usage_in_bytes", "", 0));
  // Version 1 has lines "total_" for a group with its subgroups, whose memory counts too.
  for (const std::string line : {"active_file ", "inactive_file "}) {
    const std::string stat = group + "/memory.stat";
    kept -= number_in(stat, "total_" + line, number_in(stat, line, 0));
  }
  return std::max<int64_t>(limit - std::max<int64_t>(kept, 0), 0);
}

}  // namespace

int64_t free_memory(const std::string& root) {
  // MemAvailable counts reclaimable caches, which sysconf's free pages do not.
  const int64_t kib = number_in(root + "/proc/meminfo", "MemAvailable:", -1);
  int64_t least =
      kib >= 0 ? kib * 1024 : static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) / 2;
  each_control_group(root, "memory",
                     [&](const std::string& group) { least = std::min(least, left_in(group)); });
  return least;
}

#endif

}  // namespace evenflow
