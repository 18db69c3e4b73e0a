#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow::ops {

/// Turns blocks of 2 x 2 pixels into channels, or back. Rows are the small image's pixels, columns the large
/// one's channels.
template <class T>
struct Squeeze {
  int64_t width;     ///< of the small image
  int64_t channels;  ///< of the large image
  bool diagonal;
  bool inverse;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;

  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const int64_t corner = 2 * (row / width * 2 * width + row % width);  // of the four pixels
    for (int k = 0; k < 4; ++k) {                                        // (0, 0), (0, 1), (1, 0), (1, 1)
      const int64_t pixel = corner + k / 2 * 2 * width + k % 2, channel = place(c, k);
      if (inverse) {
        y[pixel * y_stride + c] = x[row * x_stride + channel];
      } else {
        y[row * y_stride + channel] = x[pixel * x_stride + c];
      }
    }
  }

 private:
  /// The small image's channel. Diagonal order: (0, 0), (1, 1), (0, 1), (1, 0).
  EVENFLOW_INLINE int64_t place(int64_t c, int k) const {
    if (!diagonal) return 4 * c + k;
    return (k == 0 ? 0 : k == 1 ? 2 : k == 2 ? 3 : 1) * channels + c;
  }
};

}  // namespace evenflow::ops
