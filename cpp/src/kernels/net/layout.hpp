#pragma once

#include <cstdint>

#include "kernels/ops/inline.hpp"

namespace evenflow {

/// Values from one row to the next in buffers of our own. It is an odd number of cache lines, so that a
/// column of a wide activation does not fall into few sets of a cache.
EVENFLOW_INLINE int64_t padded_stride(int64_t channels, int64_t value_bytes) {
  const int64_t line = 64 / value_bytes, lines = (channels + line - 1) / line;
  return (lines + (lines > 1 && lines % 2 == 0 ? 1 : 0)) * line;
}

}  // namespace evenflow
