#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow::ops {

/// Whether a row is a pixel (i, j) of images height x width with (i + j) % 2 == parity.
EVENFLOW_INLINE bool on_parity(int64_t row, int64_t width, int64_t height, int parity) {
  return ((row / width % height + row % width) & 1) == parity;
}

/// The pixels that take part: all of them, or those of one colour of a checkerboard.
struct PixelMask {
  int parity = -1;  ///< (i + j) % 2 of the pixels that take part; -1: all
  int64_t width = 1;
  int64_t height = 1;

  EVENFLOW_INLINE bool active(int64_t row) const {
    if (parity < 0) return true;
    return on_parity(row, width, height, parity);
  }
};

/// All pixels take part. A type of its own, so that kernels skip the divisions that find a pixel's colour.
struct AllPixels {
  EVENFLOW_INLINE bool active(int64_t) const { return true; }
};

}  // namespace evenflow::ops
