#pragma once

#include <immintrin.h>

#include "kernels/cpu/kernels.hpp"
#include "kernels/cpu/products.hpp"

namespace evenflow {
namespace gemm {

/// Numbers below 2^-126 become zero, as the products' instructions take them too.
template <class Isa>
struct Avx512Rounding {
  using Vector = typename Tile<Isa, float>::Value;
  using Halves = typename HalfLanes<sizeof(Vector)>::Halves;
  EVENFLOW_HD static Halves halves(Vector value) { return (Halves)_mm512_cvtneps_pbh((__m512)value); }
  EVENFLOW_HD static Bf16 half(float value) {
    return {static_cast<uint16_t>(_mm_extract_epi16((__m128i)_mm_cvtneps_pbh(_mm_set_ss(value)), 0))};
  }
};

}  // namespace gemm

template <class Isa>
HalfStacks half_stacks() {
  using Products = CpuProducts<Isa, float>;
  return {Isa::name, &Products::template stack_forward<Bf16>, &Products::template stack_backward<Bf16>};
}

}  // namespace evenflow
