#include <cmath>

#include "core/linalg.hpp"
#include "evenflow/error.hpp"
#include "layers/channel_scale.hpp"
#include "layers/order.hpp"

namespace evenflow {
namespace {

using linalg::Matrix;

/// Memory of one call: of the device, of the program's workspace for containers, and the way between them.
class Scratch final : public std::pmr::memory_resource {
 public:
  explicit Scratch(Context& context) : ctx(context), scope(context), host(context) {}

  Context& ctx;
  WorkspaceScope scope;
  HostScope host;

 private:
  void* do_allocate(size_t bytes, size_t) override { return host.take<char>(static_cast<int64_t>(bytes)); }
  void do_deallocate(void*, size_t, size_t) override {}  // all at once, with the scope
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }
};

/// z = x W per pixel; a subclass says how W comes from parameters.
template <class T>
class Conv1x1 : public Layer<T> {
 protected:
  Conv1x1(const char* kind, Shape in) : Layer<T>(kind, in, in, false) {}

  int64_t channels() const { return this->input_shape().c; }
  double pixels() const { return static_cast<double>(this->input_shape().pixels_per_sample()); }

  /// What parameters come to, where kernels read it.
  struct Weights {
    const T* w;             ///< W
    const T* inverse;       ///< W^-1, or null
    const double* log_det;  ///< (1): log |det W|
  };

 private:
  virtual Weights weights(Scratch& scratch, const Params<T>& params, bool inverse) const = 0;
  /// dw (C, C): gradient by W; dlogdet (1): the sum over samples.
  virtual void add_gradients(Scratch& scratch, const Params<T>& params, const T* dw,
                             const double* dlogdet) const = 0;

  ConvDims dims(const Shape& x) const {
    ConvDims d;
    d.in = x;
    d.cout = channels();
    return d;
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double* logdet,
                  T*) const override {
    Scratch scratch(ctx);
    const Weights of = weights(scratch, params, false);
    ctx.kernels<T>().conv_forward(ctx, dims(x.shape), x, of.w, Epilogue<T>(), z);
    ctx.kernels<T>().add_total(ctx, x.shape.n, pixels(), of.log_det, logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    Scratch scratch(ctx);
    const Weights of = weights(scratch, params, true);
    ctx.kernels<T>().conv_forward(ctx, dims(z.shape), z, of.inverse, Epilogue<T>(), x);
    ctx.kernels<T>().add_total(ctx, z.shape.n, -pixels(), of.log_det, logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx, T*) const override {
    Scratch scratch(ctx);
    const KernelSet<T>& kernels = ctx.kernels<T>();
    const Weights of = weights(scratch, params, true);
    kernels.conv_forward(ctx, dims(z.shape), z, of.inverse, Epilogue<T>(), x);
    kernels.conv_backward_data(ctx, dims(z.shape), dz, of.w, dx, false);
    T* dw = scratch.scope.template take<T>(channels() * channels());
    kernels.zero(ctx, channels() * channels(), dw);
    kernels.conv_backward_weights(ctx, dims(z.shape), x, dz, dw);
    add_gradients(scratch, params, dw, sum_of<T>(ctx, scratch.scope, dlogdet, z.shape.n));
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    Scratch scratch(ctx);
    const Weights of = weights(scratch, params, true);
    ctx.kernels<T>().conv_forward(ctx, dims(x.shape), x, of.w, Epilogue<T>(), z);
    ctx.kernels<T>().conv_backward_data(ctx, dims(x.shape), dx, of.inverse, dz, false);
    this->add_inverse_gradients(ctx, params, z, dz, dlogdet);
  }
};

template <class T>
class LuConv1x1 final : public Conv1x1<T> {
 public:
  explicit LuConv1x1(Shape in) : Conv1x1<T>("lu_conv1x1", in) {}

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

 private:
  using Weights = typename Conv1x1<T>::Weights;

  LuParameters<T> parameters(Scratch& scratch, const Params<T>& params) const {
    const LuParameters<T> of{params.value(lower_), params.value(upper_), params.value(logs_),
                             params.value(sign_), params.value(permutation_)};
    // On a device W becomes NaN instead, which is an error too: a look at it would wait for the queue.
    const int64_t n = this->channels();
    for (int64_t i = 0; scratch.ctx.on_host() && i < n; ++i) order_at(name_, of.permutation, n, i);
    return of;
  }

  Weights weights(Scratch& scratch, const Params<T>& params, bool inverse) const override {
    const int64_t n = this->channels();
    T* w = scratch.scope.template take<T>(n * n);
    T* back = inverse ? scratch.scope.template take<T>(n * n) : nullptr;
    double* log_det = scratch.scope.template take<double>(1);
    scratch.ctx.template kernels<T>().lu_matrix(scratch.ctx, n, parameters(scratch, params), w, back,
                                                log_det);
    return {w, back, log_det};
  }

  void add_gradients(Scratch& scratch, const Params<T>& params, const T* dw,
                     const double* dlogdet) const override {
    scratch.ctx.template kernels<T>().lu_gradients(
        scratch.ctx, this->channels(), parameters(scratch, params), dw, dlogdet, this->pixels(),
        {params.grad(lower_), params.grad(upper_), params.grad(logs_)});
  }

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
    const Matrix q = linalg::random_orthogonal(this->channels(), rng);
    for (size_t i = 0; i < q.size(); ++i) arena.value(weight_)[i] = static_cast<T>(q[i]);
  }

 private:
  using Weights = typename Conv1x1<T>::Weights;

  /// In float64 by the program, on a device too.
  Matrix inverse_of(const Matrix& w, double* logdet) const {
    const int64_t n = this->channels();
    const linalg::Lu f = linalg::lu(w, n);
    *logdet = 0;
    for (int64_t i = 0; i < n; ++i) *logdet += std::log(std::abs(f.upper[i * n + i]));
    if (!std::isfinite(*logdet)) {
      fail<NumericError>(name_, "expected an invertible 1x1 convolution, got log |det W| = ", *logdet);
    }
    const Matrix inv =
        linalg::multiply(linalg::invert_upper(f.upper, n), linalg::invert_lower(f.lower, n), n);
    Matrix out(inv.size(), inv.get_allocator());
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) out[j * n + i] = inv[j * n + f.permutation[i]];
    }
    return out;
  }

  Matrix load(Scratch& scratch, const T* values) const {
    const int64_t size = this->channels() * this->channels();
    const T* here = scratch.host.read(values, size);
    return Matrix(here, here + size, &scratch);
  }

  const T* rounded(Scratch& scratch, const Matrix& m) const {
    T* out = scratch.host.template take<T>(static_cast<int64_t>(m.size()));
    for (size_t i = 0; i < m.size(); ++i) out[i] = static_cast<T>(m[i]);
    return scratch.host.send(out, static_cast<int64_t>(m.size()));
  }

  Weights weights(Scratch& scratch, const Params<T>& params, bool) const override {
    double* log_det = scratch.host.template take<double>(1);
    const Matrix inverse = inverse_of(load(scratch, params.value(weight_)), log_det);
    return {params.value(weight_), rounded(scratch, inverse), scratch.host.send(log_det, 1)};
  }

  void add_gradients(Scratch& scratch, const Params<T>& params, const T* dw,
                     const double* dlogdet) const override {
    const int64_t n = this->channels();
    double logdet;
    const Matrix inverse = inverse_of(load(scratch, params.value(weight_)), &logdet);
    const Matrix own = load(scratch, dw);
    const double total = *scratch.host.read(dlogdet, 1) * this->pixels();
    T* delta = scratch.host.template take<T>(n * n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        delta[i * n + j] = static_cast<T>(own[i * n + j] + total * inverse[j * n + i]);
      }
    }
    const Shape flat{1, 1, 1, n * n};
    scratch.ctx.template kernels<T>().add(scratch.ctx, View<const T>(scratch.host.send(delta, n * n), flat),
                                          View<T>(params.grad(weight_), flat));
  }

  std::string name_;
  ParamId weight_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> lu_conv1x1(Shape in) {
  return std::make_unique<LuConv1x1<T>>(in);
}

template <class T>
std::unique_ptr<Layer<T>> plain_conv1x1(Shape in) {
  return std::make_unique<PlainConv1x1<T>>(in);
}

template std::unique_ptr<Layer<float>> lu_conv1x1<float>(Shape);
template std::unique_ptr<Layer<double>> lu_conv1x1<double>(Shape);
template std::unique_ptr<Layer<float>> plain_conv1x1<float>(Shape);
template std::unique_ptr<Layer<double>> plain_conv1x1<double>(Shape);

}  // namespace evenflow
