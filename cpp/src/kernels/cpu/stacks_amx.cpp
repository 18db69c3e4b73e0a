#include "kernels/cpu/amx.hpp"
#include "kernels/cpu/bf16_stacks.hpp"

namespace evenflow {
namespace gemm {

template <>
struct Rounding<Amx> : Avx512Rounding<Amx> {};
template <>
struct Rounding<AmxSplit> : Avx512Rounding<AmxSplit> {};

/// Matrix registers 0 to 3 hold two by two matrices of sums, 4 and 5 hold A, 6 and 7 hold B.
template <int parts>
struct AmxUnit {
  static constexpr int N = MatrixRegisters::size;
  using Session = MatrixRegisters;

  static void multiply(int64_t steps, Operand<float> a, Operand<float> b, bool tall, bool wide, float* sums) {
    const auto nothing = [](int64_t) {};
    if (tall && wide) {
      run<true, true>(steps, a, b, sums, nothing);
    } else if (tall) {
      run<true, false>(steps, a, b, sums, nothing);
    } else if (wide) {
      run<false, true>(steps, a, b, sums, nothing);
    } else {
      run<false, false>(steps, a, b, sums, nothing);
    }
  }

  template <class Between>
  EVENFLOW_INLINE static void multiply(int64_t steps, Operand<float> a, Operand<float> b, float* sums,
                                       const Between& between) {
    run<true, true>(steps, a, b, sums, between);
  }

 private:
  template <bool tall, bool wide, class Between>
  EVENFLOW_INLINE static void run(int64_t steps, Operand<float> a, Operand<float> b, float* sums,
                                  const Between& between) {
    written();
    _tile_zero(0);
    if (wide) _tile_zero(1);
    if (tall) _tile_zero(2);
    if (tall && wide) _tile_zero(3);
    for (int64_t p = 0; p < steps; p += N) {
      add<tall, wide>({a.data + p, a.stride}, {b.data + p * b.stride, b.stride});
      between(N);
    }
    _tile_stored(0, sums, kRow);
    if (wide) _tile_stored(1, sums + N, kRow);
    if (tall) _tile_stored(2, sums + N * 2 * N, kRow);
    if (tall && wide) _tile_stored(3, sums + N * 2 * N + N, kRow);
    written();
  }

  template <bool tall, bool wide>
  EVENFLOW_INLINE static void add(Operand<float> a, Operand<float> b) {
    if (parts == 1) {
      load_a<tall>(a, 0);
      load_b<wide>(b, 0);
      multiply_add<tall, wide>();
      return;
    }
    // Smallest products first. Every step loads one side.
    load_a<tall>(a, 0);
    load_b<wide>(b, 2);
    multiply_add<tall, wide>();
    load_b<wide>(b, 1);
    multiply_add<tall, wide>();
    load_a<tall>(a, 1);
    multiply_add<tall, wide>();
    load_b<wide>(b, 0);
    multiply_add<tall, wide>();
    load_a<tall>(a, 2);
    multiply_add<tall, wide>();
    load_a<tall>(a, 0);
    multiply_add<tall, wide>();
  }

  /// With one part, A bypasses L1, which keeps the panel of B for the next strip. With three parts, one of
  /// which is read twice, a panel fills L1 alone.
  template <bool tall>
  EVENFLOW_INLINE static void load_a(Operand<float> a, int part) {
    const float* from = a.data + part * (a.stride / parts);
    if (parts == 1) {
      _tile_stream_loadd(4, from, a.stride * 4);
      if (tall) _tile_stream_loadd(5, from + N * a.stride, a.stride * 4);
    } else {
      _tile_loadd(4, from, a.stride * 4);
      if (tall) _tile_loadd(5, from + N * a.stride, a.stride * 4);
    }
  }

  template <bool wide>
  EVENFLOW_INLINE static void load_b(Operand<float> b, int part) {
    const float* from = b.data + part * (b.stride / parts);
    _tile_loadd(6, from, b.stride * 4);
    if (wide) _tile_loadd(7, from + N, b.stride * 4);
  }

  template <bool tall, bool wide>
  EVENFLOW_INLINE static void multiply_add() {
    _tile_dpbf16ps(0, 4, 6);
    if (wide) _tile_dpbf16ps(1, 4, 7);
    if (tall) _tile_dpbf16ps(2, 5, 6);
    if (tall && wide) _tile_dpbf16ps(3, 5, 7);
  }

  /// GCC assumes that these instructions touch no memory.
  EVENFLOW_INLINE static void written() { __asm__ volatile("" ::: "memory"); }

  static constexpr int64_t kRow = 2 * N * sizeof(float);
};

template <>
struct MatrixUnit<Amx> : AmxUnit<Amx::parts> {};

template <>
struct MatrixUnit<AmxSplit> : AmxUnit<AmxSplit::parts> {
  /// sums (count <= 64) = row (k) times columns [n, n + count) of weights (k, width); bit-identical to
  /// multiply. An instruction adds the products of sixteen even steps and of sixteen odd steps, then the two,
  /// then the result to the sum. row holds the three parts (3, k).
  static void multiply_row(int64_t k, const float* row, const float* weights, int64_t width, int64_t n,
                           int64_t count, float* sums) {
    const unsigned rounding = _mm_getcsr();
    _mm_setcsr(rounding | _MM_FLUSH_ZERO_ON | _MM_DENORMALS_ZERO_ON);
    __m512 total[4] = {};
    for (int64_t first = 0; first < k; first += 2 * N) {
      const int64_t end = ops::min_of<int64_t>(k, first + 2 * N);
      for (int64_t v = 0; v * N < count; ++v) {
        const __mmask16 some = static_cast<__mmask16>((1u << ops::min_of<int64_t>(N, count - v * N)) - 1);
        const float* w = weights + n + v * N;
        __m512 even[kProducts] = {}, odd[kProducts] = {};
        int64_t p = first;
        for (; p + 1 < end; p += 2) {
          __builtin_prefetch(w + (p + 2 * N) * width);  // rows are too far apart for the hardware prefetcher
          __builtin_prefetch(w + (p + 2 * N + 1) * width);
          step(even, row + p, k, _mm512_maskz_loadu_ps(some, w + p * width));
          step(odd, row + p + 1, k, _mm512_maskz_loadu_ps(some, w + (p + 1) * width));
        }
        if (p < end) step(even, row + p, k, _mm512_maskz_loadu_ps(some, w + p * width));
#pragma GCC unroll 6
        for (int i = 0; i < kProducts; ++i)
          total[v] = _mm512_add_ps(total[v], _mm512_add_ps(even[i], odd[i]));
      }
    }
    _mm_setcsr(rounding);
    for (int64_t v = 0; v * N < count; ++v) _mm512_storeu_ps(sums + v * N, total[v]);
  }

 private:
  static constexpr int kProducts = 6;

  EVENFLOW_INLINE static void step(__m512 (&sums)[kProducts], const float* row, int64_t part, __m512 w) {
    constexpr int left[kProducts] = {0, 0, 1, 1, 2, 0}, right[kProducts] = {2, 1, 1, 0, 0, 0};
    const __m512 a = upper(w), rest = _mm512_sub_ps(w, a), b = upper(rest);
    const __m512 parts[3] = {a, b, _mm512_sub_ps(rest, b)};
#pragma GCC unroll 6
    for (int i = 0; i < kProducts; ++i) {
      sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(row[left[i] * part]), parts[right[i]], sums[i]);
    }
  }

  EVENFLOW_INLINE static __m512 upper(__m512 x) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(-65536)));
  }
};

}  // namespace gemm

const Bf16Stacks& stacks_amx() {
  static const Bf16Stacks stacks = {Amx::name, bf16_stacks<Amx, Bf16>(), bf16_stacks<AmxSplit, float>()};
  return stacks;
}

}  // namespace evenflow
