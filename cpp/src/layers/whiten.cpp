#include <cmath>

#include "core/linalg.hpp"
#include "evenflow/error.hpp"
#include "layers/channel_scale.hpp"
#include "layers/varying.hpp"

namespace evenflow {
namespace {

constexpr double kZcaEps = 1e-3;

/// c = a b, n x n, with the blocked kernels.
void product(Context& ctx, int64_t n, const double* a, const double* b, double* c) {
  ConvDims dims;
  dims.in = {n, 1, 1, n};
  dims.cout = n;
  ctx.kernels<double>().net.conv_forward(ctx, dims, {a, dims.in}, b, {}, {c, dims.in});
}

/// A^(-1/2) and A^(1/2) of a positive definite A by the coupled Newton-Schulz iteration.
bool inverse_square_root(Context& ctx, const linalg::Matrix& a, int64_t n, linalg::Matrix& inverse_root,
                         linalg::Matrix& root) {
  double norm = 0;
  for (double v : a) norm += v * v;
  norm = std::sqrt(norm);
  linalg::Matrix y = a, z(a.size(), 0.0), w(a.size()), next(a.size());
  for (double& v : y) v /= norm;
  for (int64_t i = 0; i < n; ++i) z[i * n + i] = 1;
  for (int step = 0; step < 100; ++step) {
    product(ctx, n, z.data(), y.data(), w.data());
    double error = 0;
    for (int64_t i = 0; i < n * n; ++i) {
      const double one = i % (n + 1) == 0 ? 1 : 0;
      error += (w[i] - one) * (w[i] - one);
      w[i] = 1.5 * one - 0.5 * w[i];
    }
    product(ctx, n, y.data(), w.data(), next.data());
    y.swap(next);
    product(ctx, n, w.data(), z.data(), next.data());
    z.swap(next);
    if (error < 1e-20 * n) {
      inverse_root = z;
      root = y;
      for (double& v : inverse_root) v /= std::sqrt(norm);
      for (double& v : root) v *= std::sqrt(norm);
      return true;
    }
  }
  return false;
}

template <class T>
class Whiten final : public Layer<T> {
 public:
  Whiten(Shape in, Whitening kind) : Layer<T>("whiten", in, in, false), kind_(kind) {}

  void declare(const Scope& scope) override {
    const int64_t d = this->input_shape().c;
    name_ = scope.prefix();
    mean_ = scope.add("mean", {d}, Group::fixed);
    matrix_ = scope.add("matrix", {d, d}, Group::fixed);
    inverse_ = scope.add("inverse", {d, d}, Group::fixed);
    logdet_ = scope.add("logdet", {1}, Group::fixed);
  }

  bool standardizes() const override { return true; }

  void init(ParamArena<T>& arena, Rng&) const override {
    const int64_t d = this->input_shape().c;
    for (int64_t i = 0; i < d; ++i)
      arena.value(matrix_)[i * (d + 1)] = arena.value(inverse_)[i * (d + 1)] = T(1);
  }

  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    const int64_t d = x.shape.c;
    if (!ctx.on_host()) return init_on_host(ctx, arena, x);
    WorkspaceScope scope(ctx);
    T* mean = scope.take<T>(d);
    T* var = scope.take<T>(d);
    ctx.kernels<T>().channel.moments(ctx, -1, x, mean, var);
    check_columns(name_, mean, var, d);
    const linalg::Matrix covariance = covariance_of(ctx, x, mean);
    linalg::Matrix matrix, inverse;
    double logdet = 0;
    const linalg::Matrix factor = linalg::cholesky(covariance, d);
    if (factor.empty()) not_definite();
    for (int64_t i = 0; i < d; ++i) logdet -= std::log(factor[i * (d + 1)]);
    if (kind_ == Whitening::covariance) {
      inverse = linalg::transpose(factor, d);
      matrix = linalg::transpose(linalg::invert_lower(factor, d), d);
    } else if (!inverse_square_root(ctx, covariance, d, matrix, inverse)) {
      not_definite();
    }
    ctx.synchronize();
    std::copy(mean, mean + d, arena.value(mean_));
    std::copy(matrix.begin(), matrix.end(), arena.value(matrix_));
    std::copy(inverse.begin(), inverse.end(), arena.value(inverse_));
    arena.value(logdet_)[0] = static_cast<T>(logdet);
  }

 private:
  /// Initialises from a copy of the batch with the CPU's kernels. It happens once per model, so speed does
  /// not matter.
  void init_on_host(Context& ctx, ParamArena<T>& arena, View<const T> x) const {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    View<T> batch(scope.take<T>(x.shape.size()), x.shape);
    ctx.kernels<T>().move.copy(ctx, x, batch);
    const View<const T> copy(host.read(static_cast<const T*>(batch.data), x.shape.size()), x.shape);
    Context cpu("cpu", ctx.threads());
    init_from_data(cpu, arena, copy);
  }

  [[noreturn]] void not_definite() const {
    fail<NumericError>(name_,
                       "expected columns with a positive definite covariance, got a singular one; drop "
                       "duplicate columns, or use more rows than columns (fit takes init_batch of them)");
  }

  /// Covariance in float64, plus 1e-3 I for ZCA.
  linalg::Matrix covariance_of(Context& ctx, View<const T> x, const T* mean) const {
    const int64_t d = x.shape.c, rows = x.shape.pixels();
    WorkspaceScope scope(ctx);
    double* centred = scope.take<double>(rows * d);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < d; ++c)
        centred[r * d + c] = static_cast<double>(x.data[r * x.stride + c]) - mean[c];
    }
    linalg::Matrix covariance(static_cast<size_t>(d * d), 0.0);
    ConvDims dims;
    dims.in = {rows, 1, 1, d};
    dims.cout = d;
    ctx.kernels<double>().net.conv_backward_weights(ctx, dims, {centred, dims.in}, {centred, dims.in},
                                                    covariance.data());
    for (double& v : covariance) v /= static_cast<double>(rows);
    if (kind_ == Whitening::zca) {
      for (int64_t i = 0; i < d; ++i) covariance[i * (d + 1)] += kZcaEps;
    }
    return covariance;
  }

  ConvDims dims(const Shape& x) const {
    ConvDims d;
    d.in = x;
    d.cout = x.c;
    return d;
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    // Centre first: x M - mean M would cancel digits if means are large.
    const int64_t d = x.shape.c;
    const KernelSet<T>& kernels = ctx.kernels<T>();
    T* shift = scope.take<T>(d);
    T* ones = scope.take<T>(d);
    kernels.move.copy(ctx, View<const T>(params.value(mean_), {1, 1, 1, d}), View<T>(shift, {1, 1, 1, d}));
    kernels.move.scale(ctx, d, T(-1), shift);
    kernels.move.fill(ctx, d, T(1), ones);
    View<T> centred(scope.take<T>(x.shape.size()), x.shape);
    kernels.channel.forward(ctx, -1, x, shift, ones, centred);
    kernels.net.conv_forward(ctx, dims(x.shape), centred, params.value(matrix_), Epilogue<T>(), z);
    kernels.move.add_parameter(ctx, x.shape.n, static_cast<double>(x.shape.pixels_per_sample()),
                               params.value(logdet_), logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    rebuild(ctx, params, z, x);
    ctx.kernels<T>().move.add_parameter(ctx, z.shape.n, -static_cast<double>(z.shape.pixels_per_sample()),
                                        params.value(logdet_), logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz, const double*,
                   View<T> x, View<T> dx) const override {
    rebuild(ctx, params, z, x);
    ctx.kernels<T>().net.conv_backward_data(ctx, dims(z.shape), dz, params.value(matrix_), dx, false);
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double*, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    double* unused = scope.take<double>(x.shape.n);
    ctx.kernels<T>().move.fill_doubles(ctx, x.shape.n, 0, unused);
    do_forward(ctx, params, x, z, unused);
    ctx.kernels<T>().net.conv_backward_data(ctx, dims(x.shape), dx, params.value(inverse_), dz, false);
  }

  void rebuild(Context& ctx, const Params<T>& params, View<const T> z, View<T> x) const {
    Epilogue<T> epilogue;
    epilogue.bias = params.value(mean_);
    ctx.kernels<T>().net.conv_forward(ctx, dims(z.shape), z, params.value(inverse_), epilogue, x);
  }

  Whitening kind_;
  std::string name_;
  ParamId mean_ = 0;
  ParamId matrix_ = 0;
  ParamId inverse_ = 0;
  ParamId logdet_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> whiten(Shape in, Whitening kind) {
  return std::make_unique<Whiten<T>>(in, kind);
}

template std::unique_ptr<Layer<float>> whiten<float>(Shape, Whitening);
template std::unique_ptr<Layer<double>> whiten<double>(Shape, Whitening);

}  // namespace evenflow
