#pragma once

#include <cmath>
#include <string>
#include <type_traits>

#include "conditioners/net.hpp"
#include "core/mode.hpp"
#include "evenflow/error.hpp"
#include "kernels/ops/constants.hpp"
#include "layers/init_actnorm.hpp"

namespace evenflow {

/// A convolution or dense layer: y = act((conv(x) + bias) exp(3 logs)).
struct ConvConfig {
  std::string name;
  int64_t in = 0, out = 0;
  int kernel = 1;
  bool edge = false;
  bool bias = true;
  bool logs = false;     ///< learned output scale exp(3 logs)
  bool actnorm = false;  ///< bias and logs are set from data
  bool relu = false;
  bool weight_norm = false;  ///< w = v / |v| per output, times `magnitude`
  bool magnitude = false;
  bool dense = false;  ///< the weight is declared as (in, out)

  // How it starts: at zero, unless one of these says otherwise.
  double uniform = 0;       ///< weights U(-uniform, uniform)
  double uniform_bias = 0;  ///< biases alike
  double normal = 0;        ///< weights N(0, normal^2)
  double length = 0;        ///< |w| of each output, set by scaling w or by the magnitude; 0: as drawn
};

/// One convolution, in kernels of its own.
template <class T>
class Conv final : public NetStep<T> {
 public:
  /// overwritable: whether all backward passes go through describe(), once each; see ParamLayout::Entry.
  explicit Conv(const ConvConfig& config, bool overwritable = false)
      : NetStep<T>(config.out, true, config.relu || config.logs),
        config_(config),
        overwritable_(overwritable) {}

  void declare(const Scope& net) override {
    const Scope scope = net / config_.name;
    prefix_ = scope.prefix();
    const int64_t out = config_.out;
    std::vector<int64_t> shape{dims({}).weight_rows(), out};
    if (!config_.dense) shape.insert(shape.begin(), 2, config_.kernel);
    // Real NVP's L2 acts on magnitudes; with them, or with an output scale, the weights' own size is free.
    const Group group = config_.weight_norm || config_.logs ? Group::no_decay : Group::decay;
    weight_ = scope.add(config_.weight_norm ? "v" : "weight", shape, group, overwritable_);
    if (config_.magnitude) magnitude_ = scope.add("magnitude", {out}, Group::decay);
    if (config_.bias) bias_ = scope.add("bias", {out}, Group::no_decay);
    if (config_.logs) logs_ = scope.add("logs", {out}, Group::no_decay);
  }

  void init(ParamArena<T>& arena, Rng& rng) const override {
    T* w = arena.value(weight_);
    const int64_t size = weight_size(), out = config_.out;
    const double normal = config_.normal, length = config_.length;
    const auto draw = [&](double bound, int64_t count, T* to) {
      for (int64_t i = 0; bound != 0 && i < count; ++i) to[i] = static_cast<T>(rng.uniform(-bound, bound));
    };
    for (int64_t i = 0; normal != 0 && i < size; ++i) w[i] = static_cast<T>(normal * rng.normal());
    draw(config_.uniform, size, w);
    if (config_.bias) draw(config_.uniform_bias, out, arena.value(bias_));
    if (config_.magnitude) std::fill_n(arena.value(magnitude_), out, static_cast<T>(length));
    if (config_.weight_norm || length == 0) return;
    std::vector<double> squares(static_cast<size_t>(out));
    for (int64_t i = 0; i < size; ++i) squares[i % out] += std::pow(static_cast<double>(w[i]), 2);
    for (int64_t i = 0; i < size; ++i) {
      w[i] = static_cast<T>(length / std::sqrt(squares[i % out]) * static_cast<double>(w[i]));
    }
  }

  bool starts_from_data() const override { return config_.actnorm; }
  /// Gives the output before ReLU mean 0 and std 1 on x.
  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    if (!config_.actnorm) return;
    WorkspaceScope scope(ctx);
    const ConvDims d = dims(x.shape);
    const View<T> raw(scope.take<T>(d.out().size()), d.out());
    const T* w = weights(ctx, scope, std::as_const(arena).params());
    ctx.kernels<T>().net.conv_forward(ctx, d, x, w, Epilogue<T>(), raw);
    init_actnorm<T>(ctx, prefix_, raw, arena.value(bias_), arena.value(logs_));
  }

  void forward(Context& ctx, const StepForward<T>& f) const override {
    WorkspaceScope scope(ctx);
    const T* w = weights(ctx, scope, f.params);
    ctx.kernels<T>().net.conv_forward(ctx, dims(f.x.shape), f.x, w, epilogue(ctx, scope, f.params), f.y);
  }

  void backward(Context& ctx, const StepBackward<T>& b) const override {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    const ConvDims d = dims(b.x.shape);
    const T* w = weights(ctx, scope, b.params);
    if (config_.bias || config_.logs || config_.relu) {
      // The kernel loads y even where nothing depends on it.
      const View<const T> y = this->backward_reads_y ? b.y : b.dy;
      kernels.net.epilogue_backward(ctx, y, b.dy, epilogue(ctx, scope, b.params), b.params.grad(bias_),
                                    b.params.grad(logs_), T(kLogScale));
    }
    kernels.net.conv_backward_data(ctx, d, b.dy, w, b.dx, true);
    if (!b.params.grads) return;
    T* dw = config_.weight_norm ? scope.take<T>(weight_size()) : b.params.grad(weight_);
    if (config_.weight_norm) kernels.move.zero(ctx, weight_size(), dw);
    kernels.net.conv_backward_weights(ctx, d, b.x, b.dy, dw);
    if (!config_.weight_norm) return;
    kernels.net.weight_norm_backward(ctx, weight_size() / d.cout, d.cout, b.params.value(weight_),
                                     b.params.value(magnitude_), w + weight_size(), dw,
                                     b.params.grad(weight_), b.params.grad(magnitude_));
  }

  /// This convolution as part of a chain (no weight norm).
  StackUnit<T> describe(Context& ctx, WorkspaceScope& scope, const Params<T>& params, Shape image) const {
    return {dims(image),
            params.value(weight_),
            epilogue(ctx, scope, params),
            params.grad(weight_),
            mode_of(params).overwrite,
            params.grad(bias_),
            params.grad(logs_),
            T(kLogScale)};
  }

 private:
  /// The weights that multiply: the parameter itself, or a normalised copy, with the norms |v| behind it.
  const T* weights(Context& ctx, WorkspaceScope& scope, const Params<T>& params) const {
    if (!config_.weight_norm) return params.value(weight_);
    T* w = scope.take<T>(weight_size() + config_.out);
    ctx.kernels<T>().net.weight_norm(ctx, weight_size() / config_.out, config_.out, params.value(weight_),
                                     params.value(magnitude_), w + weight_size(), w);
    return w;
  }

  Epilogue<T> epilogue(Context& ctx, WorkspaceScope& scope, const Params<T>& params) const {
    T* scale = config_.logs ? scope.take<T>(config_.out) : nullptr;
    if (scale) ctx.kernels<T>().channel.exp_scale(ctx, config_.out, T(kLogScale), params.value(logs_), scale);
    return {params.value(bias_), scale, config_.relu};
  }

  ConvDims dims(Shape image) const {
    return {image.with_channels(config_.in), config_.out, config_.kernel, config_.edge};
  }
  int64_t weight_size() const { return dims({}).weight_size(); }

  ConvConfig config_;
  bool overwritable_;
  std::string prefix_;
  ParamId weight_ = -1, magnitude_ = -1, bias_ = -1, logs_ = -1;
};

/// Convolutions one after the other, without weight norm, in one kernel each way. It keeps the outputs of all
/// but the last, in bfloat16 if it computes with that.
template <class T>
class ConvChain final : public NetStep<T> {
 public:
  ConvChain(const std::vector<ConvConfig>& units, NetDtype dtype)
      : NetStep<T>(units.back().out, true, units.back().relu || units.back().logs),
        bfloat16_(dtype == NetDtype::bfloat16) {
    if (bfloat16_ && !std::is_same<T, float>::value) {
      fail<ConfigError>("conditioner", "bfloat16 nets need a float32 model, got a float64 one");
    }
    for (const ConvConfig& unit : units) convs_.emplace_back(unit, true);
  }

  void declare(const Scope& net) override {
    for (Conv<T>& unit : convs_) unit.declare(net);
  }
  void init(ParamArena<T>& arena, Rng& rng) const override {
    for (const Conv<T>& unit : convs_) unit.init(arena, rng);
  }

  bool starts_from_data() const override {
    return std::any_of(convs_.begin(), convs_.end(), [](const Conv<T>& u) { return u.starts_from_data(); });
  }
  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    WorkspaceScope scope(ctx);
    for (const Conv<T>& unit : convs_) {
      unit.init_from_data(ctx, arena, x);
      const Shape shape = x.shape.with_channels(unit.channels);
      const View<T> y(scope.take<T>(shape.size()), shape);
      unit.forward(ctx, {std::as_const(arena).params(), x, {}, y, nullptr});
      x = y;
    }
  }

  int64_t kept_size(int64_t pixels) const override {
    const int64_t value = bfloat16_ ? 2 : sizeof(T);
    int64_t bytes = 0;
    for (size_t u = 0; u + 1 < convs_.size(); ++u) {
      bytes += value * activation_values(convs_[u].channels, pixels, value);
    }
    return bytes / static_cast<int64_t>(sizeof(T));
  }

  void forward(Context& ctx, const StepForward<T>& f) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const StackUnit<T>* units = describe(ctx, scope, host, f.params, f.x.shape);
    ctx.kernels<T>().net.stack_forward(ctx, units, count(), bfloat16_, f.x, f.kept, f.y);
  }

  void backward(Context& ctx, const StepBackward<T>& b) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const StackUnit<T>* units = describe(ctx, scope, host, b.params, b.x.shape);
    const View<const T> y = this->backward_reads_y ? b.y : b.dy;  // as in Conv
    ctx.kernels<T>().net.stack_backward(ctx, units, count(), bfloat16_, b.x, b.kept, y, b.dy, b.dx);
  }

 private:
  int count() const { return static_cast<int>(convs_.size()); }

  /// The list is in the program's memory, what it points to in the device's.
  const StackUnit<T>* describe(Context& ctx, WorkspaceScope& scope, HostScope& host, const Params<T>& params,
                               Shape image) const {
    StackUnit<T>* list = host.take<StackUnit<T>>(count());
    for (int u = 0; u < count(); ++u) {
      new (&list[u]) StackUnit<T>(convs_[u].describe(ctx, scope, params, image));
    }
    return list;
  }

  bool bfloat16_;
  std::vector<Conv<T>> convs_;
};

/// A net of one chain.
template <class T>
std::unique_ptr<Conditioner<T>> chain_net(Shape in, const std::vector<ConvConfig>& units, NetDtype dtype) {
  auto net = std::make_unique<Net<T>>(in, units.back().out);
  net->add(std::make_unique<ConvChain<T>>(units, dtype), Net<T>::kInput);
  return net;
}

}  // namespace evenflow
