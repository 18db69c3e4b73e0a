#include "evenflow/context.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/device.hpp"
#include "core/team.hpp"
#include "evenflow/error.hpp"
#include "kernels/kernel_set.hpp"

namespace evenflow {
namespace {

IsaLevel wanted_isa() {
  const char* name = std::getenv("EVENFLOW_ISA");
  if (!name || !*name) return IsaLevel::best;
  const std::string isa = name;
  if (isa == "baseline") return IsaLevel::baseline;
  if (isa == "avx2") return IsaLevel::avx2;
  if (isa == "avx512") return IsaLevel::avx512;
  if (isa == "avx512_bf16") return IsaLevel::avx512_bf16;
  if (isa == "amx") return IsaLevel::amx;
  fail<ConfigError>("EVENFLOW_ISA", "expected baseline, avx2, avx512, avx512_bf16 or amx, got ", isa);
}

}  // namespace

Ranks::~Ranks() = default;

Context::Context(const std::string& device, int threads) {
  if (threads < 0 || threads > kMostThreads) {
    fail<ConfigError>("context", "expected threads in 0 ... ", kMostThreads, ", got ", threads);
  }
  threads_ = threads ? threads : usual_threads();
  if (const Backend* backend = find_backend(device.c_str())) {
    device_.reset(backend->open());
    workspace_.use(device_.get());
    kernels_f32_ = &device_->kernels_f32();
    kernels_f64_ = &device_->kernels_f64();
    return;
  }
  const IsaLevel level = best_isa(wanted_isa());
  kernels_f32_ = &cpu_kernels<float>(level);
  kernels_f64_ = &cpu_kernels<double>(level);
}

Context::Context(const Context& parent, Child)
    : threads_(1), kernels_f32_(parent.kernels_f32_), kernels_f64_(parent.kernels_f64_) {}

Context::~Context() = default;

const char* Context::device_name() const {
  return device_ ? device_->name() : "cpu";
}

void Context::to_device(void* to, const void* from, size_t bytes) {
  if (device_) {
    device_->to_device(to, from, bytes);
  } else {
    std::memmove(to, from, bytes);
  }
}

void Context::to_host(void* to, const void* from, size_t bytes) {
  if (device_) {
    device_->to_host(to, from, bytes);
  } else {
    std::memmove(to, from, bytes);
  }
}

void Context::synchronize() {
  if (device_) device_->synchronize();
}

void Context::prepare_children(int count) {
  while (static_cast<int>(children_.size()) < count) children_.emplace_back(new Context(*this, Child()));
}

template <>
const KernelSet<float>& Context::kernels<float>() const {
  return *kernels_f32_;
}
template <>
const KernelSet<double>& Context::kernels<double>() const {
  return *kernels_f64_;
}

const char* Context::isa() const {
  return kernels_f32_->isa;
}

}  // namespace evenflow
