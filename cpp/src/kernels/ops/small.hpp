#pragma once

#include "kernels/ops/math.hpp"
#include "kernels/ops/pack.hpp"

// Work on a few numbers: coefficients from parameters, parameter gradients from sums, log-determinants. On a
// device they stay there. Columns are channels; sums are in double.

namespace evenflow::ops {

template <class U>
struct Fill {
  using Number = U;
  U value;
  U* x;
  EVENFLOW_HD bool packs(int n) const { return fits(n, x); }
  template <int n = 1>
  EVENFLOW_HD void operator()(int64_t, int64_t i) const {
    Pack<U, n> v;
    for (int e = 0; e < n; ++e) v.v[e] = value;
    write(v, x + i);
  }
};

/// y = factor * x.
struct Scaled {
  double factor;
  const double* x;
  double* y;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const { y[i] = factor * x[i]; }
};

/// Row i of x (n, d) *= factors[i].
template <class T>
struct ScaleRows {
  const double* factors;
  int64_t d;
  T* x;
  EVENFLOW_HD void operator()(int64_t i, int64_t c) const { x[i * d + c] *= static_cast<T>(factors[i]); }
};

/// x[i] += factor * total[0].
template <class U>
struct AddTotal {
  double factor;
  const U* total;
  double* x;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const {
    x[i] = multiply_add(factor, static_cast<double>(total[0]), x[i]);
  }
};

/// out[i] += factor * sums[i].
template <class T>
struct AddSums {
  double factor;
  const double* sums;
  T* out;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const { out[i] += static_cast<T>(factor * sums[i]); }
};

/// A column's two sums, `step` apart, go to gradients: dbias += the first, dlogs += factor * the second;
/// either may be null.
template <class T>
struct AddPair {
  static constexpr int sums = 2;
  double factor;
  T* dbias;
  T* dlogs;
  EVENFLOW_HD void operator()(int64_t c, const double* sum, int64_t step) const {
    if (dbias) dbias[c] += static_cast<T>(sum[0]);
    if (dlogs) dlogs[c] += static_cast<T>(factor * sum[step]);
  }
};

/// A column's sum is stored.
struct StoreSum {
  static constexpr int sums = 1;
  double* out;
  EVENFLOW_HD void operator()(int64_t c, const double* sum, int64_t) const { out[c] = sum[0]; }
};

/// f(column, its sums, step) for sums (F::sums, cols) that are there.
template <class F>
struct FromSums {
  const double* sums;
  int64_t cols;
  F f;
  EVENFLOW_HD void operator()(int64_t, int64_t c) const { f(c, sums + c, cols); }
};

/// out[i] = sums[i] / count.
template <class T>
struct MeanOf {
  const double* sums;
  double count;
  T* out;
  EVENFLOW_HD void operator()(int64_t, int64_t i) const { out[i] = static_cast<T>(sums[i] / count); }
};

/// Rounded once from float64, so that every device agrees.
template <class T>
EVENFLOW_HD T rounded_exp(T x) {
  return static_cast<T>(exp(static_cast<double>(x)));
}

/// scale = exp(factor * logs).
template <class T>
struct ExpScale {
  T factor;
  const T* logs;
  T* scale;
  EVENFLOW_HD void operator()(int64_t, int64_t c) const { scale[c] = rounded_exp(factor * logs[c]); }
};

/// shift = bias (null: 0), scale = exp(factor * logs).
template <class T>
struct LogScaleCoefficients {
  const T* bias;
  const T* logs;
  double factor;
  T* shift;
  T* scale;
  double* log_scale;
  EVENFLOW_HD void operator()(int64_t, int64_t c) const {
    shift[c] = bias ? bias[c] : T(0);
    scale[c] = rounded_exp(T(factor) * logs[c]);
    log_scale[c] = factor * static_cast<double>(logs[c]);
  }
};

/// shift = -mean, scale = 1 / std.
template <class T>
struct StandardCoefficients {
  const T* mean;
  const T* std;
  T* shift;
  T* scale;
  double* log_scale;
  EVENFLOW_HD void operator()(int64_t, int64_t c) const {
    shift[c] = -mean[c];
    scale[c] = T(1) / std[c];
    log_scale[c] = -log(static_cast<double>(std[c]));
  }
};

/// shift = -mean, scale = 1 / sqrt(var + eps).
template <class T>
struct MomentCoefficients {
  const T* mean;
  const T* var;
  double eps;
  T* shift;
  T* scale;
  double* log_scale;
  EVENFLOW_HD void operator()(int64_t, int64_t c) const {
    shift[c] = -mean[c];
    scale[c] = static_cast<T>(1 / sqrt(static_cast<double>(var[c]) + eps));
    log_scale[c] = log(static_cast<double>(scale[c]));
  }
};

/// dbias += sums[c], dlogs += factor * (sums[channels + c] + pixels * dlogdet[0]); dbias may be null.
template <class T>
struct ChannelGradients {
  const double* sums;
  const double* dlogdet;
  double pixels;
  double factor;
  int64_t channels;
  T* dbias;
  T* dlogs;
  EVENFLOW_HD void operator()(int64_t, int64_t c) const {
    if (dbias) dbias[c] += static_cast<T>(sums[c]);
    dlogs[c] += static_cast<T>(factor * (sums[channels + c] + pixels * dlogdet[0]));
  }
};

/// means (2, channels) = (sums + [0, active * dlogdet[0]]) / pixels; dlogdet may be null.
template <class T>
struct NormMeans {
  const double* sums;
  const double* dlogdet;
  double active;
  double pixels;
  int64_t channels;
  T* means;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const double more = row == 1 && dlogdet ? active * dlogdet[0] : 0.0;
    means[row * channels + c] = static_cast<T>((sums[row * channels + c] + more) / pixels);
  }
};

/// norms = sqrt(squares), factor = g / norms.
template <class T>
struct NormFactors {
  const double* squares;
  const T* g;  ///< null: 1
  T* norms;
  T* factor;
  EVENFLOW_HD void operator()(int64_t, int64_t c) const {
    norms[c] = static_cast<T>(sqrt(squares[c]));
    factor[c] = (g ? g[c] : T(1)) / norms[c];
  }
};

template <class T>
struct NormFactorsBackward {
  const double* dots;
  const T* g;  ///< null: 1
  const T* norms;
  T* factor;
  T* along;
  T* dg;  ///< may be null
  EVENFLOW_HD void operator()(int64_t, int64_t c) const {
    const double dot = dots[c] / norms[c];  // d loss / d g
    factor[c] = (g ? g[c] : T(1)) / norms[c];
    along[c] = static_cast<T>(factor[c] * dot / norms[c]);
    if (dg) dg[c] += static_cast<T>(dot);
  }
};

/// dz = (dx - bend) / slope.
template <class T>
struct LogitPull {
  const T* dx;
  int64_t dx_stride;
  const T* bend;
  const T* slope;
  int64_t channels;
  T* dz;
  int64_t dz_stride;
  EVENFLOW_HD void operator()(int64_t row, int64_t c) const {
    const int64_t i = row * channels + c;
    dz[row * dz_stride + c] = (dx[row * dx_stride + c] - bend[i]) / slope[i];
  }
};

/// 1 for a value that is not finite.
template <class T>
struct NotFinite {
  using Number = T;
  const T* x;
  int64_t x_stride;
  EVENFLOW_HD bool packs(int n) const { return fits(n, x, x_stride); }
  template <int n = 1>
  EVENFLOW_HD Pack<double, n> operator()(int64_t row, int64_t c) const {
    const Pack<T, n> in = read<n>(x + row * x_stride + c);
    Pack<double, n> out;
    for (int e = 0; e < n; ++e) out.v[e] = in.v[e] - in.v[e] == T(0) ? 0.0 : 1.0;
    return out;
  }
};

/// |a - b|, infinite where it is not finite; or |b|.
template <class T, bool size>
struct Distance {
  using Number = T;
  const T* a;
  int64_t a_stride;
  const T* b;
  int64_t b_stride;
  EVENFLOW_HD bool packs(int n) const { return fits(n, a, a_stride) && fits(n, b, b_stride); }
  template <int n = 1>
  EVENFLOW_HD Pack<double, n> operator()(int64_t row, int64_t c) const {
    const Pack<T, n> truth = read<n>(b + row * b_stride + c), got = read<n>(a + row * a_stride + c);
    Pack<double, n> out;
    for (int e = 0; e < n; ++e) {
      const double right = truth.v[e];
      const double error = abs_of(static_cast<double>(got.v[e]) - right);
      out.v[e] = size ? abs_of(right) : min_of(error, HUGE_VAL);
    }
    return out;
  }
};

}  // namespace evenflow::ops
