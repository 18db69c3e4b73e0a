#include "core/memory.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <memory>
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

constexpr int64_t kNoLimit = std::numeric_limits<int64_t>::max();

/// Calls f(line) for every line of a small text file. An unreadable file has no lines.
template <class F>
void each_line(const std::string& path, const F& f) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "re"), std::fclose);
  if (!file) return;
  char line[4096];  // a group's path may be that long
  while (std::fgets(line, sizeof line, file.get())) f(line);
}

/// The sum of the numbers that follow one of these words at the beginning of a line. Words followed by "max"
/// are skipped. Returns `otherwise` if no number is found.
int64_t numbers_in(const std::string& path, std::initializer_list<const char*> words, int64_t otherwise) {
  int64_t sum = 0;
  bool any = false;
  each_line(path, [&](const char* line) {
    for (const char* word : words) {
      const size_t length = std::strlen(word);
      long long value;
      if (std::strncmp(line, word, length) != 0) continue;
      if (std::sscanf(line + length, "%lld", &value) != 1) continue;
      sum += value;
      any = true;
    }
  });
  return any ? sum : otherwise;
}

/// File names of one version of control groups, and the lines of memory.stat that count cached files of a
/// group and its subgroups. high: the limit above which version 2 slows processes down.
struct GroupFiles {
  const char *limit, *high, *used, *active, *inactive;
};
constexpr GroupFiles kVersion1 = {"/memory.limit_in_bytes", "/memory.limit_in_bytes",
                                  "/memory.usage_in_bytes", "total_active_file ", "total_inactive_file "};
constexpr GroupFiles kVersion2 = {"/memory.max", "/memory.high", "/memory.current", "active_file ",
                                  "inactive_file "};

/// Bytes that a group's processes may still allocate. Cached files do not count: the system drops them before
/// it ends a process.
int64_t left_in(const std::string& group, const GroupFiles& files) {
  const int64_t limit = std::min(numbers_in(group + files.limit, {""}, kNoLimit),
                                 numbers_in(group + files.high, {""}, kNoLimit));
  if (limit == kNoLimit) return kNoLimit;
  const int64_t cached = numbers_in(group + "/memory.stat", {files.active, files.inactive}, 0);
  const int64_t kept = std::max<int64_t>(numbers_in(group + files.used, {""}, 0) - cached, 0);
  return std::max<int64_t>(limit - kept, 0);
}

/// The minimum of left_in over a group and its parents, up to the mount point. The mount point counts too: in
/// a container it may be the container's own group, while /proc/self/cgroup has the host's path.
int64_t least_left(const std::string& mount, const std::string& group, const GroupFiles& files) {
  int64_t least = left_in(mount, files);
  for (size_t end = group.size(); end != 0 && end != std::string::npos; end = group.rfind('/', end - 1)) {
    least = std::min(least, left_in(mount + group.substr(0, end), files));
  }
  return least;
}

/// Bytes that the control groups of this process still allow. Lines of /proc/self/cgroup:
/// number:controllers:path, without controllers for version 2.
int64_t left_by_groups(const std::string& root) {
  int64_t least = kNoLimit;
  each_line(root + "/proc/self/cgroup", [&](const char* line) {
    const char* const controllers = std::strchr(line, ':');
    const char* const path = controllers ? std::strchr(controllers + 1, ':') : nullptr;
    if (!path) return;
    const std::string group(path + 1, std::strcspn(path + 1, "\n"));
    const std::string controller_list = "," + std::string(controllers + 1, path) + ",";
    if (controller_list == ",,") {
      least = std::min(least, least_left(root + "/sys/fs/cgroup", group, kVersion2));
    } else if (controller_list.find(",memory,") != std::string::npos) {
      least = std::min(least, least_left(root + "/sys/fs/cgroup/memory", group, kVersion1));
    }
  });
  return least;
}

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
    munmap(memory, round_up(bytes, page_size()));
    return;
  }
#endif
  (void)bytes;
  std::free(memory);
}

int64_t free_memory(const std::string& root) {
  // MemAvailable counts reclaimable caches, which sysconf's free pages do not.
  const int64_t kib = numbers_in(root + "/proc/meminfo", {"MemAvailable:"}, -1);
  const int64_t machine =
      kib >= 0 ? kib * 1024 : static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE) / 2;
  return std::min(machine, left_by_groups(root));
}

}  // namespace evenflow
