#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/linalg.hpp"
#include "evenflow/error.hpp"
#include "layers/channel_scale.hpp"
#include "layers/lu_factors.hpp"
#include "layers/order.hpp"

namespace evenflow {
namespace {

/// z = x W per pixel. A subclass computes W from parameters.
template <class T>
class Conv1x1 : public Layer<T> {
 protected:
  Conv1x1(const char* kind, Shape in) : Layer<T>(kind, in, in, false) {}

  int64_t channels() const { return this->input_shape().c; }
  double pixels() const { return static_cast<double>(this->input_shape().pixels_per_sample()); }

  /// The matrices computed from the parameters, in device memory.
  struct Weights {
    const T* w;             ///< W
    const T* inverse;       ///< W^-1, or null
    const double* log_det;  ///< (1): log |det W|
    const double* exact;    ///< W^-1 in float64; null if gradients do not need it
  };

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const Weights of = weights(ctx, scope, params, false);
    ctx.kernels<T>().net.conv_forward(ctx, dims(x.shape), x, of.w, Epilogue<T>(), z);
    ctx.kernels<T>().move.add_total(ctx, x.shape.n, pixels(), of.log_det, logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const Weights of = weights(ctx, scope, params, true);
    ctx.kernels<T>().net.conv_forward(ctx, dims(z.shape), z, of.inverse, Epilogue<T>(), x);
    ctx.kernels<T>().move.add_total(ctx, z.shape.n, -pixels(), of.log_det, logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    WorkspaceScope scope(ctx);
    const KernelSet<T>& kernels = ctx.kernels<T>();
    const Weights of = weights(ctx, scope, params, true);
    kernels.net.conv_forward(ctx, dims(z.shape), z, of.inverse, Epilogue<T>(), x);
    kernels.net.conv_backward_data(ctx, dims(z.shape), dz, of.w, dx, false);
    if (!params.grads) return;
    T* dw = scope.take<T>(channels() * channels());
    kernels.move.zero(ctx, channels() * channels(), dw);
    kernels.net.conv_backward_weights(ctx, dims(z.shape), x, dz, dw);
    add_gradients(ctx, params, of, dw, sum_of<T>(ctx, scope, dlogdet, z.shape.n));
  }

 private:
  virtual Weights weights(Context& ctx, WorkspaceScope& scope, const Params<T>& params,
                          bool inverse) const = 0;
  /// dw (C, C): gradient by W; dlogdet (1): the sum over samples.
  virtual void add_gradients(Context& ctx, const Params<T>& params, const Weights& of, const T* dw,
                             const double* dlogdet) const = 0;

  ConvDims dims(const Shape& x) const {
    ConvDims d;
    d.in = x;
    d.cout = channels();
    return d;
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    const Weights of = weights(ctx, scope, params, true);
    ctx.kernels<T>().net.conv_forward(ctx, dims(x.shape), x, of.w, Epilogue<T>(), z);
    ctx.kernels<T>().net.conv_backward_data(ctx, dims(x.shape), dx, of.inverse, dz, false);
    this->add_inverse_gradients(ctx, params, z, dz, dlogdet);
  }
};

template <class T>
class LuConv1x1 final : public Conv1x1<T> {
 public:
  LuConv1x1(Shape in, MatrixStart start) : Conv1x1<T>("lu_conv1x1", in), start_(start) {}

  void declare(const Scope& scope) override {
    const int64_t c = this->channels();
    name_ = scope.prefix();
    lower_ = scope.add("lower", {c, c}, Group::no_decay);
    upper_ = scope.add("upper", {c, c}, Group::no_decay);
    logs_ = scope.add("logs", {c}, Group::no_decay);
    permutation_ = scope.add("permutation", {c}, Group::fixed);
    sign_ = scope.add("sign", {c}, Group::fixed);
  }

  void init(ParamArena<T>& arena, Rng& rng) const override {
    const int64_t n = this->channels();
    if (start_ == MatrixStart::identity) {
      std::fill_n(arena.value(lower_), n * n, T(0));
      std::fill_n(arena.value(upper_), n * n, T(0));
      std::fill_n(arena.value(logs_), n, T(0));
      std::fill_n(arena.value(sign_), n, T(1));
      std::iota(arena.value(permutation_), arena.value(permutation_) + n, T(0));
      return;
    }
    const linalg::Lu f = linalg::lu(linalg::random_orthogonal(n, rng), n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        arena.value(lower_)[i * n + j] = j < i ? static_cast<T>(f.lower[i * n + j]) : T(0);
        arena.value(upper_)[i * n + j] = j > i ? static_cast<T>(f.upper[i * n + j]) : T(0);
      }
      const double d = f.upper[i * n + i];
      arena.value(logs_)[i] = static_cast<T>(std::log(std::abs(d)));
      arena.value(sign_)[i] = d < 0 ? T(-1) : T(1);
      arena.value(permutation_)[i] = static_cast<T>(f.permutation[i]);
    }
  }

  void check_parameters(const ParamArena<T>& arena) const override {
    const int64_t n = this->channels();
    std::vector<int32_t> order(static_cast<size_t>(n));
    invert_order(name_, arena.value(permutation_), n, order.data());
    const T* sign = arena.value(sign_);
    for (int64_t i = 0; i < n; ++i) {
      if (std::abs(sign[i]) != T(1)) {
        fail<NumericError>(name_, "expected signs of 1 or -1, got ", sign[i], " in channel ", i);
      }
    }
  }

  void check_values(Context& ctx, const Params<T>& params) const override {
    const int64_t n = this->channels();
    HostScope host(ctx);
    invert_order(name_, host.read(params.value(permutation_), n), n, host.take<int32_t>(n));
  }

 private:
  using Weights = typename Conv1x1<T>::Weights;

  bool by_factors(Context& ctx) const { return ctx.kernels<T>().mixing.mixes_by_factors(this->channels()); }
  LuFactors<T> factors(Context& ctx, WorkspaceScope& scope, const Params<T>& params) const {
    return LuFactors<T>(ctx, scope, name_, this->channels(), parameters(params));
  }
  static View<T> take(WorkspaceScope& scope, const Shape& shape) {
    return View<T>(scope.take<T>(shape.size()), shape);
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    if (!by_factors(ctx)) return Conv1x1<T>::do_forward(ctx, params, x, z, logdet);
    WorkspaceScope scope(ctx);
    const LuFactors<T> of = factors(ctx, scope, params);
    const View<T> ordered = take(scope, x.shape), middle = take(scope, x.shape);
    of.permute(x, ordered);
    of.by_lower(ordered, middle);
    of.by_upper(middle, z);
    ctx.kernels<T>().move.add_total(ctx, x.shape.n, this->pixels(), of.log_det(), logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    if (!by_factors(ctx)) return Conv1x1<T>::do_inverse(ctx, params, z, x, logdet);
    WorkspaceScope scope(ctx);
    const LuFactors<T> of = factors(ctx, scope, params);
    const View<T> v = take(scope, z.shape);
    ctx.kernels<T>().move.copy(ctx, z, v);
    of.solve_upper(v);
    of.solve_lower(v);
    of.unpermute(v, x);
    ctx.kernels<T>().move.add_total(ctx, z.shape.n, -this->pixels(), of.log_det(), logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    if (!by_factors(ctx)) return Conv1x1<T>::do_backward(ctx, params, z, dz, dlogdet, x, dx);
    WorkspaceScope scope(ctx);
    const KernelSet<T>& kernels = ctx.kernels<T>();
    const LuFactors<T> of = factors(ctx, scope, params);
    const View<T> ordered = take(scope, z.shape), middle = take(scope, z.shape);
    const View<T> dordered = take(scope, z.shape), dmiddle = take(scope, z.shape);
    kernels.move.copy(ctx, z, middle);
    of.solve_upper(middle);
    kernels.move.copy(ctx, View<const T>(middle), ordered);
    of.solve_lower(ordered);
    of.unpermute(ordered, x);
    of.upper_backward(dz, dmiddle);
    of.lower_backward(dmiddle, dordered);
    of.unpermute(dordered, dx);
    if (!params.grads) return;
    of.add_gradients(ordered, middle, dmiddle, dz,
                     this->pixels() * *sum_of<T>(ctx, scope, dlogdet, z.shape.n),
                     {params.grad(lower_), params.grad(upper_), params.grad(logs_)});
  }

  LuParameters<T> parameters(const Params<T>& params) const {
    return {params.value(lower_), params.value(upper_), params.value(logs_), params.value(sign_),
            params.value(permutation_)};
  }

  Weights weights(Context& ctx, WorkspaceScope& scope, const Params<T>& params, bool inverse) const override {
    const int64_t n = this->channels();
    if (ctx.on_host()) check_values(ctx, params);
    T* w = scope.take<T>(n * n);
    T* back = inverse ? scope.take<T>(n * n) : nullptr;
    double* log_det = scope.take<double>(1);
    ctx.kernels<T>().mixing.lu_matrix(ctx, n, parameters(params), w, back, log_det);
    return {w, back, log_det, nullptr};
  }

  void add_gradients(Context& ctx, const Params<T>& params, const Weights&, const T* dw,
                     const double* dlogdet) const override {
    ctx.kernels<T>().mixing.lu_gradients(ctx, this->channels(), parameters(params), dw, dlogdet,
                                         this->pixels(),
                                         {params.grad(lower_), params.grad(upper_), params.grad(logs_)});
  }

  MatrixStart start_;
  std::string name_;
  ParamId lower_ = 0;
  ParamId upper_ = 0;
  ParamId logs_ = 0;
  ParamId permutation_ = 0;
  ParamId sign_ = 0;
};

template <class T>
class PlainConv1x1 final : public Conv1x1<T> {
 public:
  explicit PlainConv1x1(Shape in) : Conv1x1<T>("plain_conv1x1", in) {}

  void declare(const Scope& scope) override {
    name_ = scope.prefix();
    weight_ = scope.add("weight", {this->channels(), this->channels()}, Group::no_decay);
  }

  void init(ParamArena<T>& arena, Rng& rng) const override {
    const linalg::Matrix q = linalg::random_orthogonal(this->channels(), rng);
    for (size_t i = 0; i < q.size(); ++i) arena.value(weight_)[i] = static_cast<T>(q[i]);
  }

  void check_values(Context& ctx, const Params<T>& params) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    check_invertible(*host.read(weights(ctx, scope, params, false).log_det, 1));
  }

 private:
  using Weights = typename Conv1x1<T>::Weights;

  Weights weights(Context& ctx, WorkspaceScope& scope, const Params<T>& params, bool inverse) const override {
    const int64_t size = this->channels() * this->channels();
    T* back = inverse ? scope.take<T>(size) : nullptr;
    double* exact = inverse ? scope.take<double>(size) : nullptr;
    double* log_det = scope.take<double>(1);
    ctx.kernels<T>().mixing.plain_matrix(ctx, this->channels(), params.value(weight_), back, exact, log_det);
    if (ctx.on_host()) check_invertible(*log_det);
    return {params.value(weight_), back, log_det, exact};
  }

  void check_invertible(double log_det) const {
    if (std::isfinite(log_det)) return;
    fail<NumericError>(name_, "expected an invertible 1x1 convolution, got log |det W| = ", log_det);
  }

  void add_gradients(Context& ctx, const Params<T>& params, const Weights& of, const T* dw,
                     const double* dlogdet) const override {
    ctx.kernels<T>().mixing.plain_gradients(ctx, this->channels(), dw, of.exact, dlogdet, this->pixels(),
                                            params.grad(weight_));
  }

  std::string name_;
  ParamId weight_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> lu_conv1x1(Shape in, MatrixStart start) {
  return std::make_unique<LuConv1x1<T>>(in, start);
}

template <class T>
std::unique_ptr<Layer<T>> plain_conv1x1(Shape in) {
  return std::make_unique<PlainConv1x1<T>>(in);
}

template std::unique_ptr<Layer<float>> lu_conv1x1<float>(Shape, MatrixStart);
template std::unique_ptr<Layer<double>> lu_conv1x1<double>(Shape, MatrixStart);
template std::unique_ptr<Layer<float>> plain_conv1x1<float>(Shape);
template std::unique_ptr<Layer<double>> plain_conv1x1<double>(Shape);

}  // namespace evenflow
