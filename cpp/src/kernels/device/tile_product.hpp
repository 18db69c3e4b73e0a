#pragma once

#include "kernels/device/body.hpp"
#include "kernels/device/product.hpp"

namespace evenflow::device {

/// A product where there is no cuBLASLt: a 64 x 64 tile per block, 4 x 4 per thread.
template <class H, class T>
struct TileProduct {
  static constexpr int threads = kThreads;
  static constexpr int kTile = 64, kDepth = 16, kOwn = 4, kSide = kTile / kOwn;
  static_assert(kSide * kSide == kThreads, "a thread has kOwn x kOwn outputs");
  struct Registers {
    T sum[kOwn][kOwn];
  };
  struct Shared {
    T a[kDepth][kTile + 1];  // one column of padding, because threads store along k
    T b[kDepth][kTile + 1];
  };
  Product<H, T> of;

  EVENFLOW_INLINE int64_t blocks() const { return tiles(of.m) * tiles(of.n); }
  /// For every kDepth of k one phase loads and one multiplies. The last phase stores.
  EVENFLOW_INLINE int64_t phases(int64_t) const { return 2 * ((of.k + kDepth - 1) / kDepth) + 1; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Registers& own, Shared& shared) const {
    const int64_t m0 = at.block / tiles(of.n) * kTile, n0 = at.block % tiles(of.n) * kTile;
    if (phase == 0) own = {};
    if (phase + 1 == phases(at.block)) {
      store(at, m0, n0, own);
    } else if (phase % 2 == 0) {
      const int64_t k0 = phase / 2 * kDepth;
      load(at, m0, of.m, k0, of.a, !of.a.transposed, shared.a);
      load(at, n0, of.n, k0, of.b, of.b.transposed, shared.b);
    } else {
      multiply(at, own, shared);
    }
  }

 private:
  EVENFLOW_INLINE static int64_t tiles(int64_t size) { return (size + kTile - 1) / kTile; }
  /// Of one operand, kTile numbers from `first` on for each of kDepth. Adjacent threads read adjacent
  /// numbers, which lie along k or across it.
  EVENFLOW_INLINE void load(const Place& at, int64_t first, int64_t size, int64_t k0, const Matrix<H>& from,
                            bool along_k, T (&to)[kDepth][kTile + 1]) const {
    for (int e = at.thread; e < kTile * kDepth; e += threads) {
      const int i = along_k ? e / kDepth : e % kTile, d = along_k ? e % kDepth : e / kTile;
      const int64_t row = first + i, k = k0 + d;
      const int64_t place = along_k ? row * from.stride + k : k * from.stride + row;
      to[d][i] = row < size && k < of.k ? value_of(from.data[place]) : T(0);
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
  EVENFLOW_INLINE void store(const Place& at, int64_t m0, int64_t n0, const Registers& own) const {
    const int row = at.thread / kSide, column = at.thread % kSide;
    for (int i = 0; i < kOwn; ++i) {
      for (int j = 0; j < kOwn; ++j) {
        const int64_t m = m0 + row + i * kSide, n = n0 + column + j * kSide;
        if (m >= of.m || n >= of.n) continue;
        T* to = of.d + m * of.stride + n;
        const T sum = own.sum[i][j] + (of.bias ? of.bias[n] : T(0)) + (of.add ? *to : T(0));
        *to = of.relu && sum < T(0) ? T(0) : sum;
      }
    }
  }
};

}  // namespace evenflow::device
