#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/net.hpp"
#include "kernels/launch.hpp"

namespace evenflow {

[[gnu::weak]] const Bf16Stacks& stacks_avx512_bf16();
[[gnu::weak]] const Bf16Stacks& stacks_amx();

namespace {

// Weights of a layer from which on split float32 products are faster than plain ones.
constexpr int64_t kDense = int64_t{1} << 17, kSpatial = int64_t{1} << 14;

class NetWithStacks final : public CpuNet<Avx512, float> {
 public:
  explicit NetWithStacks(const Bf16Stacks& stacks) : stacks_(stacks) {}

  void stack_forward(Context& ctx, const StackUnit<float>* units, int count, bool bf16, View<const float> x,
                     void* acts, View<float> h) const override {
    if (bf16) {
      stacks_.bf16.forward(ctx, units, count, x, static_cast<Bf16*>(acts), h);
    } else if (splits(units, count)) {
      stacks_.split_f32.forward(ctx, units, count, x, static_cast<float*>(acts), h);
    } else {
      CpuNet::stack_forward(ctx, units, count, bf16, x, acts, h);
    }
  }

  void stack_backward(Context& ctx, const StackUnit<float>* units, int count, bool bf16, View<const float> x,
                      const void* acts, View<const float> h, View<float> dh, View<float> dx) const override {
    const bool split_f32 = !bf16 && splits(units, count);
    if (!bf16 && !split_f32) return CpuNet::stack_backward(ctx, units, count, bf16, x, acts, h, dh, dx);
    last_epilogue_backward(ctx, units[count - 1], h, dh);
    if (split_f32) {
      stacks_.split_f32.backward(ctx, units, count, x, static_cast<const float*>(acts), dh, dx);
    } else {
      stacks_.bf16.backward(ctx, units, count, x, static_cast<const Bf16*>(acts), dh, dx);
    }
  }

 private:
  /// Depends on the net only, so a row gets the same bits in any batch.
  bool splits(const StackUnit<float>* units, int count) const {
    if (!stacks_.split_f32.forward) return false;
    int64_t largest = 0;
    for (int u = 0; u < count; ++u) largest = ops::max_of(largest, units[u].dims.weight_size());
    return largest >= (gemm::pointwise(units, count) ? kDense : kSpatial);
  }

  const Bf16Stacks& stacks_;
};

}  // namespace

const KernelSet<float>& kernels_avx512_f32() {
  return kernel_set_of<CpuNet<Avx512, float>>();
}

const KernelSet<double>& kernels_avx512_f64() {
  return kernel_set_of<CpuNet<Avx512, double>>();
}

const KernelSet<float>& kernels_avx512_bf16_f32() {
  static const NetWithStacks net(stacks_avx512_bf16());
  static const KernelSet<float> kernels = kernel_set_of(stacks_avx512_bf16().isa, net);
  return kernels;
}

const KernelSet<float>& kernels_amx_f32() {
  static const NetWithStacks net(stacks_amx());
  static const KernelSet<float> kernels = kernel_set_of(stacks_amx().isa, net);
  return kernels;
}

}  // namespace evenflow
