#include "emulator.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <numeric>
#include <stdexcept>

#include "evenflow/version.h"

namespace evenflow::test {
namespace {

class EmulatedDevice final : public Device {
 public:
  ~EmulatedDevice() override { Emulator::get().forget(this); }
  const char* name() const override { return Emulator::get().name; }
  int id() const override { return 0; }
  uintptr_t handle() const override {
    known_ = true;
    return reinterpret_cast<uintptr_t>(this);
  }
  void* allocate(size_t bytes) override {
    idle_ = false;
    if (Emulator::get().allocations_left-- == 0) {
      Emulator::get().allocations_left = 0;
      fail<DeviceError>("emulator", "expected memory, got none");
    }
    return Emulator::get().allocate(bytes, this);
  }
  void release(void* memory) noexcept override {
    if (known_ && !idle_) std::abort();  // whom the queue was told may have work on the memory under way
    Emulator::get().release(memory);
  }
  bool separate_arrays() const override { return Emulator::get().separate_arrays; }
  int64_t free_memory() const override { return int64_t{1} << 30; }
  void to_device(void* to, const void* from, size_t bytes) override {
    Emulator::get().open();
    std::memcpy(to, from, bytes);
    Emulator::get().close();
  }
  void to_host(void* to, const void* from, size_t bytes) override {
    Emulator::get().open();
    std::memcpy(to, from, bytes);
    Emulator::get().close();
    Emulator::get().wait();
  }
  void synchronize() override { Emulator::get().wait(); }
  void follow(Device& other) override { Emulator::get().follow(this, &other); }
  bool wait_for_all() noexcept override {
    Emulator::get().wait();
    return idle_ = true;
  }
  const KernelSet<float>& kernels_f32() const override { return emulated_kernels_f32(); }
  const KernelSet<double>& kernels_f64() const override { return emulated_kernels_f64(); }

 private:
  mutable bool known_ = false;  ///< to other libraries
  bool idle_ = false;           ///< nothing was allocated since wait_for_all()
};

void protect(void* base, size_t size, int access) {
  if (mprotect(base, size, access) != 0) throw std::runtime_error("mprotect failed");
}

}  // namespace

Guarded::Guarded(size_t bytes) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE)), used = (bytes + page - 1) / page * page;
  size_ = used + page;
  void* memory = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<char*>(memory);
  protect(base_ + used, page, PROT_NONE);
  data_ = base_ + (used - bytes);
}

Guarded::~Guarded() {
  munmap(base_, size_);
}

Emulator& Emulator::get() {
  static Emulator emulator;
  return emulator;
}

void* Emulator::allocate(size_t bytes, const Device* queue) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t used = (bytes + 15) / 16 * 16, size = (used + page - 1) / page * page;
  void* memory = mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  char* base = static_cast<char*>(memory);
  protect(base + size, page, PROT_NONE);
  std::memset(base, 0xCB, size);
  if (queue) protect(base, size, PROT_NONE);
  regions_.push_back({base, size, base + (size - used), queue, allocations_++});
  return regions_.back().data;
}

void Emulator::release(void* memory) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto found =
      std::find_if(regions_.begin(), regions_.end(), [&](const Region& r) { return r.data == memory; });
  if (found == regions_.end()) throw std::logic_error("released what was not allocated");
  munmap(found->base, found->size + page);
  regions_.erase(found);
}

void Emulator::open() {
  for (const Region& r : regions_) protect(r.base, r.size, PROT_READ | PROT_WRITE);
}

void Emulator::close() {
  for (const Region& r : regions_) protect(r.base, r.size, PROT_NONE);
}

void Emulator::open_shared() {
  for (const Region& r : regions_) {
    if (!r.queue) protect(r.base, r.size, PROT_READ | PROT_WRITE);
  }
}

void Emulator::forget(const Device* queue) {
  for (auto at = followed_.begin(); at != followed_.end();) {
    at = at->first.first == queue || at->first.second == queue ? followed_.erase(at) : std::next(at);
  }
}

const Emulator::Region* Emulator::region_of(uintptr_t address) const {
  const auto found = std::find_if(regions_.begin(), regions_.end(), [&](const Region& r) {
    const auto base = reinterpret_cast<uintptr_t>(r.base);
    return address >= base && address <= base + r.size;  // one past the end of an empty view is fine
  });
  return found == regions_.end() ? nullptr : &*found;
}

bool Emulator::ordered(const Device* queue, const Region& region) const {
  if (!region.queue || region.queue == queue) return true;
  const auto found = followed_.find({queue, region.queue});
  return found != followed_.end() && region.number < found->second;
}

void Emulator::check_arguments(const void* body, size_t bytes, const Device* queue) const {
  for (size_t at = 0; at + sizeof(uintptr_t) <= bytes; at += sizeof(uintptr_t)) {
    uintptr_t word;
    std::memcpy(&word, static_cast<const char*>(body) + at, sizeof word);
    // A user-space address of aligned data; sizes are smaller, floating-point numbers larger.
    const bool address = word >> 40 && word >> 47 == 0 && word % 4 == 0 && (word & 0xffffffff) > 0xffff;
    if (!address) continue;
    const Region* region = region_of(word);
    if (!region) {
      throw std::logic_error("a kernel got a pointer that is not the device's, at byte " +
                             std::to_string(at));
    }
    if (!ordered(queue, *region)) {
      throw std::logic_error("a kernel got memory of a queue that its own does not follow, at byte " +
                             std::to_string(at));
    }
  }
}

std::vector<int64_t> Emulator::order_of(int64_t count) const {
  std::vector<int64_t> all(static_cast<size_t>(count));
  std::iota(all.begin(), all.end(), 0);
  if (order == descending) std::reverse(all.begin(), all.end());
  if (order == shuffled) {
    // A step that shares no factor with the count visits everything once.
    int64_t step = count / 2 + 1;
    while (std::gcd(step, count) != 1) ++step;
    for (int64_t& i : all) i = (i * step + count / 3) % count;
  }
  return all;
}

bool Emulator::note(const char* body) {
  const char* file = std::getenv("EVENFLOW_EMULATED_BODIES");
  return file && std::ofstream(file, std::ios::app) << body << '\n';
}

Backend emulated_backend(const char* name) {
  Emulator::get().name = name;
  Backend backend;
  backend.version = EVENFLOW_VERSION;
  backend.name = name;
  backend.open = []() -> Device* { return new EmulatedDevice; };
  backend.allocate_shared = [](size_t bytes) { return Emulator::get().allocate(bytes, nullptr); };
  backend.release_shared = [](void* memory) { Emulator::get().release(memory); };
  return backend;
}

}  // namespace evenflow::test
