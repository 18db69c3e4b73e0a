#include <algorithm>
#include <cmath>

#include "evenflow/error.hpp"
#include "layers/channel_scale.hpp"

namespace evenflow {
namespace {

constexpr double kLogScale = 3.0;

/// y = (x - mean) exp(-logs) with (mean, logs) = edge part(position) + class part(label). The edge part is
/// Glow's conv2d_zeros of an empty image: only the indicator channel's weights act.
template <class T>
class TopPrior final : public Layer<T> {
 public:
  TopPrior(Shape in, bool learned, int64_t classes)
      : Layer<T>("top_prior", in, in, true), learned_(learned), classes_(classes), width_(2 * in.c) {}

  void declare(const Scope& scope) override {
    name_ = scope.prefix();
    if (learned_) {
      weight_ = scope.add("weight", {3, 3, width_}, Group::no_decay);
      bias_ = scope.add("bias", {width_}, Group::no_decay);
      logs_ = scope.add("logs", {width_}, Group::no_decay);
    }
    if (classes_) {
      class_weight_ = scope.add("class_weight", {classes_, width_}, Group::no_decay);
      class_bias_ = scope.add("class_bias", {width_}, Group::no_decay);
      class_logs_ = scope.add("class_logs", {width_}, Group::no_decay);
    }
  }

 private:
  int64_t pixels() const { return this->input_shape().pixels_per_sample(); }

  bool outside(int64_t p, int tap) const {
    const int64_t i = p / this->input_shape().w + tap / 3 - 1, j = p % this->input_shape().w + tap % 3 - 1;
    return i < 0 || i >= this->input_shape().h || j < 0 || j >= this->input_shape().w;
  }

  CouplingDims dims() const {
    CouplingDims d;
    d.law = CouplingLaw::gaussian;
    d.count = this->input_shape().c;
    d.h_step = 1;
    d.r_offset = d.count;
    return d;
  }

  const int32_t* labels(const Params<T>& params, int64_t n) const {
    if (!classes_) return nullptr;
    if (!params.labels)
      fail<ConfigError>(name_, "expected ", n, " labels for a class-conditional model, got none");
    return params.labels;
  }

  /// (pixels, 2C): the part that depends on the position.
  void edge_part(const Params<T>& params, T* out) const {
    std::fill(out, out + pixels() * width_, T(0));
    if (!learned_) return;
    for (int64_t p = 0; p < pixels(); ++p) {
      T* row = out + p * width_;
      for (int tap = 0; tap < 9; ++tap) {
        if (!outside(p, tap)) continue;
        for (int64_t k = 0; k < width_; ++k) row[k] += params.value(weight_)[tap * width_ + k];
      }
      for (int64_t k = 0; k < width_; ++k) {
        row[k] = (row[k] + params.value(bias_)[k]) * std::exp(T(kLogScale) * params.value(logs_)[k]);
      }
    }
  }

  T class_part(const Params<T>& params, int32_t label, int64_t k) const {
    return (params.value(class_weight_)[label * width_ + k] + params.value(class_bias_)[k]) *
           std::exp(T(kLogScale) * params.value(class_logs_)[k]);
  }

  View<T> statistics(WorkspaceScope& scope, const Params<T>& params, int64_t n) const {
    View<T> h(scope.take<T>(n * pixels() * width_), this->input_shape().with_batch(n).with_channels(width_));
    T* edge = scope.take<T>(pixels() * width_);
    T* own = scope.take<T>(width_);
    const int32_t* label = labels(params, n);
    edge_part(params, edge);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < width_; ++k) own[k] = label ? class_part(params, label[i], k) : T(0);
      for (int64_t p = 0; p < pixels(); ++p) {
        for (int64_t k = 0; k < width_; ++k)
          h.data[(i * pixels() + p) * width_ + k] = edge[p * width_ + k] + own[k];
      }
    }
    return h;
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double* logdet,
                  T*) const override {
    WorkspaceScope scope(ctx);
    ctx.kernels<T>().coupling_forward(ctx, dims(), x, statistics(scope, params, x.shape.n), z, logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    ctx.kernels<T>().coupling_inverse(ctx, dims(), z, statistics(scope, params, z.shape.n), x, logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx, T*) const override {
    const int64_t n = z.shape.n;
    WorkspaceScope scope(ctx);
    View<T> h = statistics(scope, params, n);
    View<T> dh(scope.take<T>(h.shape.size()), h.shape);
    double* unused = scope.take<double>(2 * n);
    std::fill(unused, unused + 2 * n, 0.0);
    ctx.kernels<T>().coupling_backward(ctx, dims(), z, dz, dlogdet, h, x, dx, dh, unused);
    if (learned_) add_edge_gradients(scope, params, dh);
    if (classes_) add_class_gradients(params, dh);
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    const int64_t n = x.shape.n;
    WorkspaceScope scope(ctx);
    View<T> h = statistics(scope, params, n);
    double* unused = scope.take<double>(n);
    std::fill(unused, unused + n, 0.0);
    ctx.kernels<T>().coupling_forward(ctx, dims(), x, h, z, unused);
    for (int64_t p = 0; p < h.shape.pixels(); ++p) std::fill_n(h.data + p * width_, dims().count, T(0));
    ctx.kernels<T>().coupling_inverse(ctx, dims(), dx, h, dz, unused);
    this->add_inverse_gradients(ctx, params, z, dz, dlogdet);
  }

  void add_edge_gradients(WorkspaceScope& scope, const Params<T>& params, View<const T> dh) const {
    T* edge = scope.take<T>(pixels() * width_);
    edge_part(params, edge);
    for (int64_t p = 0; p < pixels(); ++p) {
      for (int64_t k = 0; k < width_; ++k) {
        double g = 0;
        for (int64_t i = 0; i < dh.shape.n; ++i) g += dh.data[(i * pixels() + p) * width_ + k];
        const double inner = g * std::exp(kLogScale * static_cast<double>(params.value(logs_)[k]));
        params.grad(bias_)[k] += static_cast<T>(inner);
        params.grad(logs_)[k] += static_cast<T>(kLogScale * g * edge[p * width_ + k]);
        for (int tap = 0; tap < 9; ++tap) {
          if (outside(p, tap)) params.grad(weight_)[tap * width_ + k] += static_cast<T>(inner);
        }
      }
    }
  }

  void add_class_gradients(const Params<T>& params, View<const T> dh) const {
    for (int64_t i = 0; i < dh.shape.n; ++i) {
      const int32_t label = params.labels[i];
      for (int64_t k = 0; k < width_; ++k) {
        double g = 0;
        for (int64_t p = 0; p < pixels(); ++p) g += dh.data[(i * pixels() + p) * width_ + k];
        const T inner =
            static_cast<T>(g * std::exp(kLogScale * static_cast<double>(params.value(class_logs_)[k])));
        params.grad(class_weight_)[label * width_ + k] += inner;
        params.grad(class_bias_)[k] += inner;
        params.grad(class_logs_)[k] += static_cast<T>(kLogScale * g * class_part(params, label, k));
      }
    }
  }

  bool learned_;
  int64_t classes_;
  int64_t width_;
  std::string name_;
  ParamId weight_ = 0;
  ParamId bias_ = 0;
  ParamId logs_ = 0;
  ParamId class_weight_ = 0;
  ParamId class_bias_ = 0;
  ParamId class_logs_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> top_prior(Shape in, bool learned, int64_t classes) {
  return std::make_unique<TopPrior<T>>(in, learned, classes);
}

template std::unique_ptr<Layer<float>> top_prior<float>(Shape, bool, int64_t);
template std::unique_ptr<Layer<double>> top_prior<double>(Shape, bool, int64_t);

}  // namespace evenflow
