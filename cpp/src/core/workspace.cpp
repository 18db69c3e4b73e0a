#include <algorithm>
#include <cstdlib>

#include "core/memory.hpp"
#include "evenflow/context.hpp"

namespace evenflow {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kFirstBlock = size_t{1} << 16;

size_t rounded(size_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

}  // namespace

Workspace::~Workspace() {
  for (Block& block : blocks_) std::free(block.data);
}

void* Workspace::take(size_t bytes) {
  bytes = rounded(std::max<size_t>(bytes, 1));
  while (block_ < blocks_.size() && used_ + bytes > blocks_[block_].size) {
    ++block_;
    used_ = 0;
  }
  if (block_ == blocks_.size()) {
    const size_t size = std::max({bytes, kFirstBlock, rounded(capacity() / 2)});
    blocks_.push_back({static_cast<char*>(allocate(size)), size});
    used_ = 0;
  }
  void* p = blocks_[block_].data + used_;
  used_ += bytes;
  return p;
}

Workspace::Mark Workspace::mark() const {
  return {block_, used_};
}

void Workspace::release(Mark mark) {
  block_ = mark.block;
  used_ = mark.used;
  if (block_ == 0 && used_ == 0 && blocks_.size() > 1) merge();
}

size_t Workspace::capacity() const {
  size_t total = 0;
  for (const Block& block : blocks_) total += block.size;
  return total;
}

void Workspace::merge() {
  const size_t total = capacity();
  for (Block& block : blocks_) std::free(block.data);
  blocks_.clear();
  blocks_.push_back({static_cast<char*>(allocate(total)), total});
}

}  // namespace evenflow
