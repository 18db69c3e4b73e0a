#pragma once

#include "kernels/net/layout.hpp"

// Memory layout of hidden activations: row-major or channel-blocked (Strided in register_tile.hpp).

namespace evenflow::gemm {

/// Fewest pixels for which hidden activations may be channel-blocked: the first cache line of channels of
/// every pixel, then the second line of every pixel, and so on.
constexpr int64_t kBlockedPixels = 256;

/// Rows of a channel block. Padding keeps the lines of one pixel from falling into few sets of a cache.
EVENFLOW_INLINE int64_t blocked_rows(int64_t pixels) {
  return (pixels + 63) / 64 * 64 + 16;
}
EVENFLOW_INLINE int64_t blocked_size(int64_t channels, int64_t pixels, int64_t value_bytes) {
  const int64_t line = 64 / value_bytes;
  return (channels + line - 1) / line * line * blocked_rows(pixels);
}

/// Elements of a hidden activation, enough for either layout.
EVENFLOW_INLINE int64_t hidden_size(int64_t channels, int64_t pixels, int64_t value_bytes) {
  const int64_t rows = pixels * padded_stride(channels, value_bytes),
                blocked = pixels < kBlockedPixels ? 0 : blocked_size(channels, pixels, value_bytes);
  return blocked < rows ? rows : blocked;
}

}  // namespace evenflow::gemm
