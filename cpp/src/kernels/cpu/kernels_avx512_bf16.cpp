#include <immintrin.h>

#include "kernels/cpu/gemm/tile.hpp"

namespace evenflow::gemm {

/// Numbers below 2^-126 become zero, as the products' instruction takes them too.
template <>
struct Rounding<Avx512Bf16> {
  using Vector = typename Tile<Avx512Bf16, float>::Value;
  using Halves = typename HalfLanes<sizeof(Vector)>::Halves;
  EVENFLOW_HD static Halves halves(Vector value) { return (Halves)_mm512_cvtneps_pbh((__m512)value); }
  EVENFLOW_HD static Bf16 half(float value) {
    return {static_cast<uint16_t>(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(value)), 0))};
  }
};

template <>
struct PairDot<Avx512Bf16> {
  using Vector = typename Tile<Avx512Bf16, float>::Vector;
  EVENFLOW_HD static Vector add(Vector sum, float left, Vector right) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(left), (__m512bh)(__m512)right);
  }
};

}  // namespace evenflow::gemm

#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/products.hpp"
#include "kernels/kernel_set_impl.hpp"

namespace evenflow {

const KernelSet<float>& kernels_avx512_bf16_f32() {
  static const KernelSetImpl<CpuExec<Avx512Bf16>, CpuProducts<Avx512Bf16, float>, float> kernels;
  return kernels;
}

}  // namespace evenflow
