#pragma once

#include "kernels/ops/pack.hpp"

namespace evenflow::ops {

/// Turns blocks of 2 x 2 pixels into channels, or back. Rows are the small image's pixels, columns the large
/// one's channels.
template <class T>
struct Squeeze {
  using Number = T;
  int64_t width;     ///< of the small image
  int64_t channels;  ///< of the large image
  bool diagonal;
  bool inverse;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;

  EVENFLOW_INLINE bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const int64_t corner = 2 * (row / width * 2 * width + row % width);  // of the four pixels
    Pack<T, n> four[4];                                                  // (0, 0), (0, 1), (1, 0), (1, 1)
    if (inverse) {
      read_small(x + row * x_stride, c, four);
      for (int k = 0; k < 4; ++k) write(four[k], y + pixel(corner, k) * y_stride + c);
    } else {
      for (int k = 0; k < 4; ++k) four[k] = read<n>(x + pixel(corner, k) * x_stride + c);
      write_small(four, c, y + row * y_stride);
    }
  }

 private:
  EVENFLOW_INLINE int64_t pixel(int64_t corner, int k) const { return corner + k / 2 * 2 * width + k % 2; }
  /// Diagonal order: (0, 0), (1, 1), (0, 1), (1, 0).
  EVENFLOW_INLINE int64_t position(int k) const {
    return (k == 0 ? 0 : k == 1 ? 2 : k == 2 ? 3 : 1) * channels;
  }

  template <int n>
  EVENFLOW_INLINE void read_small(const T* from, int64_t c, Pack<T, n> (&four)[4]) const {
    if (diagonal) {
      for (int k = 0; k < 4; ++k) four[k] = read<n>(from + position(k) + c);
      return;
    }
    T in[4 * n];
    for (int k = 0; k < 4; ++k) put(read<n>(from + 4 * c + k * n), in + k * n);
    for (int k = 0; k < 4; ++k) {
      for (int e = 0; e < n; ++e) four[k].v[e] = in[4 * e + k];
    }
  }
  template <int n>
  EVENFLOW_INLINE void write_small(const Pack<T, n> (&four)[4], int64_t c, T* to) const {
    if (diagonal) {
      for (int k = 0; k < 4; ++k) write(four[k], to + position(k) + c);
      return;
    }
    T out[4 * n];
    for (int k = 0; k < 4; ++k) {
      for (int e = 0; e < n; ++e) out[4 * e + k] = four[k].v[e];
    }
    for (int k = 0; k < 4; ++k) write(pack_of<n>(out + k * n), to + 4 * c + k * n);
  }
};

}  // namespace evenflow::ops
