#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/products.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow {

[[gnu::weak]] const HalfStacks& stacks_avx512_bf16();
[[gnu::weak]] const HalfStacks& stacks_amx();

namespace {

using Kernels = KernelSetImpl<CpuExec<Avx512>, CpuProducts<Avx512, float>, float>;

class KernelsWithStacks final : public Kernels {
 public:
  explicit KernelsWithStacks(const HalfStacks& stacks) : stacks_(stacks) {}
  const char* isa() const override { return stacks_.isa; }

  void stack_forward(Context& ctx, const StackUnit<float>* units, int count, bool half, View<const float> x,
                     void* acts, View<float> h) const override {
    if (!half) return Kernels::stack_forward(ctx, units, count, half, x, acts, h);
    stacks_.forward(ctx, units, count, x, static_cast<Bf16*>(acts), h);
  }

  void stack_backward(Context& ctx, const StackUnit<float>* units, int count, bool half, View<const float> x,
                      const void* acts, View<const float> h, View<float> dh, View<float> dx) const override {
    if (!half) return Kernels::stack_backward(ctx, units, count, half, x, acts, h, dh, dx);
    last_epilogue_backward(ctx, units[count - 1], h, dh);
    stacks_.backward(ctx, units, count, x, static_cast<const Bf16*>(acts), dh, dx);
  }

 private:
  const HalfStacks& stacks_;
};

}  // namespace

const KernelSet<float>& kernels_avx512_f32() {
  static const Kernels kernels;
  return kernels;
}

const KernelSet<double>& kernels_avx512_f64() {
  static const KernelSetImpl<CpuExec<Avx512>, CpuProducts<Avx512, double>, double> kernels;
  return kernels;
}

const KernelSet<float>& kernels_avx512_bf16_f32() {
  static const KernelsWithStacks kernels(stacks_avx512_bf16());
  return kernels;
}

const KernelSet<float>& kernels_amx_f32() {
  static const KernelsWithStacks kernels(stacks_amx());
  return kernels;
}

}  // namespace evenflow
