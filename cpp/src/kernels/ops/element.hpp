#pragma once

#include "kernels/ops/math.hpp"
#include "kernels/ops/philox.hpp"

// Copies, layouts, preprocessing, base distributions and random fills.

namespace evenflow::ops {

template <class T>
struct Copy {
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const { y[row * y_stride + c] = x[row * x_stride + c]; }
};

/// Rows are pixels of samples that lie from_step and to_step values apart.
template <class T>
struct CopyBlocks {
  int64_t pixels;  ///< of a sample
  const T* x;
  int64_t x_stride;
  int64_t from_step;
  T* y;
  int64_t y_stride;
  int64_t to_step;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const int64_t i = row / pixels, p = row % pixels;
    y[i * to_step + p * y_stride + c] = x[i * from_step + p * x_stride + c];
  }
};

template <class T>
struct Add {
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    y[row * y_stride + c] += x[row * x_stride + c];
  }
};

/// y[row, c] = x[row, order[c]].
template <class T>
struct GatherChannels {
  const T* x;
  int64_t x_stride;
  const int32_t* order;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    y[row * y_stride + c] = x[row * x_stride + order[c]];
  }
};

/// Space to depth by 2 and back. Rows are the large image's pixels, (height, width) its size.
template <class T>
struct Squeeze {
  int64_t height;
  int64_t width;
  int64_t channels;  ///< of the large image
  bool diagonal;
  bool inverse;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const int64_t n = row / (height * width), i = row / width % height, j = row % width;
    const int64_t dy = i & 1, dx = j & 1;
    // Diagonal order: (0,0), (1,1), (0,1), (1,0).
    const int64_t position = dy == dx ? dy : 2 + dy;
    const int64_t channel = diagonal ? position * channels + c : 4 * c + 2 * dy + dx;
    const int64_t small = (n * (height / 2) + i / 2) * (width / 2) + j / 2;
    if (inverse) {
      y[row * y_stride + c] = x[small * x_stride + channel];
    } else {
      y[small * y_stride + channel] = x[row * x_stride + c];
    }
  }
};

/// y = logit((1 + 0.9 (2u - 1)) / 2); sum: log dy/du (Real NVP's official preprocessing).
template <class T>
struct LogitForward {
  static constexpr int inputs = 1;
  static constexpr int outputs = 1;
  static constexpr int sums = 1;
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  EVENFLOW_HD void prepare() {}
  EVENFLOW_HD void load(int64_t row, int64_t c, T* in, int64_t) const { in[0] = x[row * x_stride + c]; }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    const T p = T(0.05) + T(0.9) * in[0];
    out[0] = log(p) - log(T(1) - p);
    sum[0] = softplus(out[0]) + softplus(-out[0]) + T(-0.10536051565782628);  // log 0.9
  }
  EVENFLOW_HD void store(int64_t row, int64_t c, const T* out, int64_t) const {
    y[row * y_stride + c] = out[0];
  }
};

template <class T>
struct LogitInverse {
  static constexpr int inputs = 1;
  static constexpr int outputs = 1;
  static constexpr int sums = 1;
  const T* y;
  int64_t y_stride;
  T* x;
  int64_t x_stride;
  EVENFLOW_HD void prepare() {}
  EVENFLOW_HD void load(int64_t row, int64_t c, T* in, int64_t) const { in[0] = y[row * y_stride + c]; }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    out[0] = (sigmoid(in[0]) - T(0.05)) / T(0.9);
    sum[0] = -(softplus(in[0]) + softplus(-in[0]) + T(-0.10536051565782628));
  }
  EVENFLOW_HD void store(int64_t row, int64_t c, const T* out, int64_t) const {
    x[row * x_stride + c] = out[0];
  }
};

/// log dy/du = softplus(y) + softplus(-y) + log 0.9, whose derivative by y is tanh(y / 2).
template <class T>
struct LogitBackward {
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
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const T out = y[row * y_stride + c];
    const T p = sigmoid(out);
    const T slope = T(0.9) / (p * sigmoid(-out));  // dy/du
    const T g = dy[row * dy_stride + c] + static_cast<T>(dlogdet[row / rows_per_sample]) * tanh(out / T(2));
    x[row * x_stride + c] = (p - T(0.05)) / T(0.9);
    dx[row * dx_stride + c] = g * slope;
  }
};

/// Sum: log p0(z); dz = scale * d log p0 / dz where dz is not null.
template <class T, bool logistic>
struct BaseLogProb {
  static constexpr int inputs = 1;
  static constexpr int outputs = 1;
  static constexpr int sums = 1;
  const T* z;
  T* dz;
  T scale;
  EVENFLOW_HD void prepare() {}
  EVENFLOW_HD void load(int64_t row, int64_t, T* in, int64_t) const { in[0] = z[row]; }
  EVENFLOW_HD void compute(const T* in, T* out, T* sum) const {
    const T v = in[0];
    sum[0] =
        logistic ? -(softplus(v) + softplus(-v)) : T(-0.5) * (v * v + T(1.8378770664093453));  // log 2 pi
    out[0] = scale * (logistic ? -tanh(v / T(2)) : -v);
  }
  EVENFLOW_HD void store(int64_t row, int64_t, const T* out, int64_t) const {
    if (dz) dz[row] = out[0];
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
    if (logistic) {
      for (int k = 0; k < 4; ++k) {
        v[k] = noise_log((in[k] + 0.5) * unit) - noise_log((4294967295.5 - in[k]) * unit);
      }
      return;
    }
    for (int k = 0; k < 4; k += 2) {  // Box-Muller
      const double radius = ops::sqrt(-2.0 * noise_log((in[k] + 0.5) * unit));
      double sine, cosine;
      noise_sine((in[k + 1] + 0.5) * unit, &sine, &cosine);
      v[k] = radius * cosine;
      v[k + 1] = radius * sine;
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
