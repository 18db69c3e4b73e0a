#pragma once

#include <cstdint>

#include "kernels/ops/host_device.hpp"

namespace evenflow::ops {

/// Whether a row is a pixel (i, j) of images height x width with (i + j) % 2 == parity.
EVENFLOW_HD bool on_parity(int64_t row, int64_t width, int64_t height, int parity) {
  return ((row / width % height + row % width) & 1) == parity;
}

}  // namespace evenflow::ops
