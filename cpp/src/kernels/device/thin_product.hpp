#pragma once

#include "kernels/device/body.hpp"

// Products of pixels with a small matrix: 1x1 convolutions of few channels. A block holds the matrix and a
// tile of pixels in shared memory and reads every number once, so memory bandwidth is the limit.

namespace evenflow::device {

constexpr int kThin = 64;    ///< most channels on either side
constexpr int kOwnThin = 4;  ///< rows and columns of the result per thread

EVENFLOW_INLINE constexpr int up_to_four(int64_t n) {
  return static_cast<int>((n + kOwnThin - 1) / kOwnThin * kOwnThin);
}

/// Four numbers of shared memory.
template <class T>
EVENFLOW_INLINE ops::Pack<T, kOwnThin> four_at(const T* x) {
  ops::Pack<T, kOwnThin> out;
  constexpr int kPack = 16 / sizeof(T);
  for (int e = 0; e < kOwnThin; e += kPack) ops::put(ops::read<kPack>(x + e), out.v + e);
  return out;
}

/// y (pixels, width) = act((x (pixels, depth) * w + bias) * scale), or y += x * w. One access is n channels
/// of x or y. Element (k, j) of w is at k * w_down + j * w_along.
template <class T, int n>
struct ThinProduct {
  static constexpr int threads = kThreads;
  static constexpr int kTile = 16384 / sizeof(T);  ///< elements of x per block
  using Registers = Nothing;
  struct alignas(16) Shared {
    T w[kThin * kThin];  ///< (depth, width), with rows padded to a multiple of four
    T x[kTile];          ///< (depth, tile)
  };
  int64_t pixels;
  int depth;
  int width;
  int tile;  ///< pixels per block, a multiple of four
  const T* x;
  int64_t x_stride;
  const T* w;
  int64_t w_down;
  int64_t w_along;
  T* y;
  int64_t y_stride;
  const T* bias;
  const T* scale;
  bool relu;
  bool add;

  EVENFLOW_INLINE int64_t phases(int64_t) const { return 2; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Registers&, Shared& shared) const {
    if (phase == 0) {
      load_matrix(at.thread, shared);
      load_pixels(at, shared);
    } else {
      multiply(at, shared);
    }
  }

 private:
  EVENFLOW_INLINE void load_matrix(int thread, Shared& shared) const {
    const int row = up_to_four(width);
    for (int i = thread; i < depth * row; i += threads) {
      const int k = i / row, j = i % row;
      shared.w[i] = j < width ? w[k * w_down + j * w_along] : T(0);
    }
  }
  EVENFLOW_INLINE void load_pixels(const Place& at, Shared& shared) const {
    const int packs = depth / n;
    for (int i = at.thread; i < tile * packs; i += threads) {
      const int p = i / packs, k = i % packs * n;
      const int64_t pixel = at.block * tile + p;
      ops::Pack<T, n> in = {};
      if (pixel < pixels) in = ops::read<n>(x + pixel * x_stride + k);
      for (int e = 0; e < n; ++e) shared.x[(k + e) * tile + p] = in.v[e];
    }
  }
  EVENFLOW_INLINE void multiply(const Place& at, const Shared& shared) const {
    const int row = up_to_four(width), groups = row / kOwnThin;
    const int p = at.thread / groups * kOwnThin, j = at.thread % groups * kOwnThin;
    if (p >= tile) return;
    T sum[kOwnThin][kOwnThin] = {};
    for (int k = 0; k < depth; ++k) {
      const auto left = four_at(shared.x + k * tile + p), right = four_at(shared.w + k * row + j);
      for (int a = 0; a < kOwnThin; ++a) {
        for (int b = 0; b < kOwnThin; ++b) sum[a][b] += left.v[a] * right.v[b];
      }
    }
    for (int a = 0; a < kOwnThin; ++a) {
      const int64_t pixel = at.block * tile + p + a;
      if (pixel >= pixels) return;
      for (int b = 0; b < kOwnThin; b += n) {
        if (j + b < width) store(pixel, j + b, sum[a] + b);
      }
    }
  }
  EVENFLOW_INLINE void store(int64_t pixel, int j, const T* sum) const {
    T* to = y + pixel * y_stride + j;
    ops::Pack<T, n> v = ops::pack_of<n>(sum);
    for (int e = 0; e < n; ++e) {
      if (bias) v.v[e] += bias[j + e];
      if (scale) v.v[e] *= scale[j + e];
      if (relu && v.v[e] < T(0)) v.v[e] = T(0);
    }
    if (add) {
      const auto more = ops::read<n>(to);
      for (int e = 0; e < n; ++e) v.v[e] += more.v[e];
    }
    ops::write(v, to);
  }
};

/// out (blocks, rows, cols) = x (pixels, rows)^T * dy (pixels, cols). Each block sums a chunk of pixels, tile
/// after tile. One access is n channels of x or dy.
template <class T, int n>
struct ThinGradient {
  static constexpr int threads = kThreads;
  static constexpr int kSize = kOwnThin * kOwnThin;
  static constexpr int kTile = kThreads * kSize;  ///< elements of x and dy per tile
  struct Registers {
    T sum[kOwnThin][kOwnThin];
  };
  union alignas(16) Shared {
    T value[kTile];  ///< (tile, rows), then (tile, cols), both padded to a multiple of four
    T sum[kSize][kThreads];
  };
  int64_t pixels;
  int rows;
  int cols;
  int tile;
  int64_t chunk;  ///< a multiple of a tile
  const T* x;
  int64_t x_stride;
  const T* dy;
  int64_t dy_stride;
  double* out;

  /// Two phases per tile, then two for the sums.
  EVENFLOW_INLINE int64_t phases(int64_t block) const { return 2 * tiles(block) + 2; }
  EVENFLOW_INLINE void run(int64_t phase, const Place& at, Registers& own, Shared& shared) const {
    const int64_t after = phase - 2 * tiles(at.block);
    if (after < 0) {
      const int64_t first = at.block * chunk + phase / 2 * tile;
      if (phase % 2 == 0) {
        load(at.thread, first, x, x_stride, rows, shared.value);
        load(at.thread, first, dy, dy_stride, cols, shared.value + tile * up_to_four(rows));
      } else {
        multiply(at.thread, phase == 1, shared, own);
      }
    } else if (after == 0) {
      for (int i = 0; i < kSize; ++i) shared.sum[i][at.thread] = own.sum[i / kOwnThin][i % kOwnThin];
    } else {
      add_lanes(at, shared);
    }
  }

 private:
  EVENFLOW_INLINE int groups() const { return up_to_four(rows) / kOwnThin * (up_to_four(cols) / kOwnThin); }
  EVENFLOW_INLINE int64_t tiles(int64_t block) const {
    return (ops::min_of(chunk, pixels - block * chunk) + tile - 1) / tile;
  }
  EVENFLOW_INLINE void load(int thread, int64_t first, const T* from, int64_t stride, int channels,
                            T* to) const {
    const int row = up_to_four(channels), packs = (channels + n - 1) / n;
    for (int i = thread; i < tile * packs; i += threads) {
      const int p = i / packs, c = i % packs * n;
      ops::Pack<T, n> in = {};
      if (first + p < pixels) in = ops::read<n>(from + (first + p) * stride + c);
      ops::put(in, to + p * row + c);
    }
  }
  EVENFLOW_INLINE void multiply(int thread, bool first, const Shared& shared, Registers& own) const {
    const int row = up_to_four(rows), column = up_to_four(cols), across = column / kOwnThin;
    const int lanes = threads / groups(), lane = thread / groups(), group = thread % groups();
    if (first) {
      for (int a = 0; a < kOwnThin; ++a) {
        for (int b = 0; b < kOwnThin; ++b) own.sum[a][b] = T(0);
      }
    }
    if (lane >= lanes) return;
    const T* left = shared.value + group / across * kOwnThin;
    const T* right = shared.value + tile * row + group % across * kOwnThin;
    for (int p = lane; p < tile; p += lanes) {
      const auto l = four_at(left + p * row), r = four_at(right + p * column);
      for (int a = 0; a < kOwnThin; ++a) {
        for (int b = 0; b < kOwnThin; ++b) own.sum[a][b] += l.v[a] * r.v[b];
      }
    }
  }
  EVENFLOW_INLINE void add_lanes(const Place& at, const Shared& shared) const {
    const int across = up_to_four(cols) / kOwnThin, lanes = threads / groups();
    for (int i = at.thread; i < rows * cols; i += threads) {
      const int r = i / cols, c = i % cols;
      const int group = r / kOwnThin * across + c / kOwnThin;
      const T* sums = shared.sum[r % kOwnThin * kOwnThin + c % kOwnThin];
      double total = 0;
      for (int lane = 0; lane < lanes; ++lane) total += static_cast<double>(sums[lane * groups() + group]);
      out[at.block * rows * cols + i] = total;
    }
  }
};

}  // namespace evenflow::device
