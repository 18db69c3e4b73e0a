#pragma once

#include <cstdint>

#include "kernels/cpu/isa.hpp"

namespace evenflow {

/// Loops that are bound by one thing alone, compiled for one instruction set.
struct PeakLoops {
  int64_t flops;  ///< of one round
  float (*multiply_add)(int64_t rounds);
  float (*read)(int64_t n, const float* x);  ///< n a multiple of 1024; the sum
  void (*triad)(int64_t n, const float* x, const float* y, float* z);
  void (*update)(int64_t n, const float* g, float* x, float* y, float* z);
};

PeakLoops peak_loops_baseline();
PeakLoops peak_loops_avx2();
PeakLoops peak_loops_avx512();
/// multiply_add is the dot product of pairs of bfloat16; the others are null.
PeakLoops peak_loops_bf16();
/// The same by products of matrices.
PeakLoops peak_loops_amx();

namespace peak {

template <class Isa>
struct Vector {
  typedef float type __attribute__((vector_size(Isa::vector_bytes)));
};

template <class Isa>
using VectorOf = typename Vector<Isa>::type;

template <class Isa>
constexpr int64_t lanes = Isa::vector_bytes / 4;

/// Independent sums: two units times a latency of four or five cycles, within sixteen registers.
constexpr int kSums = 12;

template <class Isa>
float total(const VectorOf<Isa>* sums) {
  float result = 0;
  for (int k = 0; k < kSums; ++k) {
    for (int64_t i = 0; i < lanes<Isa>; ++i) result += sums[k][i];
  }
  return result;
}

template <class Isa>
float multiply_add(int64_t rounds) {
  VectorOf<Isa> sums[kSums];
  // Values that stay near 1, and that the compiler can't see through.
  const float count = static_cast<float>(rounds);
  const VectorOf<Isa> factor = VectorOf<Isa>{} + count / (count + 1),
                      offset = VectorOf<Isa>{} + 1 / (count + 1);
  for (int k = 0; k < kSums; ++k) sums[k] = offset + static_cast<float>(k);
  for (int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12
    for (int k = 0; k < kSums; ++k) sums[k] = sums[k] * factor + offset;
  }
  return total<Isa>(sums);
}

template <class Isa>
float read(int64_t n, const float* x) {
  VectorOf<Isa> sums[kSums] = {};
  constexpr int kLoads = 8;
  for (int64_t i = 0; i < n; i += kLoads * lanes<Isa>) {
#pragma GCC unroll 8
    for (int k = 0; k < kLoads; ++k) {
      sums[k] += *reinterpret_cast<const VectorOf<Isa>*>(x + i + k * lanes<Isa>);
    }
  }
  return total<Isa>(sums);
}

template <class Isa>
void triad(int64_t n, const float* x, const float* y, float* z) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) z[i] = x[i] + 0.5f * y[i];
}

template <class Isa>
void update(int64_t n, const float* g, float* x, float* y, float* z) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    x[i] = 0.5f * x[i] + g[i];
    y[i] = 0.5f * y[i] + g[i];
    z[i] = 0.5f * z[i] + g[i];
  }
}

template <class Isa>
PeakLoops loops() {
  return {2 * kSums * lanes<Isa>, &multiply_add<Isa>, &read<Isa>, &triad<Isa>, &update<Isa>};
}

}  // namespace peak
}  // namespace evenflow
