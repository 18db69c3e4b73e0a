#include <immintrin.h>

#include "kernels/cpu/peak_loops.hpp"

namespace evenflow {
namespace {

constexpr int kSums = 12;
constexpr int64_t kFlops = 64;  // sixteen lanes of two products and two sums

float multiply_add(int64_t rounds) {
  const float count = static_cast<float>(rounds);
  const __m512 small = _mm512_set1_ps(1 / (count + 1));
  const __m512bh factor = _mm512_cvtne2ps_pbh(small, small);
  __m512 sums[kSums];
  for (int k = 0; k < kSums; ++k) sums[k] = _mm512_set1_ps(static_cast<float>(k));
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = _mm512_dpbf16_ps(sums[k], factor, factor);
  }
  float result = 0;
  for (int k = 0; k < kSums; ++k) result += _mm512_reduce_add_ps(sums[k]);
  return result;
}

}  // namespace

PeakLoops peak_loops_bf16() {
  return {kFlops * kSums, &multiply_add, nullptr, nullptr, nullptr};
}

}  // namespace evenflow
