#pragma once

#include <type_traits>

#include "kernels/cpu/gemm/gemm.hpp"

// Operand gathering for gemm::multiply.

namespace evenflow::gemm {

/// A pixel and its place in its image.
struct Pixel {
  int64_t m, i, j;
};

/// Geometry of a 1x1 or 3x3 convolution: which pixel a tap of a pixel reads.
struct Taps {
  int64_t height = 1;
  int64_t width = 1;
  int kernel = 1;
  int sign = 1;  ///< 1: the pixel that the tap reads; -1: the pixel that reads this one through the tap

  EVENFLOW_HD int count() const { return kernel * kernel; }
  EVENFLOW_HD Pixel pixel(int64_t m) const { return {m, m / width % height, m % width}; }
  EVENFLOW_HD void advance(Pixel& p) const {
    ++p.m;
    if (++p.j < width) return;
    p.j = 0;
    if (++p.i == height) p.i = 0;
  }

  /// The row of pixel `p` moved by tap `t`, or -1 outside the image.
  EVENFLOW_HD int64_t source(const Pixel& p, int t) const {
    if (kernel == 1) return p.m;
    const int64_t dy = sign * (t / 3 - 1), dx = sign * (t % 3 - 1);
    const int64_t i = p.i + dy, j = p.j + dx;
    return i < 0 || i >= height || j < 0 || j >= width ? -1 : p.m + dy * width + dx;
  }
};

/// Transposes lanes x lanes values held in vectors, by exchanging ever smaller blocks.
template <class Isa, class T>
struct Transpose {
  static constexpr int lanes = Tile<Isa, T>::lanes;
  typedef T Vector __attribute__((vector_size(Isa::vector_bytes), aligned(sizeof(T)), may_alias));
  typedef typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type Index;
  typedef Index Lanes __attribute__((vector_size(Isa::vector_bytes)));

  template <int step>
  EVENFLOW_HD static void exchange(Vector* v) {
    Lanes low, high;
#pragma GCC unroll 16
    for (int j = 0; j < lanes; ++j) {
      low[j] = j & step ? lanes + j - step : j;
      high[j] = j & step ? lanes + j : j + step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i & step) continue;
      const Vector a = v[i], b = v[i + step];
      v[i] = __builtin_shuffle(a, b, low);
      v[i + step] = __builtin_shuffle(a, b, high);
    }
  }

  EVENFLOW_HD static void run(Vector* v) {
    if (lanes > 8) exchange<8>(v);
    if (lanes > 4) exchange<4>(v);
    if (lanes > 2) exchange<2>(v);
    exchange<1>(v);
  }
};

/// A row-major in memory.
template <class Isa, class T>
struct RowsA {
  const T* data;
  int64_t stride;
  void operator()(T* dst, int64_t m0, int64_t rows, int64_t k0, int64_t k) const {
    constexpr int R = Tile<Isa, T>::rows;
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    const T* src[R];
    for (int i = 0; i < R; ++i) src[i] = data + (m0 + (i < rows ? i : 0)) * stride + k0;
    for (int64_t line = 0; line < k; line += kLine) {
      // The next panel's rows: too many streams for the hardware to follow.
      for (int i = 0; i < R; ++i) __builtin_prefetch(src[i] + R * stride + line);
      const int64_t end = ops::min_of(k, line + kLine);
      int64_t p = line;
      if (Tile<Isa, T>::lanes >= R && rows == R) {
        for (; p + Tile<Isa, T>::lanes < end + (end < k); p += Tile<Isa, T>::lanes)
          pack_lanes(dst + p * R, src, p);
      }
      for (; p < end; ++p) {
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) dst[p * R + i] = i < rows ? src[i][p] : T(0);
      }
    }
  }

 private:
  /// Columns [p, p + lanes). Stores are wider than a row of the panel; what spills is overwritten by the
  /// next.
  EVENFLOW_HD static void pack_lanes(T* dst, const T* const* src, int64_t p) {
    using X = Transpose<Isa, T>;
    constexpr int R = Tile<Isa, T>::rows;
    typename X::Vector v[X::lanes] = {};
#pragma GCC unroll 16
    for (int i = 0; i < R && i < X::lanes; ++i)
      v[i] = *reinterpret_cast<const typename X::Vector*>(src[i] + p);
    X::run(v);
#pragma GCC unroll 16
    for (int j = 0; j < X::lanes; ++j) *reinterpret_cast<typename X::Vector*>(dst + j * R) = v[j];
  }
};

/// A = patches of an image: A[m, (tap, c)], with the indicator of outside pixels as last channel if `edge`.
template <class Isa, class T>
struct PatchesA {
  const T* data;
  int64_t stride;
  int64_t channels;
  bool edge;
  Taps taps;
  void operator()(T* dst, int64_t m0, int64_t rows, int64_t k0, int64_t k) const {
    constexpr int R = Tile<Isa, T>::rows;
    const int64_t depth = channels + (edge ? 1 : 0);
    for (int64_t p = 0; p < k;) {
      const int tap = static_cast<int>((k0 + p) / depth);
      const int64_t c0 = (k0 + p) % depth;
      const int64_t run = ops::min_of(depth - c0, k - p);
      Pixel pixel = taps.pixel(m0);
      for (int i = 0; i < R; ++i, taps.advance(pixel)) {
        const int64_t row = i < rows ? taps.source(pixel, tap) : -1;
        const T* src = data + row * stride + c0;
        const int64_t inside = ops::min_of(run, channels - c0);
        T* out = dst + p * R + i;
        if (row >= 0) {
          for (int64_t q = 0; q < inside; ++q) out[q * R] = src[q];
        } else {
          for (int64_t q = 0; q < inside; ++q) out[q * R] = T(0);
        }
        if (inside < run) out[inside * R] = row < 0 && i < rows ? T(1) : T(0);
      }
      p += run;
    }
  }
};

/// A = patches transposed: A[(tap, c), m], for gradients of weights.
template <class Isa, class T>
struct PatchesTransposedA {
  const T* data;
  int64_t stride;
  int64_t channels;
  bool edge;
  Taps taps;
  void operator()(T* dst, int64_t m0, int64_t rows, int64_t k0, int64_t k) const {
    constexpr int R = Tile<Isa, T>::rows;
    const int64_t depth = channels + (edge ? 1 : 0);
    for (int64_t i = 0; i < R;) {
      if (i >= rows) {
        for (int64_t p = 0; p < k; ++p) dst[p * R + i] = T(0);
        ++i;
        continue;
      }
      const int tap = static_cast<int>((m0 + i) / depth);
      const int64_t c0 = (m0 + i) % depth;
      const int64_t run = ops::min_of(depth - c0, rows - i);
      const int64_t inside = ops::min_of(run, channels - c0);
      Pixel pixel = taps.pixel(k0);
      for (int64_t p = 0; p < k; ++p, taps.advance(pixel)) {
        const int64_t row = taps.source(pixel, tap);
        T* out = dst + p * R + i;
        if (row >= 0 && inside == R) {
          const T* src = data + row * stride + c0;
          __builtin_prefetch(src + 8 * stride);
          for (int q = 0; q < R; ++q) out[q] = src[q];
        } else if (row >= 0) {
          const T* src = data + row * stride + c0;
          for (int64_t q = 0; q < inside; ++q) out[q] = src[q];
        } else {
          for (int64_t q = 0; q < inside; ++q) out[q] = T(0);
        }
        if (inside < run) out[inside] = row < 0 ? T(1) : T(0);
      }
      i += run;
    }
  }
};

/// B row-major.
template <class Isa, class T>
struct RowsB {
  const T* data;
  int64_t stride;
  void operator()(T* dst, int64_t k0, int64_t k, int64_t n0, int64_t cols) const {
    constexpr int N = Tile<Isa, T>::cols;
    for (int64_t p = 0; p < k; ++p) {
      const T* src = data + (k0 + p) * stride + n0;
      __builtin_prefetch(src + 8 * stride);
      __builtin_prefetch(src + 8 * stride + N - 1);
      T* out = dst + p * N;
      if (cols == N) {
        for (int j = 0; j < N; ++j) out[j] = src[j];
      } else {
        for (int64_t j = 0; j < N; ++j) out[j] = j < cols ? src[j] : T(0);
      }
    }
  }
};

/// B = patches: B[m, (tap, c)].
template <class Isa, class T>
struct PatchesB {
  const T* data;
  int64_t stride;
  int64_t channels;
  Taps taps;
  void operator()(T* dst, int64_t k0, int64_t k, int64_t n0, int64_t cols) const {
    constexpr int N = Tile<Isa, T>::cols;
    const int first_tap = static_cast<int>(n0 / channels);
    Pixel pixel = taps.pixel(k0);
    for (int64_t p = 0; p < k; ++p, taps.advance(pixel)) {
      T* out = dst + p * N;
      int tap = first_tap;
      int64_t c0 = n0 - first_tap * channels;
      for (int64_t j = 0; j < cols; ++tap, c0 = 0) {
        const int64_t run = ops::min_of(channels - c0, cols - j);
        const int64_t row = taps.source(pixel, tap);
        const T* src = data + row * stride + c0;
        if (row >= 0) {
          for (int64_t q = 0; q < run; ++q) out[j + q] = src[q];
        } else {
          for (int64_t q = 0; q < run; ++q) out[j + q] = T(0);
        }
        j += run;
      }
      for (int64_t j = cols; j < N; ++j) out[j] = T(0);
    }
  }
};

/// The weights (tap, c, n) of a convolution as B.
enum class WeightsAs {
  channels_by_tap_outputs,  ///< B[c, (tap, n)]
  outputs_by_tap_channels,  ///< B[n, (tap, c)]
  tap_outputs_by_channels   ///< B[(tap, n), c]
};
template <class Isa, class T, WeightsAs as>
struct WeightsB {
  const T* data;
  int64_t rows;      ///< weight rows of a tap
  int64_t channels;  ///< of them, those of the image
  int64_t outputs;
  void operator()(T* dst, int64_t k0, int64_t k, int64_t n0, int64_t cols) const {
    constexpr int N = Tile<Isa, T>::cols;
    for (int64_t j = 0; j < N; ++j) {
      if (j >= cols) {
        for (int64_t p = 0; p < k; ++p) dst[p * N + j] = T(0);
        continue;
      }
      const int64_t n = n0 + j;
      if (as == WeightsAs::channels_by_tap_outputs) {
        const T* src = data + (n / outputs * rows + k0) * outputs + n % outputs;
        for (int64_t p = 0; p < k; ++p) dst[p * N + j] = src[p * outputs];
      } else if (as == WeightsAs::outputs_by_tap_channels) {
        const T* src = data + (n / channels * rows + n % channels) * outputs + k0;
        for (int64_t p = 0; p < k; ++p) dst[p * N + j] = src[p];
      } else {
        int64_t tap = k0 / outputs, o = k0 % outputs;
        for (int64_t p = 0; p < k; ++tap, o = 0) {
          const T* src = data + (tap * rows + n) * outputs + o;
          const int64_t run = ops::min_of(outputs - o, k - p);
          for (int64_t q = 0; q < run; ++q) dst[(p + q) * N + j] = src[q];
          p += run;
        }
      }
    }
  }
};

}  // namespace evenflow::gemm
