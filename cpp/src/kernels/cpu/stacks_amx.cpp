#include "kernels/cpu/amx.hpp"
#include "kernels/cpu/half_stacks.hpp"

namespace evenflow {
namespace gemm {

template <>
struct Rounding<Amx> : Avx512Rounding<Amx> {};

/// Registers 0 to 3 hold two by two matrices of sums, 4 and 5 of A, 6 and 7 of B.
template <>
struct MatrixUnit<Amx> {
  static constexpr int N = MatrixRegisters::size;
  using Session = MatrixRegisters;

  static void multiply(int64_t steps, Strip<float> a, Strip<float> b, bool tall, bool wide, float* sums) {
    if (tall && wide) {
      run<true, true>(steps, a, b, sums);
    } else if (tall) {
      run<true, false>(steps, a, b, sums);
    } else if (wide) {
      run<false, true>(steps, a, b, sums);
    } else {
      run<false, false>(steps, a, b, sums);
    }
  }

 private:
  template <bool tall, bool wide>
  static void run(int64_t steps, Strip<float> a, Strip<float> b, float* sums) {
    written();
    _tile_zero(0);
    if (wide) _tile_zero(1);
    if (tall) _tile_zero(2);
    if (tall && wide) _tile_zero(3);
    int64_t p = 0;
    for (; p + N <= steps; p += N) {
      add<tall, wide>({a.data + p, a.stride}, {b.data + p * b.stride, b.stride});
    }
    if (p < steps) {
      alignas(64) float a_end[2 * N * N] = {}, b_end[N * 2 * N] = {};
      for (int i = 0; i < (tall ? 2 : 1) * N; ++i)
        copy_run(a_end + i * N, a.data + i * a.stride + p, steps - p);
      for (int64_t q = p; q < steps; ++q) {
        memcpy(b_end + (q - p) * 2 * N, b.data + q * b.stride, (wide ? 2 : 1) * N * sizeof(float));
      }
      written();
      add<tall, wide>({a_end, N}, {b_end, 2 * N});
    }
    _tile_stored(0, sums, kRow);
    if (wide) _tile_stored(1, sums + N, kRow);
    if (tall) _tile_stored(2, sums + N * 2 * N, kRow);
    if (tall && wide) _tile_stored(3, sums + N * 2 * N + N, kRow);
    written();
  }

  template <bool tall, bool wide>
  EVENFLOW_HD static void add(Strip<float> a, Strip<float> b) {
    const int64_t a_row = a.stride * 4, b_row = b.stride * 4;
    _tile_loadd(6, b.data, b_row);
    _tile_loadd(4, a.data, a_row);
    _tile_dpbf16ps(0, 4, 6);
    if (wide) {
      _tile_loadd(7, b.data + N, b_row);
      _tile_dpbf16ps(1, 4, 7);
    }
    if (tall) {
      _tile_loadd(5, a.data + N * a.stride, a_row);
      _tile_dpbf16ps(2, 5, 6);
    }
    if (tall && wide) _tile_dpbf16ps(3, 5, 7);
  }

  /// GCC takes the instructions for ones that touch no memory.
  EVENFLOW_HD static void written() { __asm__ volatile("" ::: "memory"); }

  static constexpr int64_t kRow = 2 * N * sizeof(float);
};

}  // namespace gemm

const HalfStacks& stacks_amx() {
  static const HalfStacks stacks = half_stacks<Amx>();
  return stacks;
}

}  // namespace evenflow
