#pragma once

#include <immintrin.h>

#include "kernels/cpu/gemm/stack_backward.hpp"
#include "kernels/cpu/gemm/stack_forward.hpp"
#include "kernels/cpu/kernels.hpp"

namespace evenflow {
namespace gemm {

/// Flushes numbers below 2^-126 to zero, as the product instructions do.
template <class Isa>
struct Avx512Rounding {
  using Vector = typename RegisterTile<Isa, float>::Value;
  using Bf16Bits = typename IntegerLanes<sizeof(Vector)>::Bf16Bits;
  EVENFLOW_INLINE static Bf16Bits to_bits(Vector value) {
    return (Bf16Bits)_mm512_cvtneps_pbh((__m512)value);
  }
  /// The compiler alone would widen the vector in two halves and join them.
  template <class Words>
  EVENFLOW_INLINE static Words words(Bf16Bits bits) {
    return (Words)_mm512_cvtepu16_epi32((__m256i)bits);
  }
  EVENFLOW_INLINE static Bf16 bf16(float value) {
    return {static_cast<uint16_t>(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(value)), 0))};
  }
  /// The upper half of each word of low, then of high.
  EVENFLOW_INLINE static __m512i truncate(Vector low, Vector high) {
    alignas(64) static constexpr uint16_t kOdd[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                      23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                      45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return _mm512_permutex2var_epi16((__m512i)low, _mm512_load_si512(kOdd), (__m512i)high);
  }
};

}  // namespace gemm

template <class Isa, class H>
Bf16Stacks::Calls<H> bf16_stacks() {
  return {gemm::stack_forward<Isa, float, H>, gemm::stack_backward<Isa, float, H>};
}

}  // namespace evenflow
