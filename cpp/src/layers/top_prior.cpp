#include "evenflow/error.hpp"
#include "layers/law_layer.hpp"

namespace evenflow {
namespace {

/// y = (x - mean) exp(-logs) with (mean, logs) = edge part(position) + class part(label). The edge part is
/// Glow's conv2d_zeros of an empty image: only the indicator channel's weights act.
template <class T>
class TopPrior final : public LawLayer<T> {
 public:
  TopPrior(Shape in, bool learned, int64_t classes)
      : LawLayer<T>("top_prior", in, {0, in.c}, laws::Gaussian()),
        learned_(learned),
        classes_(classes),
        width_(2 * in.c) {}

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

  const int32_t* labels(const Params<T>& params, int64_t n) const {
    if (!classes_) return nullptr;
    if (!params.given.labels)
      fail<ConfigError>(name_, "expected ", n, " labels for a class-conditional model, got none");
    return params.given.labels;
  }

  /// (pixels, 2C): the part that depends on the position; null if it is not learned.
  const T* edge_part(Context& ctx, WorkspaceScope& scope, const Params<T>& params) const {
    if (!learned_) return nullptr;
    T* edge = scope.take<T>(pixels() * width_);
    ctx.kernels<T>().prior.edge(ctx, this->input_shape(), width_, params.value(weight_), params.value(bias_),
                                params.value(logs_), edge);
    return edge;
  }

  View<const T> numbers(Context& ctx, WorkspaceScope& scope, HostScope&, const Params<T>& params,
                        View<const T> x) const override {
    const int64_t n = x.shape.n;
    const View<T> h(scope.take<T>(n * pixels() * width_), this->h_shape(n));
    const T* edge = edge_part(ctx, scope, params);
    const auto of_class = [&](ParamId id) { return classes_ ? params.value(id) : nullptr; };
    ctx.kernels<T>().prior.statistics(ctx, edge, labels(params, n), of_class(class_weight_),
                                      of_class(class_bias_), of_class(class_logs_), h);
    return h;
  }

  void through(Context& ctx, const Params<T>& params, View<const T> from, View<T>,
               const typename LawLayer<T>::Apply& apply) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const View<const T> h = numbers(ctx, scope, host, params, from);
    const View<T> dh(scope.take<T>(h.shape.size()), h.shape);
    apply(h, dh);
    add_gradients(ctx, params, dh);
  }

  void add_gradients(Context& ctx, const Params<T>& params, View<const T> dh) const {
    if (!params.grads) return;
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    if (learned_) {
      kernels.prior.edge_gradients(ctx, dh, edge_part(ctx, scope, params), params.value(logs_),
                                   params.grad(weight_), params.grad(bias_), params.grad(logs_));
    }
    if (classes_) {
      kernels.prior.class_gradients(ctx, dh, params.given.labels, params.value(class_weight_),
                                    params.value(class_bias_), params.value(class_logs_),
                                    params.grad(class_weight_), params.grad(class_bias_),
                                    params.grad(class_logs_));
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
