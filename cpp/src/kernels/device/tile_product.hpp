#pragma once

#include "kernels/bf16.hpp"
#include "kernels/device/body.hpp"
#include "kernels/device/grid.hpp"

// Convolutions and dense layers as one tiled matrix product. An operand is a function of its indices, so
// patches of a 3x3 kernel are gathered while they are read. It is the simple reference that tuned products
// are tested against.

namespace evenflow::device {

/// Calls store(m, n, split, sum over the split's k of a(m, k) * b(k, n)): a 64 x 64 tile per block, 4 x 4 per
/// thread.
template <class T, class A, class B, class Store>
struct TileProduct : ProductGrid<64, 64> {
  static constexpr int threads = kThreads;
  static constexpr int kTile = 64, kDepth = 16, kOwn = 4, kSide = kTile / kOwn;
  static_assert(kSide * kSide == kThreads, "a thread has kOwn x kOwn outputs");
  struct Registers {
    T sum[kOwn][kOwn];
  };
  struct Shared {
    T a[kDepth][kTile + 1];  // one column of padding, because threads store along k
    T b[kDepth][kTile];
  };
  A a;
  B b;
  Store store;

  /// For every kDepth of k one phase loads and one multiplies. The last phase stores.
  EVENFLOW_INLINE int64_t phases(int64_t block) const { return 2 * steps<kDepth>(block) + 1; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Registers& own, Shared& shared) const {
    const int64_t m0 = first_m(at.block), n0 = first_n(at.block);
    if (phase + 1 == phases(at.block)) {
      store_tile(at, m0, n0, own);
    } else if (phase % 2 == 0) {
      if (phase == 0) clear(own);
      load(at, m0, n0, begin(at.block) + phase / 2 * kDepth, end(at.block), shared);
    } else {
      multiply(at, own, shared);
    }
  }

 private:
  EVENFLOW_INLINE static void clear(Registers& own) {
    for (int i = 0; i < kOwn; ++i) {
      for (int j = 0; j < kOwn; ++j) own.sum[i][j] = T(0);
    }
  }
  EVENFLOW_INLINE void load(const Place& at, int64_t m0, int64_t n0, int64_t k0, int64_t k_end,
                            Shared& shared) const {
    for (int e = at.thread; e < kTile * kDepth; e += threads) {
      // Adjacent threads read adjacent numbers. The operand says along which index those are.
      const int i = A::along_k ? e / kDepth : e % kTile, d = A::along_k ? e % kDepth : e / kTile;
      const bool inside = m0 + i < m && k0 + d < k_end;
      shared.a[d][i] = inside ? a(m0 + i, k0 + d) : T(0);
    }
    for (int e = at.thread; e < kTile * kDepth; e += threads) {
      const int j = e % kTile, d = e / kTile;
      const bool inside = n0 + j < n && k0 + d < k_end;
      shared.b[d][j] = inside ? b(k0 + d, n0 + j) : T(0);
    }
  }
  EVENFLOW_INLINE static void multiply(const Place& at, Registers& own, const Shared& shared) {
    const int row = at.thread / kSide, column = at.thread % kSide;
    for (int d = 0; d < kDepth; ++d) {
      T left[kOwn], right[kOwn];
      for (int i = 0; i < kOwn; ++i) left[i] = shared.a[d][row + i * kSide];
      for (int j = 0; j < kOwn; ++j) right[j] = shared.b[d][column + j * kSide];
      for (int i = 0; i < kOwn; ++i) {
        for (int j = 0; j < kOwn; ++j) own.sum[i][j] += left[i] * right[j];
      }
    }
  }
  EVENFLOW_INLINE void store_tile(const Place& at, int64_t m0, int64_t n0, const Registers& own) const {
    const int row = at.thread / kSide, column = at.thread % kSide;
    for (int i = 0; i < kOwn; ++i) {
      for (int j = 0; j < kOwn; ++j) {
        const int64_t to_m = m0 + row + i * kSide, to_n = n0 + column + j * kSide;
        if (to_m < m && to_n < n) store(to_m, to_n, split(at.block), own.sum[i][j]);
      }
    }
  }
};

/// An operand of a product, rounded to bfloat16 if `bf16`.
template <bool bf16>
EVENFLOW_INLINE float operand(float x) {
  return bf16 ? to_float(to_bf16(x)) : x;
}
template <bool bf16>
EVENFLOW_INLINE double operand(double x) {
  return x;
}

/// (pixel, (tap, channel)) of images x, zero outside. With `edge` there is one more channel, 1 outside and 0
/// inside. sign 1: the pixel that the tap reads; -1: the pixel that reads this one through the tap.
template <class T, class S, bool bf16>
struct Patches {
  static constexpr bool along_k = true;
  const S* x;
  int64_t stride;
  int64_t height;
  int64_t width;
  int64_t channels;
  int kernel;
  bool edge;
  int sign;

  EVENFLOW_INLINE T operator()(int64_t pixel, int64_t k) const {
    if (kernel == 1) return operand<bf16>(value_of(x[pixel * stride + k]));
    const int64_t rows = channels + (edge ? 1 : 0), tap = k / rows, c = k % rows;
    const int64_t dy = sign * (tap / 3 - 1), dx = sign * (tap % 3 - 1);
    const int64_t i = pixel / width % height + dy, j = pixel % width + dx;
    const bool inside = i >= 0 && i < height && j >= 0 && j < width;
    if (c == channels) return inside ? T(0) : T(1);
    return inside ? operand<bf16>(value_of(x[(pixel + dy * width + dx) * stride + c])) : T(0);
  }
};

/// The transpose: ((tap, channel), pixel).
template <class P>
struct Transposed {
  static constexpr bool along_k = false;
  P of;
  EVENFLOW_INLINE auto operator()(int64_t m, int64_t k) const { return of(k, m); }
};

/// (pixel, channel) of a view.
template <class T, class S, bool bf16>
struct Rows {
  const S* x;
  int64_t stride;
  EVENFLOW_INLINE T operator()(int64_t row, int64_t c) const {
    return operand<bf16>(value_of(x[row * stride + c]));
  }
};

/// ((tap, output), channel) of weights (taps, rows, cout).
template <class T, bool bf16>
struct BackwardWeights {
  const T* w;
  int64_t rows;
  int64_t cout;
  EVENFLOW_INLINE T operator()(int64_t k, int64_t c) const {
    return operand<bf16>(w[(k / cout * rows + c) * cout + k % cout]);
  }
};

/// y = act((sum + bias) * scale), stored as Y.
template <class T, class Y>
struct StoreActivated {
  Y* y;
  int64_t stride;
  const T* bias;
  const T* scale;
  bool relu;
  EVENFLOW_INLINE void operator()(int64_t m, int64_t n, int64_t, T sum) const {
    T v = sum;
    if (bias) v += bias[n];
    if (scale) v *= scale[n];
    store_value(relu && v < T(0) ? T(0) : v, y + m * stride + n);
  }
};

/// y += sum.
template <class T>
struct StoreAdded {
  T* y;
  int64_t stride;
  EVENFLOW_INLINE void operator()(int64_t m, int64_t n, int64_t, T sum) const { y[m * stride + n] += sum; }
};

/// partial (splits, m, n).
template <class T>
struct StoreSplit {
  T* partial;
  int64_t m_count;
  int64_t n_count;
  EVENFLOW_INLINE void operator()(int64_t m, int64_t n, int64_t split, T sum) const {
    partial[(split * m_count + m) * n_count + n] = sum;
  }
};

/// dw += partial (splits, size), split after split.
template <class T>
struct AddSplits {
  int64_t splits;
  int64_t size;
  const T* partial;
  bool overwrite;
  T* dw;
  EVENFLOW_INLINE void operator()(int64_t, int64_t i) const {
    double total = 0;
    for (int64_t s = 0; s < splits; ++s) total += static_cast<double>(partial[s * size + i]);
    dw[i] = (overwrite ? T(0) : dw[i]) + static_cast<T>(total);
  }
};

}  // namespace evenflow::device
