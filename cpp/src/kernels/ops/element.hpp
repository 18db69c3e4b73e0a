#pragma once

#include <limits>

#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"
#include "kernels/ops/philox.hpp"

// Copies, layouts, preprocessing, base distributions and random fills.

namespace evenflow::ops {

template <class T>
struct Copy {
  using Number = T;
  static constexpr bool halves = true;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    write(read<n>(x + row * x_stride + c), y + row * y_stride + c);
  }
};

/// Rows are pixels of samples that lie from_step and to_step values apart.
template <class T>
struct CopyBlocks {
  using Number = T;
  int64_t pixels;  ///< of a sample
  const T* x;
  int64_t x_stride;
  int64_t from_step;
  T* y;
  int64_t y_stride;
  int64_t to_step;
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, x, x_stride) && fits(n, y, y_stride) && from_step % n == 0 && to_step % n == 0;
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const int64_t i = row / pixels, p = row % pixels;
    write(read<n>(x + i * from_step + p * x_stride + c), y + i * to_step + p * y_stride + c);
  }
};

/// y (n, channels) += sums over each sample's pixels, one thread an output.
template <class T>
struct AddPixelSums {
  int64_t pixels;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void operator()(int64_t i, int64_t c) const {
    double sum = 0;
    for (int64_t p = 0; p < pixels; ++p) sum += x[(i * pixels + p) * x_stride + c];
    y[i * y_stride + c] += static_cast<T>(sum);
  }
};

template <class T>
struct Add {
  using Number = T;
  static constexpr bool halves = true;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> more = read<n>(x + row * x_stride + c);
    Pack<T, n> v = read<n>(y + row * y_stride + c);
    for (int e = 0; e < n; ++e) v.v[e] += more.v[e];
    write(v, y + row * y_stride + c);
  }
};

/// order[from[c]] = c: the inverse of an order of n channels. Of what no permutation could hold nothing
/// comes, and of two places with one channel one: order has the -1 that was there.
template <class From>
struct InvertOrder {
  const From* from;
  int64_t n;
  int32_t* order;
  EVENFLOW_HD void operator()(int64_t, int64_t c) const {
    const From value = from[c];
    if (!(value >= From(0) && value < static_cast<From>(n))) return;
    const int32_t channel = static_cast<int32_t>(value);
    if (static_cast<From>(channel) == value) order[channel] = static_cast<int32_t>(c);
  }
};

/// y[row, c] = x[row, order[c]], or NaN where order names none.
template <class T>
struct GatherChannels {
  const T* x;
  int64_t x_stride;
  const int32_t* order;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    y[row * y_stride + c] = order[c] < 0 ? std::numeric_limits<T>::quiet_NaN() : x[row * x_stride + order[c]];
  }
};

/// GatherChannels' order that puts the even ones of n channels first, or the way back.
struct TileOrder {
  int64_t n;
  bool inverse;
  int32_t* order;
  EVENFLOW_HD void operator()(int64_t, int64_t c) const {
    const int64_t evens = (n + 1) / 2, tiled = c < evens ? 2 * c : 2 * (c - evens) + 1;
    order[inverse ? tiled : c] = static_cast<int32_t>(inverse ? c : tiled);
  }
};

/// Space to depth by 2 and back. Rows are the small image's pixels, columns the large one's channels.
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

  EVENFLOW_HD bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
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
  EVENFLOW_HD int64_t pixel(int64_t corner, int k) const { return corner + k / 2 * 2 * width + k % 2; }
  /// Diagonal order: (0, 0), (1, 1), (0, 1), (1, 0).
  EVENFLOW_HD int64_t position(int k) const { return (k == 0 ? 0 : k == 1 ? 2 : k == 2 ? 3 : 1) * channels; }

  template <int n>
  EVENFLOW_HD void read_small(const T* from, int64_t c, Pack<T, n> (&four)[4]) const {
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
  EVENFLOW_HD void write_small(const Pack<T, n> (&four)[4], int64_t c, T* to) const {
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

/// y = logit((1 + 0.9 (2u - 1)) / 2); sum: log dy/du (Real NVP's official preprocessing).
template <class T>
struct LogitForward {
  using Number = T;
  static constexpr int inputs = 1;
  static constexpr int outputs = 1;
  static constexpr int sums = 1;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void prepare() {}
  EVENFLOW_HD bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_HD void load(int64_t row, int64_t c, T* in, int64_t) const {
    put(read<n>(x + row * x_stride + c), in);
  }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    const T p = T(0.05) + T(0.9) * in[0];
    out[0] = log(p) - log(T(1) - p);
    sum[0] = softplus(out[0]) + softplus(-out[0]) + T(-0.10536051565782628);  // log 0.9
  }
  template <int n = 1>
  EVENFLOW_HD void store(int64_t row, int64_t c, const T* out, int64_t) const {
    write(pack_of<n>(out), y + row * y_stride + c);
  }
};

template <class T>
struct LogitInverse {
  using Number = T;
  static constexpr int inputs = 1;
  static constexpr int outputs = 1;
  static constexpr int sums = 1;
  const T* y;
  int64_t y_stride;
  T* x;
  int64_t x_stride;
  EVENFLOW_HD void prepare() {}
  EVENFLOW_HD bool packs(int n) const { return fits(n, x, x_stride) && fits(n, y, y_stride); }
  template <int n = 1>
  EVENFLOW_HD void load(int64_t row, int64_t c, T* in, int64_t) const {
    put(read<n>(y + row * y_stride + c), in);
  }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    out[0] = (sigmoid(in[0]) - T(0.05)) / T(0.9);
    sum[0] = -(softplus(in[0]) + softplus(-in[0]) + T(-0.10536051565782628));
  }
  template <int n = 1>
  EVENFLOW_HD void store(int64_t row, int64_t c, const T* out, int64_t) const {
    write(pack_of<n>(out), x + row * x_stride + c);
  }
};

/// log dy/du = softplus(y) + softplus(-y) + log 0.9, whose derivative by y is tanh(y / 2).
template <class T>
struct LogitBackward {
  using Number = T;
  const T* y;
  int64_t y_stride;
  const T* dy;
  int64_t dy_stride;
  const double* dlogdet;
  int64_t rows_per_sample;
  T* x;
  int64_t x_stride;
  T* dx;
  int64_t dx_stride;
  EVENFLOW_HD bool packs(int n) const {
    return fits(n, y, y_stride) && fits(n, dy, dy_stride) && fits(n, x, x_stride) && fits(n, dx, dx_stride);
  }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const Pack<T, n> out = read<n>(y + row * y_stride + c), above = read<n>(dy + row * dy_stride + c);
    const T det = static_cast<T>(dlogdet[row / rows_per_sample]);
    Pack<T, n> in, din;
    for (int e = 0; e < n; ++e) {
      const T p = sigmoid(out.v[e]);
      const T slope = T(0.9) / (p * sigmoid(-out.v[e]));  // dy/du
      const T g = above.v[e] + det * tanh(out.v[e] / T(2));
      in.v[e] = (p - T(0.05)) / T(0.9);
      din.v[e] = g * slope;
    }
    write(in, x + row * x_stride + c);
    write(din, dx + row * dx_stride + c);
  }
};

/// Sum: log p0(z); dz = scale * d log p0 / dz where dz is not null.
template <class T, bool logistic>
struct BaseLogProb {
  using Number = T;
  static constexpr int inputs = 1;
  static constexpr int outputs = 1;
  static constexpr int sums = 1;
  int64_t cols;
  const T* z;
  T* dz;
  T scale;
  EVENFLOW_HD void prepare() {}
  EVENFLOW_HD bool packs(int n) const { return fits(n, z, cols) && fits(n, dz); }
  template <int n = 1>
  EVENFLOW_HD void load(int64_t row, int64_t c, T* in, int64_t) const {
    put(read<n>(z + row * cols + c), in);
  }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    const T v = in[0];
    sum[0] =
        logistic ? -(softplus(v) + softplus(-v)) : T(-0.5) * (v * v + T(1.8378770664093453));  // log 2 pi
    out[0] = scale * (logistic ? -tanh(v / T(2)) : -v);
  }
  template <int n = 1>
  EVENFLOW_HD void store(int64_t row, int64_t c, const T* out, int64_t) const {
    if (dz) write(pack_of<n>(out), dz + row * cols + c);
  }
};

/// Numbers 4 block ... 4 block + 3 of every sample (rows: samples, columns: blocks of four).
template <class T, bool logistic>
struct FillNoise {
  static constexpr int inputs = 4;
  static constexpr int outputs = 4;
  static constexpr int sums = 0;
  uint64_t seed;
  uint32_t stream;
  uint64_t first;
  T scale;
  int64_t count;  ///< numbers of a sample
  T* out;
  EVENFLOW_HD void load(int64_t row, int64_t block, double* in, int64_t step) const {
    const Words words =
        philox(seed, stream, first + static_cast<uint64_t>(row), static_cast<uint32_t>(block));
    for (int k = 0; k < 4; ++k) in[k * step] = words.w[k];
  }
  EVENFLOW_HD void compute(const double* in, double* v, double*) const {
    const double unit = 2.3283064365386963e-10;  // 2^-32
    if constexpr (logistic) {
      for (int k = 0; k < 4; ++k) {
        v[k] = noise_log((in[k] + 0.5) * unit) - noise_log((4294967295.5 - in[k]) * unit);
      }
    } else {
      for (int k = 0; k < 4; k += 2) {  // Box-Muller
        const double radius = ops::sqrt(-2.0 * noise_log((in[k] + 0.5) * unit));
        double sine, cosine;
        noise_sine((in[k + 1] + 0.5) * unit, &sine, &cosine);
        v[k] = radius * cosine;
        v[k + 1] = radius * sine;
      }
    }
  }
  EVENFLOW_HD void store(int64_t row, int64_t block, const double* v, int64_t step) const {
    T* to = out + row * count + 4 * block;
    const int64_t wanted = count - 4 * block;
    for (int k = 0; k < 4 && k < wanted; ++k) to[k] = scale * static_cast<T>(v[k * step]);
  }
};

/// floor(x / 2^shift) + u. u is a multiple of 2^-16, so that the sum is exact in float32 up to 8 bits.
template <class T>
struct Dequantize {
  uint64_t seed;
  uint32_t stream;
  uint64_t first;
  int shift;
  bool noise;
  int64_t count;
  const uint8_t* x;
  T* out;
  EVENFLOW_HD void operator()(int64_t row, int64_t block) const {
    Words words = {{0, 0, 0, 0}};
    if (noise) words = philox(seed, stream, first + static_cast<uint64_t>(row), static_cast<uint32_t>(block));
    for (int k = 0; k < 4 && 4 * block + k < count; ++k) {
      const int64_t i = row * count + 4 * block + k;
      out[i] = static_cast<T>(x[i] >> shift) + static_cast<T>(words.w[k] >> 16) * T(1.52587890625e-5);
    }
  }
};

}  // namespace evenflow::ops
