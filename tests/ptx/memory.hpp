#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace evenflow::ptx {

/// Which thread touches memory: of one launch after the other, and between which of its block's barriers.
struct Toucher {
  uint32_t launch = 0;
  uint32_t epoch = 0;
  int64_t block = 0;
  int thread = 0;
};

/// Who touched two bytes last, to write them and to read them.
class Traces {
 public:
  explicit Traces(size_t bytes) : traces_((bytes + 1) / 2) {}
  /// Why an access is in no order with another thread's, or null.
  const char* touch(size_t at, size_t bytes, bool writes, const Toucher& by);

 private:
  static constexpr int kSeveral = -1;  ///< threads, or blocks, that read
  struct Trace {
    Toucher writer, reader;
  };
  std::vector<Trace> traces_;
};

/// A GPU's memory: what a kernel, or a copy, may touch, and what has been written there. New memory is full
/// of ones, which are no numbers.
class Memory {
 public:
  void* allocate(size_t bytes, bool managed);
  void release(void* memory);
  size_t used() const { return used_; }
  /// Why a copy or a kernel may not touch these bytes, or null. by: a kernel's thread, or null.
  const char* touch(const void* at, size_t bytes, bool writes, const Toucher* by);

 private:
  struct Allocation {
    std::unique_ptr<char[]> room;
    size_t size;
    bool managed;               ///< the program writes there, too
    std::vector<bool> written;  ///< a byte each
    std::unique_ptr<Traces> traces;
  };
  std::map<uintptr_t, Allocation> allocations_;  ///< by the first byte
  size_t used_ = 0;
};

}  // namespace evenflow::ptx
