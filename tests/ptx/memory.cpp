#include "memory.hpp"

#include <cstring>

#include "program.hpp"

namespace evenflow::ptx {
namespace {

constexpr size_t kAligned = 256;  // as CUDA's

}  // namespace

const char* Traces::touch(size_t at, size_t bytes, bool writes, const Toucher& by) {
  const char* conflict = nullptr;
  for (size_t i = at / 2; i <= (at + bytes - 1) / 2; ++i) {
    auto& [writer, reader] = traces_[i];
    const auto apart = [&](const Toucher& other) {
      return other.launch == by.launch &&
             (other.block != by.block || (other.epoch == by.epoch && other.thread != by.thread));
    };
    if (apart(writer)) conflict = writes ? "two threads write it" : "another thread writes what is read";
    if (writes) {
      if (apart(reader)) conflict = "another thread reads what is written";
      writer = by;
    } else if (reader.launch != by.launch) {
      reader = by;
    } else if (reader.block != by.block) {
      reader.block = kSeveral;
    } else if (reader.epoch != by.epoch) {
      reader = by;
    } else if (reader.thread != by.thread) {
      reader.thread = kSeveral;
    }
  }
  return conflict;
}

void* Memory::allocate(size_t bytes, bool managed) {
  Allocation made{std::make_unique<char[]>(bytes + 2 * kAligned), bytes, managed, {}, nullptr};
  std::memset(made.room.get(), 0xFF, bytes + 2 * kAligned);
  if (!managed) made.written.resize(bytes);
  // A gap before each, so that what leaves one does not find the next.
  const uintptr_t at = (reinterpret_cast<uintptr_t>(made.room.get()) + kAligned) / kAligned * kAligned;
  allocations_.emplace(at, std::move(made));
  used_ += bytes;
  return reinterpret_cast<void*>(at);
}

void Memory::release(void* memory) {
  const auto found = allocations_.find(reinterpret_cast<uintptr_t>(memory));
  if (found == allocations_.end()) give_up("expected memory of the GPU to release, got other memory");
  used_ -= found->second.size;
  allocations_.erase(found);
}

const char* Memory::touch(const void* at, size_t bytes, bool writes, const Toucher* by) {
  if (bytes == 0) return nullptr;
  const auto address = reinterpret_cast<uintptr_t>(at);
  auto found = allocations_.upper_bound(address);
  if (found == allocations_.begin()) return "it is not the GPU's";
  --found;
  Allocation& in = found->second;
  const size_t first = address - found->first;
  if (first + bytes > in.size) return "it is not the GPU's";
  for (size_t i = first; !in.managed && i < first + bytes; ++i) {
    if (writes) {
      in.written[i] = true;
    } else if (!in.written[i]) {
      return "it has not been written";
    }
  }
  if (!by) return nullptr;
  if (!in.traces) in.traces = std::make_unique<Traces>(in.size);
  return in.traces->touch(first, bytes, writes, *by);
}

}  // namespace evenflow::ptx
