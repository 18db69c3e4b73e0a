#include "kernels/cpu/bf16_stacks.hpp"

namespace evenflow {
namespace gemm {

template <>
struct Rounding<Avx512Bf16> : Avx512Rounding<Avx512Bf16> {};

template <>
struct PairDot<Avx512Bf16> {
  using Vector = typename RegisterTile<Avx512Bf16, float>::Vector;
  EVENFLOW_INLINE static Vector add(Vector sum, float left, Vector right) {
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_ps(left), (__m512bh)(__m512)right);
  }
};

}  // namespace gemm

const Bf16Stacks& stacks_avx512_bf16() {
  static const Bf16Stacks stacks = {Avx512Bf16::name, bf16_stacks<Avx512Bf16, Bf16>(), {}};
  return stacks;
}

}  // namespace evenflow
