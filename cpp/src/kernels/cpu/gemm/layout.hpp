#pragma once

#include "kernels/net/layout.hpp"

// Where hidden activations lie: in rows, or in panels.

namespace evenflow::gemm {

/// Hidden activations may lie in panels from so many pixels on: first one cache line of channels of every
/// pixel, then the next line of every pixel.
constexpr int64_t kBlockedPixels = 256;

/// Rows of a panel. There are some more than pixels, so that the lines of one pixel do not fall into few sets
/// of a cache.
EVENFLOW_INLINE int64_t blocked_rows(int64_t pixels) {
  return (pixels + 63) / 64 * 64 + 16;
}
EVENFLOW_INLINE int64_t blocked_size(int64_t channels, int64_t pixels, int64_t value_bytes) {
  const int64_t line = 64 / value_bytes;
  return (channels + line - 1) / line * line * blocked_rows(pixels);
}

/// Values of a hidden activation, enough for rows and for panels.
EVENFLOW_INLINE int64_t hidden_size(int64_t channels, int64_t pixels, int64_t value_bytes) {
  const int64_t rows = pixels * padded_stride(channels, value_bytes),
                blocked = pixels < kBlockedPixels ? 0 : blocked_size(channels, pixels, value_bytes);
  return blocked < rows ? rows : blocked;
}

}  // namespace evenflow::gemm
