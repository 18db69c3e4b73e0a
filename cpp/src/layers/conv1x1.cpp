#include <cmath>

#include "core/linalg.hpp"
#include "evenflow/error.hpp"
#include "layers/channel_scale.hpp"
#include "layers/order.hpp"

namespace evenflow {
namespace {

using linalg::Matrix;

/// Memory of the program's workspace for the containers of one call, and the way between it and the device.
class Scratch final : public std::pmr::memory_resource {
 public:
  explicit Scratch(Context& context) : ctx(context), host(context) {}

  Context& ctx;
  HostScope host;

 private:
  void* do_allocate(size_t bytes, size_t) override { return host.take<char>(static_cast<int64_t>(bytes)); }
  void do_deallocate(void*, size_t, size_t) override {}  // all at once, with the scope
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override { return this == &other; }
};

/// z = x W per pixel; a subclass says how W comes from parameters. All matrix work but the product over
/// pixels is done in float64 by the program, on a device's parameters too: matrices are small.
template <class T>
class Conv1x1 : public Layer<T> {
 protected:
  Conv1x1(const char* kind, Shape in) : Layer<T>(kind, in, in, false) {}

  int64_t channels() const { return this->input_shape().c; }

  Matrix load(Scratch& scratch, const T* values) const {
    const T* here = scratch.host.read(values, channels() * channels());
    return Matrix(here, here + channels() * channels(), &scratch);
  }

  /// grad += delta, `count` values of the program.
  void add(Scratch& scratch, const T* delta, int64_t count, T* grad) const {
    const Shape flat{1, 1, 1, count};
    scratch.ctx.kernels<T>().add(scratch.ctx, View<const T>(scratch.host.send(delta, count), flat),
                                 View<T>(grad, flat));
  }

 private:
  /// W; logdet: log |det W|; inverse: W^-1 unless null.
  virtual Matrix matrix(Scratch& scratch, const Params<T>& params, double* logdet, Matrix* inverse) const = 0;
  /// dw: gradient by W; dlogdet_pixels: the loss's derivative by log |det W|.
  virtual void add_gradients(Scratch& scratch, const Params<T>& params, const Matrix& dw,
                             double dlogdet_pixels) const = 0;

  ConvDims dims(const Shape& x) const {
    ConvDims d;
    d.in = x;
    d.cout = channels();
    return d;
  }

  const T* rounded(Scratch& scratch, const Matrix& m) const {
    T* out = scratch.host.take<T>(channels() * channels());
    for (size_t i = 0; i < m.size(); ++i) out[i] = static_cast<T>(m[i]);
    return scratch.host.send(out, channels() * channels());
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double* logdet,
                  T*) const override {
    Scratch scratch(ctx);
    double log_det_w;
    const T* w = rounded(scratch, matrix(scratch, params, &log_det_w, nullptr));
    ctx.kernels<T>().conv_forward(ctx, dims(x.shape), x, w, Epilogue<T>(), z);
    ctx.kernels<T>().add_value(ctx, x.shape.n, log_det_w * x.shape.pixels_per_sample(), logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    Scratch scratch(ctx);
    double log_det_w;
    Matrix inverse(&scratch);
    matrix(scratch, params, &log_det_w, &inverse);
    ctx.kernels<T>().conv_forward(ctx, dims(z.shape), z, rounded(scratch, inverse), Epilogue<T>(), x);
    ctx.kernels<T>().add_value(ctx, z.shape.n, -log_det_w * z.shape.pixels_per_sample(), logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx, T*) const override {
    Scratch scratch(ctx);
    WorkspaceScope scope(ctx);
    const KernelSet<T>& kernels = ctx.kernels<T>();
    double log_det_w;
    Matrix inverse(&scratch);
    const T* w = rounded(scratch, matrix(scratch, params, &log_det_w, &inverse));
    kernels.conv_forward(ctx, dims(z.shape), z, rounded(scratch, inverse), Epilogue<T>(), x);
    kernels.conv_backward_data(ctx, dims(z.shape), dz, w, dx, false);
    T* dw = scope.take<T>(channels() * channels());
    kernels.zero(ctx, channels() * channels(), dw);
    kernels.conv_backward_weights(ctx, dims(z.shape), x, dz, dw);
    const double total = *scratch.host.read(sum_of<T>(ctx, scope, dlogdet, z.shape.n), 1);
    add_gradients(scratch, params, load(scratch, dw), total * z.shape.pixels_per_sample());
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    Scratch scratch(ctx);
    double log_det_w;
    Matrix inverse(&scratch);
    const T* w = rounded(scratch, matrix(scratch, params, &log_det_w, &inverse));
    ctx.kernels<T>().conv_forward(ctx, dims(x.shape), x, w, Epilogue<T>(), z);
    ctx.kernels<T>().conv_backward_data(ctx, dims(x.shape), dx, rounded(scratch, inverse), dz, false);
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
  struct Factors {
    Matrix lower;  ///< with the unit diagonal
    Matrix upper;  ///< with sign * exp(logs) on the diagonal
    std::pmr::vector<int64_t> permutation;
    const T* logs;  ///< readable here
  };

  Factors factors(Scratch& scratch, const Params<T>& params) const {
    const int64_t n = this->channels();
    Factors f{this->load(scratch, params.value(lower_)), this->load(scratch, params.value(upper_)),
              std::pmr::vector<int64_t>(&scratch), scratch.host.read(params.value(logs_), n)};
    const T* sign = scratch.host.read(params.value(sign_), n);
    const T* permutation = scratch.host.read(params.value(permutation_), n);
    f.permutation.reserve(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i; j < n; ++j) f.lower[i * n + j] = i == j ? 1 : 0;
      for (int64_t j = 0; j < i; ++j) f.upper[i * n + j] = 0;
      f.upper[i * n + i] = sign[i] * std::exp(static_cast<double>(f.logs[i]));
      f.permutation.push_back(order_at(name_, permutation, n, i));
    }
    return f;
  }

  Matrix matrix(Scratch& scratch, const Params<T>& params, double* logdet, Matrix* inverse) const override {
    const int64_t n = this->channels();
    const Factors f = factors(scratch, params);
    const Matrix product = linalg::multiply(f.lower, f.upper, n);
    Matrix w(product.size(), &scratch);
    *logdet = 0;
    for (int64_t i = 0; i < n; ++i) {
      *logdet += f.logs[i];
      for (int64_t j = 0; j < n; ++j) w[i * n + j] = product[f.permutation[i] * n + j];
    }
    if (inverse) {
      const Matrix inv =
          linalg::multiply(linalg::invert_upper(f.upper, n), linalg::invert_lower(f.lower, n), n);
      inverse->resize(inv.size());
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) (*inverse)[j * n + i] = inv[j * n + f.permutation[i]];
      }
    }
    return w;
  }

  void add_gradients(Scratch& scratch, const Params<T>& params, const Matrix& dw,
                     double dlogdet_pixels) const override {
    const int64_t n = this->channels();
    const Factors f = factors(scratch, params);
    Matrix g(dw.size(), &scratch);  // P^T dW
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) g[f.permutation[i] * n + j] = dw[i * n + j];
    }
    const Matrix dlower = linalg::multiply(g, linalg::transpose(f.upper, n), n);
    const Matrix dupper = linalg::multiply(linalg::transpose(f.lower, n), g, n);
    T* lower = scratch.host.take<T>(n * n);
    T* upper = scratch.host.take<T>(n * n);
    T* logs = scratch.host.take<T>(n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        lower[i * n + j] = j < i ? static_cast<T>(dlower[i * n + j]) : T(0);
        upper[i * n + j] = j > i ? static_cast<T>(dupper[i * n + j]) : T(0);
      }
      logs[i] = static_cast<T>(dupper[i * n + i] * f.upper[i * n + i] + dlogdet_pixels);
    }
    this->add(scratch, lower, n * n, params.grad(lower_));
    this->add(scratch, upper, n * n, params.grad(upper_));
    this->add(scratch, logs, n, params.grad(logs_));
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

  Matrix matrix(Scratch& scratch, const Params<T>& params, double* logdet, Matrix* inverse) const override {
    Matrix w = this->load(scratch, params.value(weight_));
    Matrix inv = inverse_of(w, logdet);
    if (inverse) *inverse = std::move(inv);
    return w;
  }

  void add_gradients(Scratch& scratch, const Params<T>& params, const Matrix& dw,
                     double dlogdet_pixels) const override {
    const int64_t n = this->channels();
    double logdet;
    const Matrix inv = inverse_of(this->load(scratch, params.value(weight_)), &logdet);
    T* delta = scratch.host.take<T>(n * n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        delta[i * n + j] = static_cast<T>(dw[i * n + j] + dlogdet_pixels * inv[j * n + i]);
      }
    }
    this->add(scratch, delta, n * n, params.grad(weight_));
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
