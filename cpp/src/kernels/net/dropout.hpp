#pragma once

#include <algorithm>
#include <cmath>

#include "evenflow/params.hpp"
#include "evenflow/rng.hpp"
#include "kernels/ops/philox.hpp"

namespace evenflow::ops {

/// y = x times a mask of 0 and 1 / (1 - p), or y +=. Rows are pixels, columns are blocks of eight channels: a
/// draw has eight numbers of 16 bits.
template <class T, bool add>
struct Dropout {
  const MaskSeed* masks;
  uint32_t stream;
  int64_t pixels;     ///< of a sample
  int64_t first_row;  ///< in the batch
  uint32_t dropped;   ///< numbers below it drop a value
  T scale;
  int64_t channels;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;

  Dropout(double p, const MaskSeed* masks_, uint32_t number, int64_t row, View<const T> from, View<T> to)
      : masks(masks_),
        stream(static_cast<uint32_t>(Stream::dropout) + number),
        pixels(from.shape.pixels_per_sample()),
        first_row(row * pixels),
        dropped(std::min(65535u, static_cast<uint32_t>(std::lround(65536 * p)))),
        scale(static_cast<T>(65536.0 / (65536.0 - dropped))),
        channels(from.shape.c),
        x(from.data),
        x_stride(from.stride),
        y(to.data),
        y_stride(to.stride) {}
  int64_t blocks() const { return (channels + 7) / 8; }

  EVENFLOW_INLINE void operator()(int64_t row, int64_t block) const {
    const uint64_t number =
        masks->first_row * static_cast<uint64_t>(pixels) + static_cast<uint64_t>(first_row + row);
    const Words words = philox(masks->seed, stream, number, static_cast<uint32_t>(block));
    const T* from = x + row * x_stride + 8 * block;
    T* to = y + row * y_stride + 8 * block;
    const int64_t wanted = channels - 8 * block;
    for (int k = 0; k < 8 && k < wanted; ++k) {
      const uint32_t draw = words.w[k / 2] >> 16 * (k % 2) & 0xffffu;
      const T through = draw < dropped ? T(0) : scale * from[k];
      to[k] = add ? to[k] + through : through;
    }
  }
};

}  // namespace evenflow::ops
