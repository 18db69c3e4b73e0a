#pragma once

#include <algorithm>
#include <cmath>
#include <string>

#include "core/linalg.hpp"
#include "kernels/kernel_set.hpp"
#include "layers/order.hpp"

namespace evenflow {

/// Applies W = P L U to rows of pixels factor by factor, on the CPU. That takes pixels * C^2 products, and W
/// alone C^3.
template <class T>
class LuFactors {
 public:
  /// `name` is the layer's, for errors. The scope holds what this computes.
  LuFactors(Context& ctx, WorkspaceScope& scope, const std::string& name, int64_t n,
            const LuParameters<T>& of)
      : ctx_(ctx), kernels_(ctx.kernels<T>()), n_(n) {
    order_ = scope.take<int32_t>(n);
    back_ = scope.take<int32_t>(n);
    invert_order(name, of.permutation, n, order_);
    lower_ = scope.take<T>(n * n);
    upper_ = scope.take<T>(n * n);
    diagonal_ = scope.take<double>(n);
    log_det_ = scope.take<double>(1);
    *log_det_ = 0;
    for (int64_t i = 0; i < n; ++i) {
      back_[i] = static_cast<int32_t>(of.permutation[i]);
      *log_det_ += static_cast<double>(of.logs[i]);
      for (int64_t j = 0; j < n; ++j) {
        lower_[i * n + j] = j < i ? of.lower[i * n + j] : j == i ? T(1) : T(0);
        upper_[i * n + j] = j > i ? of.upper[i * n + j] : T(0);
      }
      diagonal_[i] = static_cast<double>(of.sign[i]) * std::exp(static_cast<double>(of.logs[i]));
      upper_[i * n + i] = static_cast<T>(diagonal_[i]);
    }
  }

  const double* log_det() const { return log_det_; }  ///< (1)

  /// y = x P and y = x P^-1.
  void permute(View<const T> x, View<T> y) const { kernels_.mixing.gather_channels(ctx_, x, order_, y); }
  void unpermute(View<const T> x, View<T> y) const { kernels_.mixing.gather_channels(ctx_, x, back_, y); }
  /// y = x L and y = x U.
  void by_lower(View<const T> x, View<T> y) const { multiply(x, lower_, y); }
  void by_upper(View<const T> x, View<T> y) const { multiply(x, upper_, y); }
  /// dx = dy L^T and dx = dy U^T.
  void lower_backward(View<const T> dy, View<T> dx) const { multiply_back(dy, lower_, dx); }
  void upper_backward(View<const T> dy, View<T> dx) const { multiply_back(dy, upper_, dx); }
  /// v becomes v L^-1, or v U^-1.
  void solve_lower(View<T> v) const {
    for (int64_t end = n_; end > 0; end -= std::min(end, kBlock)) {
      const int64_t first = end - std::min(end, kBlock);
      solve(v, lower_, first, end, end, n_ - end);
    }
  }
  void solve_upper(View<T> v) const {
    for (int64_t first = 0; first < n_; first += kBlock)
      solve(v, upper_, first, std::min(first + kBlock, n_), 0, first);
  }

  /// The parameters' gradients +=: x L = v and v U = z had the inputs x and v, and the gradients dv and dz.
  /// dlogdet: the sum over samples, times pixels.
  void add_gradients(View<const T> x, View<const T> v, View<const T> dv, View<const T> dz, double dlogdet,
                     const LuParameterGradients<T>& out) const {
    WorkspaceScope scope(ctx_);
    T* d = scope.take<T>(n_ * n_);
    outer(x, dv, d);
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = 0; j < i; ++j) out.lower[i * n_ + j] += d[i * n_ + j];
    }
    outer(v, dz, d);
    for (int64_t i = 0; i < n_; ++i) {
      out.logs[i] += static_cast<T>(static_cast<double>(d[i * n_ + i]) * upper_[i * n_ + i] + dlogdet);
      for (int64_t j = i + 1; j < n_; ++j) out.upper[i * n_ + j] += d[i * n_ + j];
    }
  }

 private:
  static constexpr int64_t kBlock = 64;  ///< columns that are solved at a time, by the inverse of their block

  static ConvDims dims(const Shape& x, int64_t inputs, int64_t outputs) {
    ConvDims d;
    d.in = x.with_channels(inputs);
    d.cout = outputs;
    return d;
  }
  void multiply(View<const T> x, const T* w, View<T> y) const {
    kernels_.net.conv_forward(ctx_, dims(x.shape, n_, n_), x, w, Epilogue<T>(), y);
  }
  void multiply_back(View<const T> dy, const T* w, View<T> dx) const {
    kernels_.net.conv_backward_data(ctx_, dims(dy.shape, n_, n_), dy, w, dx, false);
  }
  /// d (C, C) = x^T dy, over all pixels.
  void outer(View<const T> x, View<const T> dy, T* d) const {
    kernels_.move.zero(ctx_, n_ * n_, d);
    kernels_.net.conv_backward_weights(ctx_, dims(x.shape, n_, n_), x, dy, d);
  }

  /// Columns [first, end) of v, from the `count` columns from `known` on, which are solved.
  void solve(View<T> v, const T* matrix, int64_t first, int64_t end, int64_t known, int64_t count) const {
    const int64_t size = end - first;
    WorkspaceScope scope(ctx_);
    const View<T> block = v.channels(first, size);
    if (count) {
      T* minus = scope.take<T>(size * count);  // the transpose of the part that joins both, negated
      for (int64_t i = 0; i < size; ++i) {
        for (int64_t k = 0; k < count; ++k) minus[i * count + k] = -matrix[(known + k) * n_ + first + i];
      }
      kernels_.net.conv_backward_data(ctx_, dims(v.shape, size, count), v.channels(known, count), minus,
                                      block, true);
    }
    linalg::Matrix own(static_cast<size_t>(size * size));
    for (int64_t i = 0; i < size; ++i) {
      for (int64_t j = 0; j < size; ++j)
        own[static_cast<size_t>(i * size + j)] = static_cast<double>(matrix[(first + i) * n_ + first + j]);
      if (matrix == upper_) own[static_cast<size_t>(i * size + i)] = diagonal_[first + i];
    }
    own = matrix == lower_ ? linalg::invert_lower(own, size) : linalg::invert_upper(own, size);
    T* inverse = scope.take<T>(size * size);
    std::transform(own.begin(), own.end(), inverse, [](double value) { return static_cast<T>(value); });
    const View<T> solved(scope.take<T>(block.shape.size()), block.shape);
    kernels_.net.conv_forward(ctx_, dims(v.shape, size, size), block, inverse, Epilogue<T>(), solved);
    kernels_.move.copy(ctx_, View<const T>(solved), block);
  }

  Context& ctx_;
  const KernelSet<T>& kernels_;
  int64_t n_;
  int32_t *order_, *back_;
  T *lower_, *upper_;
  double *diagonal_, *log_det_;
};

}  // namespace evenflow
