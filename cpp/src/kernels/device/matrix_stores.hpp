#pragma once

#include "kernels/device/matrix_operands.hpp"

// What becomes of MatrixProduct's sums, and how its operands are laid out. n counts columns without those
// that fill up; eights are stored whole, with zeros. A thread stores the same eight columns of row after row:
// what it needs of them, Columns, is read once.

namespace evenflow::device {

/// Eight of a vector's n numbers, those inside; null: none.
struct ColumnValues {
  float v[kEight];
};
EVENFLOW_HD ColumnValues eight_of(const float* from, int64_t column, int64_t n) {
  ColumnValues values = {};
  for (int e = 0; from && e < kEight && column + e < n; ++e) values.v[e] = from[column + e];
  return values;
}

/// y = act((sum + bias) * scale).
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
  };
  EVENFLOW_HD Columns columns(int64_t column) const {
    return {eight_of(bias, column, n), eight_of(scale, column, n)};
  }
  EVENFLOW_HD void operator()(int64_t, int64_t row, int64_t column, const float (&sum)[kEight],
                              const Columns& of, float (*)[kEight]) const {
    Eight<H> out = zeros<H>();
    for (int e = 0; e < kEight; ++e) {
      float v = 0;
      if (column + e < n) {
        v = sum[e];
        if (bias) v += of.bias.v[e];
        if (scale) v *= of.scale.v[e];
        if (relu && v < 0) v = 0;
      }
      out.set(e, v);
    }
    write_eight(out, y + row * stride + column);
  }
};

/// The gradient of a hidden unit's bare convolution from that of its output y, as ops::HiddenBackward.
template <class H>
struct StoreHiddenGradient {
  static constexpr int sums = 2;  ///< of the gradients of bias and log scale
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
  };
  EVENFLOW_HD Columns columns(int64_t column) const { return {eight_of(scale, column, n)}; }
  EVENFLOW_HD void operator()(int64_t, int64_t row, int64_t column, const float (&sum)[kEight],
                              const Columns& of, float (*own)[kEight]) const {
    const Eight<H> out = eight_at(y + row * y_stride + column);
    Eight<H> through = zeros<H>();
    for (int e = 0; e < kEight; ++e) {
      float g = 0, v = 0;
      if (column + e < n) {
        const float at = out.get(e);
        g = relu && !(at > 0) ? 0 : sum[e];
        v = scale ? g * of.scale.v[e] : g;
        own[0][e] += v;
        own[1][e] += g * at;
      }
      through.set(e, v);
    }
    write_eight(through, da + row * da_stride + column);
  }
};

/// partial (splits, m, width).
struct StoreParts {
  static constexpr int sums = 0;
  float* partial;
  int64_t m;
  int64_t width;  ///< a multiple of eight
  struct Columns {};
  EVENFLOW_HD Columns columns(int64_t) const { return {}; }
  EVENFLOW_HD void operator()(int64_t split, int64_t row, int64_t column, const float (&sum)[kEight],
                              const Columns&, float (*)[kEight]) const {
    float* to = partial + (split * m + row) * width + column;
    ops::write(ops::pack_of<4>(sum), to);
    ops::write(ops::pack_of<4>(sum + 4), to + 4);
  }
};

/// Parts of all splits, one after another.
struct Parts {
  int64_t splits;
  int64_t m;
  int64_t width;  ///< a multiple of eight
  const float* partial;
  template <int n>
  EVENFLOW_HD ops::Pack<float, n> total(int64_t row, int64_t column) const {
    ops::Pack<float, n> total = {};
    for (int64_t s = 0; s < splits; ++s) {
      const auto part = ops::read<n>(partial + (s * m + row) * width + column);
      for (int e = 0; e < n; ++e) total.v[e] += part.v[e];
    }
    return total;
  }
};

/// y = act((sum + bias) * scale), or y += sum.
struct FinishRows {
  using Number = float;
  static constexpr bool halves = true;
  Parts parts;
  const float* bias;
  const float* scale;
  bool relu;
  bool add;
  float* y;
  int64_t stride;
  EVENFLOW_HD bool packs(int n) const { return ops::fits(n, y, stride); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    float* to = y + row * stride + c;
    ops::Pack<float, n> v = parts.total<n>(row, c);
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

/// Of a product with the weights of all nine taps, (pixel, (tap, c)): the sum over taps of what the pixel
/// reads (sign 1) or is read by (-1), and then as FinishRows. Where that lies outside of the image, the tap's
/// weight of the edge's indicator instead, unless null.
struct FinishTaps {
  Parts parts;
  PatchDims dims;
  int64_t channels;   ///< of y
  const float* edge;  ///< (taps, ..., channels)
  int64_t edge_step;
  const float* bias;
  const float* scale;
  bool relu;
  bool add;
  float* y;
  int64_t stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const PixelPlace place = place_of(dims, row);
    float v = 0;
    for (int32_t tap = 0; tap < 9; ++tap) {
      const int64_t from = neighbour(dims, place, row, tap);
      if (from >= 0) {
        v += parts.total<1>(from, tap * channels + c).v[0];
      } else if (edge) {
        v += edge[tap * edge_step + c];
      }
    }
    if (bias) v += bias[c];
    if (scale) v *= scale[c];
    if (relu && v < 0) v = 0;
    float* to = y + row * stride + c;
    *to = add ? *to + v : v;
  }
};

/// dw (taps, rows, cout) += sums by patch index.
struct FinishWeights {
  Parts parts;
  PatchDims dims;
  int64_t cin;
  int64_t cout;
  bool overwrite;
  float* dw;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const int64_t rows = cin + (dims.edge ? 1 : 0), tap = row / rows, channel = row % rows;
    const int64_t at = channel == cin ? dims.inner() + tap : tap * dims.channels.by + channel;
    const float before = overwrite ? 0 : dw[row * cout + c];
    dw[row * cout + c] = before + parts.total<1>(at, c).v[0];
  }
};

/// The same from products of channels with the outputs of all taps, (cin, (tap, cout)), and of the edge's
/// indicators with outputs, (tap, cout).
struct FinishTapWeights {
  Parts taps;
  Parts edge;
  int64_t rows;  ///< weight rows of a tap
  int64_t cin;
  int64_t cout;
  bool overwrite;
  float* dw;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const int64_t tap = row / rows, channel = row % rows;
    const float before = overwrite ? 0 : dw[row * cout + c];
    dw[row * cout + c] =
        before + (channel == cin ? edge.total<1>(tap, c) : taps.total<1>(channel, tap * cout + c)).v[0];
  }
};

/// Numbers as S, rows filled up with zeros to `width`.
template <class S>
struct PackRows {
  using Number = float;
  static constexpr bool halves = true;
  const float* x;
  int64_t x_stride;
  int64_t columns;
  int64_t width;
  S* out;
  EVENFLOW_HD bool packs(int n) const { return ops::fits(n, x, x_stride) && columns % n == 0; }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    ops::Pack<float, n> from = {};
    if (c < columns) from = ops::read<n>(x + row * x_stride + c);
    ops::Pack<S, n> to;
    for (int e = 0; e < n; ++e) store_value(from.v[e], &to.v[e]);
    ops::write(to, out + row * width + c);
  }
};

/// Weights (taps, cin + edge, cout) by patch index, (dims.size(), width).
template <class S>
struct PackWeights {
  const float* w;
  PatchDims dims;
  int64_t cin;
  int64_t cout;
  int64_t width;
  S* out;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const bool edge = row >= dims.inner();
    const int64_t tap = edge ? row - dims.inner() : row / dims.channels.by;
    const int64_t channel = edge ? cin : row % dims.channels.by;
    const bool inside = tap < dims.taps() && (edge || channel < cin) && c < cout;
    const int64_t rows = cin + (dims.edge ? 1 : 0);
    store_value(inside ? w[(tap * rows + channel) * cout + c] : 0.0f, out + row * width + c);
  }
};

/// What reads a pixel through each tap, (pixel, (tap, channel)); zeros where that lies outside of the image,
/// and to fill rows up. dims: sign -1.
template <class S>
struct PackReaders {
  const S* x;
  int64_t x_stride;
  PatchDims dims;
  int64_t channels;
  int64_t width;
  S* out;
  EVENFLOW_HD void operator()(int64_t row, int64_t column) const {
    const int32_t tap = static_cast<int32_t>(column / channels);
    const PixelPlace place = place_of(dims, row);
    const int64_t from = neighbour(dims, place, row, tap);
    S value = {};
    if (tap < 9 && from >= 0) value = x[from * x_stride + column % channels];
    out[row * width + column] = value;
  }
};

/// Weights of all taps side by side, (k, (tap, c)), rows and columns filled up with zeros.
template <class S>
struct PackTaps {
  const float* w;
  int64_t tap_step;  ///< of w, from one tap to the next; k and c alike
  int64_t k_step;
  int64_t c_step;
  int64_t k;
  int64_t channels;
  int64_t width;
  S* out;
  EVENFLOW_HD void operator()(int64_t row, int64_t column) const {
    const int64_t tap = column / channels, c = column % channels;
    const bool inside = row < k && tap < 9;
    store_value(inside ? w[tap * tap_step + row * k_step + c * c_step] : 0.0f, out + row * width + column);
  }
};

}  // namespace evenflow::device
