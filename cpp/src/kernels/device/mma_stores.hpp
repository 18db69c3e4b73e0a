#pragma once

#include <limits>

#include "kernels/device/mma_operands.hpp"

// Stores for the sums of MmaProduct. n counts columns without padding. Eights are stored whole, with zeros
// beyond the last column, or NaN where a row is not finite. A thread stores the same eight columns of
// successive rows, and reads what depends on the columns (Columns) once.

namespace evenflow::device {

/// Eight of a vector's n numbers, zero-padded. If the vector is null, all are `all`.
struct ColumnValues {
  float v[kEight];
};
EVENFLOW_INLINE ColumnValues eight_of(const float* from, int64_t column, int64_t n, float all) {
  ColumnValues values = {};
  for (int e = 0; e < kEight && column + e < n; ++e) values.v[e] = from ? from[column + e] : all;
  return values;
}

/// y = act((sum + bias) * scale). Padding columns have a scale of zero.
template <class H>
struct StoreHidden {
  static constexpr int sums = 0;
  H* y;
  int64_t stride;
  int64_t n;
  const float* bias;
  const float* scale;
  bool relu;
  struct Columns {
    ColumnValues bias, scale;
    float least;
  };
  EVENFLOW_INLINE Columns columns(int64_t column) const {
    return {eight_of(bias, column, n, 0), eight_of(scale, column, n, 1),
            relu ? 0.0f : -std::numeric_limits<float>::infinity()};
  }
  EVENFLOW_INLINE void operator()(int64_t, int64_t row, int64_t column, const float (&sum)[kEight],
                                  const Columns& of, float (*)[kEight]) const {
    Eight<H> out = zeros<H>();
    for (int e = 0; e < kEight; ++e) {
      const float v = (sum[e] + of.bias.v[e]) * of.scale.v[e];
      out.set(e, v < of.least ? of.least : v);
    }
    write_eight(out, y + row * stride + column);
  }
};

/// Gradient of a hidden unit's bare convolution, from the gradient of its output y; as ops::HiddenBackward.
template <class H>
struct StoreHiddenGradient {
  static constexpr int sums = 2;  ///< for the gradients of bias and log scale
  const H* y;
  int64_t y_stride;
  H* da;
  int64_t da_stride;
  int64_t n;
  const float* scale;
  bool relu;
  double* partial;
  struct Columns {
    ColumnValues scale;
    float least;  ///< outputs up to this value pass no gradient
  };
  EVENFLOW_INLINE Columns columns(int64_t column) const {
    return {eight_of(scale, column, n, 1), relu ? 0.0f : -std::numeric_limits<float>::infinity()};
  }
  EVENFLOW_INLINE void operator()(int64_t, int64_t row, int64_t column, const float (&sum)[kEight],
                                  const Columns& of, float (*own)[kEight]) const {
    const Eight<H> out = eight_at(y + row * y_stride + column);
    Eight<H> through = zeros<H>();
    for (int e = 0; e < kEight; ++e) {
      const float at = out.get(e), g = at > of.least ? sum[e] : 0, v = g * of.scale.v[e];
      own[0][e] += v;
      own[1][e] += g * at;
      through.set(e, v);
    }
    write_eight(through, da + row * da_stride + column);
  }
};

/// partial (splits, m, width).
struct StorePartialSums {
  static constexpr int sums = 0;
  float* partial;
  int64_t m;
  int64_t width;  ///< a multiple of eight
  struct Columns {};
  EVENFLOW_INLINE Columns columns(int64_t) const { return {}; }
  EVENFLOW_INLINE void operator()(int64_t split, int64_t row, int64_t column, const float (&sum)[kEight],
                                  const Columns&, float (*)[kEight]) const {
    float* to = partial + (split * m + row) * width + column;
    ops::write(ops::pack_of<4>(sum), to);
    ops::write(ops::pack_of<4>(sum + 4), to + 4);
  }
};

/// Sums of all splits, one after another.
struct PartialSums {
  int64_t splits;
  int64_t m;
  int64_t width;  ///< a multiple of eight
  const float* partial;
  template <int n>
  EVENFLOW_INLINE ops::Pack<float, n> total(int64_t row, int64_t column) const {
    ops::Pack<float, n> total = {};
    for (int64_t s = 0; s < splits; ++s) {
      const auto part = ops::read<n>(partial + (s * m + row) * width + column);
      for (int e = 0; e < n; ++e) total.v[e] += part.v[e];
    }
    return total;
  }
};

/// Finishes a unit's sums: y = act((sum + bias) * scale), or y += sum.
struct FinishUnit {
  const float* bias;
  const float* scale;
  bool relu;
  bool add;
  float* y;
  int64_t stride;
  EVENFLOW_INLINE bool packs(int n) const { return ops::fits(n, y, stride); }
  template <int n>
  EVENFLOW_INLINE void operator()(ops::Pack<float, n> v, int64_t row, int64_t c) const {
    float* to = y + row * stride + c;
    for (int e = 0; e < n; ++e) {
      if (bias) v.v[e] += bias[c + e];
      if (scale) v.v[e] *= scale[c + e];
      if (relu && v.v[e] < 0) v.v[e] = 0;
    }
    if (add) {
      const auto more = ops::read<n>(to);
      for (int e = 0; e < n; ++e) v.v[e] += more.v[e];
    }
    ops::write(v, to);
  }
};

struct FinishRows {
  using Number = float;
  static constexpr bool half_packs = true;
  PartialSums parts;
  FinishUnit finish;
  EVENFLOW_INLINE bool packs(int n) const { return finish.packs(n); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    finish(parts.total<n>(row, c), row, c);
  }
};

/// Finishes a product with the weights of all nine taps, (pixel, (tap, c)). Sums over taps what the pixel
/// reads (sign 1) or is read by (-1). Where that pixel is outside the image, adds the tap's weight for the
/// edge indicator, unless null.
struct FinishTaps {
  using Number = float;
  static constexpr bool half_packs = true;
  PartialSums parts;
  PatchDims dims;
  int64_t channels;   ///< of y
  const float* edge;  ///< (taps, ..., channels)
  int64_t edge_step;
  FinishUnit finish;
  EVENFLOW_INLINE bool packs(int n) const { return finish.packs(n); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const PixelPlace place = place_of(dims, row);
    ops::Pack<float, n> v = {};
    for (int32_t tap = 0; tap < 9; ++tap) {
      const int64_t from = neighbour(dims, place, row, tap);
      if (from >= 0) {
        const auto read = parts.total<n>(from, tap * channels + c);
        for (int e = 0; e < n; ++e) v.v[e] += read.v[e];
      } else if (edge) {
        for (int e = 0; e < n; ++e) v.v[e] += edge[tap * edge_step + c + e];
      }
    }
    finish(v, row, c);
  }
};

/// Finishes a weight gradient: dw (taps, rows, cout) += sum, or dw = sum.
struct FinishGradient {
  Divisor rows;  ///< per tap: input channels, then the edge indicator
  int64_t cin;
  int64_t cout;
  bool overwrite;
  float* dw;
  EVENFLOW_INLINE bool packs(int n) const { return ops::fits(n, dw, cout); }
  template <int n>
  EVENFLOW_INLINE void operator()(ops::Pack<float, n> sum, int64_t row, int64_t c) const {
    float* to = dw + row * cout + c;
    if (!overwrite) {
      const auto before = ops::read<n>(to);
      for (int e = 0; e < n; ++e) sum.v[e] += before.v[e];
    }
    ops::write(sum, to);
  }
  struct Row {
    int32_t tap;
    int32_t channel;  ///< cin means the indicator
  };
  EVENFLOW_INLINE Row row_of(int64_t row) const {
    const int32_t at = static_cast<int32_t>(row), tap = rows.quotient(at);
    return {tap, at - tap * rows.by};
  }
};

/// Finishes a weight gradient from sums by patch index.
struct FinishWeights {
  using Number = float;
  static constexpr bool half_packs = true;
  PartialSums parts;
  PatchDims dims;
  FinishGradient finish;
  EVENFLOW_INLINE bool packs(int n) const { return finish.packs(n); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const FinishGradient::Row at = finish.row_of(row);
    const bool indicator = at.channel == finish.cin;
    const int64_t from = indicator ? dims.inner() + at.tap : at.tap * dims.channels.by + at.channel;
    finish(parts.total<n>(from, c), row, c);
  }
};

/// Finishes a weight gradient from products of channels with the outputs of all taps, (cin, (tap, cout)), and
/// of edge indicators with outputs, (tap, cout).
struct FinishTapWeights {
  using Number = float;
  static constexpr bool half_packs = true;
  PartialSums taps;
  PartialSums edge;
  FinishGradient finish;
  EVENFLOW_INLINE bool packs(int n) const { return finish.packs(n); }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t c) const {
    const FinishGradient::Row at = finish.row_of(row);
    const bool indicator = at.channel == finish.cin;
    finish(indicator ? edge.total<n>(at.tap, c) : taps.total<n>(at.channel, at.tap * finish.cout + c), row,
           c);
  }
};

/// Packs the pixels that read a pixel through each tap, (pixel, (tap, channel)). Pixels outside the image and
/// padding are zero. dims has sign -1.
template <class S>
struct PackReaders {
  using Number = S;
  static constexpr bool half_packs = true;
  const S* x;
  int64_t x_stride;
  PatchDims dims;
  Divisor channels;
  int64_t width;
  S* out;
  EVENFLOW_INLINE bool packs(int n) const { return ops::fits(n, x, x_stride) && channels.by % n == 0; }
  template <int n = 1>
  EVENFLOW_INLINE void operator()(int64_t row, int64_t column) const {
    const int32_t at = static_cast<int32_t>(column), tap = channels.quotient(at);
    const int64_t from = tap < 9 ? neighbour(dims, place_of(dims, row), row, tap) : -1;
    ops::Pack<S, n> value = {};
    if (from >= 0) value = ops::read<n>(x + from * x_stride + at - tap * channels.by);
    ops::write(value, out + row * width + column);
  }
};

}  // namespace evenflow::device
