#include <algorithm>
#include <exception>

#include "core/device.hpp"
#include "core/memory.hpp"
#include "evenflow/context.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define EVENFLOW_POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EVENFLOW_POISON 1
#endif
#endif
#ifdef EVENFLOW_POISON
#include <sanitizer/asan_interface.h>
#endif

namespace evenflow {
namespace {

constexpr size_t kFirstBlock = size_t{1} << 16;

/// Under the address sanitizer every array in host memory is followed by a poisoned gap, so that overruns are
/// reported.
#ifdef EVENFLOW_POISON
constexpr size_t kGap = 64;
void unpoison(void* p, size_t bytes) {
  __asan_unpoison_memory_region(p, bytes);
}
void poison(void* p, size_t bytes) {
  __asan_poison_memory_region(p, bytes);
}
#else
constexpr size_t kGap = 0;
void unpoison(void*, size_t) {}
void poison(void*, size_t) {}
#endif

/// Rounds up to whole cache lines, at least one.
size_t rounded(size_t bytes) {
  return bytes ? (bytes + 63) / 64 * 64 : 64;
}

}  // namespace

Workspace::~Workspace() {
  drop_blocks(0);
}

void Workspace::add_block(size_t size) {
  blocks_.reserve(blocks_.size() + 1);  // else push_back could throw and leak the allocation
  blocks_.push_back({static_cast<char*>(device_ ? device_->allocate(size) : allocate(size)), size});
}

void Workspace::drop_blocks(size_t keep) {
  for (; blocks_.size() > keep; blocks_.pop_back()) {
    if (device_) {
      device_->release(blocks_.back().data);
    } else {
      unpoison(blocks_.back().data, blocks_.back().size);
      deallocate(blocks_.back().data, blocks_.back().size);
    }
  }
}

void* Workspace::take(size_t bytes) {
  const bool exact = device_ && device_->separate_arrays();
  const size_t gap = device_ ? 0 : kGap;
  bytes = exact ? std::max<size_t>(bytes, 1) : rounded(bytes) + gap;
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    add_block(exact ? bytes : std::max({bytes, kFirstBlock, rounded(capacity() / 2)}));
    used_ = 0;
  }
  char* p = blocks_[block_].data + used_;
  used_ += bytes;
  if (gap) {
    unpoison(p, bytes - gap);
    poison(p + bytes - gap, gap);
  }
  return p;
}

void Workspace::tidy() {
  if (device_ && device_->separate_arrays()) {
    drop_blocks(used_ ? block_ + 1 : block_);
  } else if (block_ == 0 && used_ == 0 && blocks_.size() > 1) {
    const size_t total = capacity();
    drop_blocks(0);
    try {
      add_block(total);
    } catch (const std::exception&) {
      // This runs in destructors, so it must not throw. The next take() reports the lack of memory.
    }
  }
}

size_t Workspace::capacity() const {
  size_t total = 0;
  for (const Block& block : blocks_) total += block.size;
  return total;
}

size_t Workspace::unused() const {
  size_t total = 0;
  for (size_t b = block_; b < blocks_.size(); ++b) total += blocks_[b].size;
  return total - used_;
}

}  // namespace evenflow
