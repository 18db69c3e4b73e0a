#include <cmath>

#include "conditioners/conv_unit.hpp"
#include "conditioners/norm_unit.hpp"
#include "evenflow/error.hpp"

namespace evenflow {
namespace {

/// One step of the net, in execution order. Tensors are numbered: 0 is the concatenated-ReLU input, every
/// step but an `add` writes a new one. A tensor is complete before anything but an `add` reads it, so the
/// gradients' reverse order is safe too.
struct Step {
  enum Kind { conv, norm, add } kind;
  int unit = 0;  ///< index of the convolution or norm
  int from = 0;
  int to = 0;  ///< add: to += from
};

/// Real NVP's residual net: batch norm and concatenated ReLU at the input, pre-activation residual blocks,
/// 1x1 skip connections summed up, batch norm, ReLU and a 1x1 output.
template <class T>
class ResNet final : public Conditioner<T> {
 public:
  ResNet(Shape in, int64_t out_channels, const ResNetConfig& config)
      : Conditioner<T>(in, out_channels),
        config_(config),
        normed_(in.c - config.context),
        input_norm_(normed_, config.batch_norm, false) {
    if (config.context < 0 || normed_ < 1) {
      fail<ShapeError>("res_net", "expected a context of 0 ... ", in.c - 1, " of the ", in.c,
                       " channels, got ", config.context);
    }
    if (config.width < 1 || config.blocks < 0) {
      fail<ConfigError>("res_net", "expected width >= 1 and blocks >= 0, got ", config.width, " and ",
                        config.blocks);
    }
    channels_.push_back(2 * in.c + (config.checkerboard >= 0 ? 1 : 0));
    output_ = config.blocks ? residual() : plain();
  }

  void declare(const Scope& scope) override {
    input_norm_.declare(scope / "bn_in");
    for (size_t u = 0; u < norms_.size(); ++u) norms_[u].declare(scope / norm_names_[u]);
    for (size_t u = 0; u < convs_.size(); ++u) convs_[u].declare(scope / conv_names_[u]);
  }

  void init(ParamArena<T>& arena, Rng& rng) const override {
    input_norm_.init(arena);
    for (const NormUnit<T>& norm : norms_) norm.init(arena);
    for (size_t u = 0; u < convs_.size(); ++u) {
      // v ~ U(-sd, sd); g = sd sqrt(fan_in / 12) (official code).
      const ConvUnit<T>& conv = convs_[u];
      const ConvUnitConfig& c = conv.config();
      const double sd = std::sqrt(2.0 / static_cast<double>(c.in.c));
      const double fan_in = static_cast<double>(c.in.c * c.kernel * c.kernel);
      const double length = magnitudes_[u] ? sd * std::sqrt(fan_in / 12) : 1;
      T* v = conv.weight(arena);
      for (int64_t i = 0; i < conv.weight_size(); ++i) v[i] = static_cast<T>(rng.uniform(-sd, sd));
      if (c.magnitude) std::fill_n(conv.magnitude(arena), c.cout, static_cast<T>(length));
      if (!c.weight_norm) set_lengths(v, conv.weight_size() / c.cout, c.cout, length);
    }
  }

  int64_t activation_size(int64_t n) const override {
    int64_t size = input_size(n);
    for (int64_t c : channels_) size += this->input_shape().pixels_per_sample() * n * c;
    return size;
  }

  void forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> h, T* acts) const override {
    const int64_t n = x.shape.n;
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    if (!acts) acts = scope.take<T>(activation_size(n));
    View<T> normal(acts, x.shape);
    input_norm_.forward(ctx, params, x.channels(0, normed_), normal.channels(0, normed_));
    // Which is standardised already, and may be the same in all of a batch.
    if (config_.context) {
      kernels.copy(ctx, x.channels(normed_, config_.context), normal.channels(normed_, config_.context));
    }
    kernels.concat_relu(ctx, normal, input_gain(), config_.checkerboard, tensor(acts, 0, n));
    for (const Step& step : steps_) {
      const View<const T> from = tensor(acts, step.from, n);
      const View<T> to = step.to == output_ ? h : tensor(acts, step.to, n);
      if (step.kind == Step::conv) convs_[step.unit].forward(ctx, params, from, to);
      if (step.kind == Step::norm) norms_[step.unit].forward(ctx, params, from, to);
      if (step.kind == Step::add) kernels.add(ctx, from, to);
    }
  }

  void backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> h, T* acts, View<T> dh,
                View<T> dx) const override {
    const int64_t n = x.shape.n;
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    T* grads = scope.take<T>(activation_size(n));  // laid out like acts
    kernels.zero(ctx, activation_size(n), grads);
    for (size_t s = steps_.size(); s-- > 0;) {
      const Step& step = steps_[s];
      const View<T> from = tensor(acts, step.from, n), dfrom = tensor(grads, step.from, n);
      const View<const T> to = step.to == output_ ? h : View<const T>(tensor(acts, step.to, n));
      const View<T> dto = step.to == output_ ? dh : tensor(grads, step.to, n);
      if (step.kind == Step::conv) {
        convs_[step.unit].backward(ctx, params, from, to, dto, dfrom, true);
      } else if (step.kind == Step::norm) {
        norms_[step.unit].backward(ctx, params, from, dto, dfrom);
      } else {
        kernels.add(ctx, dto, dfrom);
      }
    }
    View<T> dnormal(grads, x.shape);
    kernels.concat_relu_backward(ctx, tensor(acts, 0, n), tensor(grads, 0, n), input_gain(), dnormal);
    input_norm_.backward(ctx, params, x.channels(0, normed_), dnormal.channels(0, normed_),
                         dx.channels(0, normed_));
    if (config_.context) {
      kernels.add(ctx, dnormal.channels(normed_, config_.context), dx.channels(normed_, config_.context));
    }
  }

 private:
  /// Scales the columns of v (rows, columns) to this length: without weight norm the weights start as they
  /// would with it, since nothing else keeps a deep net's outputs from growing.
  static void set_lengths(T* v, int64_t rows, int64_t columns, double length) {
    for (int64_t c = 0; c < columns; ++c) {
      double square = 0;
      for (int64_t i = c; i < rows * columns; i += columns) square += std::pow(static_cast<double>(v[i]), 2);
      const double scale = length / std::sqrt(square);
      for (int64_t i = c; i < rows * columns; i += columns) {
        v[i] = static_cast<T>(scale * static_cast<double>(v[i]));
      }
    }
  }

  T input_gain() const { return config_.checkerboard >= 0 && config_.batch_norm ? T(2) : T(1); }

  int64_t input_size(int64_t n) const { return this->input_shape().per_sample() * n; }

  View<T> tensor(T* base, int index, int64_t n) const {
    const Shape image = this->input_shape().with_batch(n);
    T* data = base + input_size(n);
    for (int t = 0; t < index; ++t) data += image.pixels() * channels_[t];
    return View<T>(data, image.with_channels(channels_[index]));
  }

  int add_tensor(int64_t channels) {
    channels_.push_back(channels);
    return static_cast<int>(channels_.size()) - 1;
  }

  int conv(const std::string& name, int from, int64_t cout, int kernel, bool bias, bool magnitude) {
    ConvUnitConfig c;
    c.in = this->input_shape().with_channels(channels_[from]);
    c.cout = cout;
    c.kernel = kernel;
    c.bias = bias;
    c.weight_norm = config_.weight_norm;
    c.magnitude = magnitude && config_.weight_norm;
    magnitudes_.push_back(magnitude);
    conv_names_.push_back(name);
    convs_.emplace_back(c);
    steps_.push_back({Step::conv, static_cast<int>(convs_.size()) - 1, from, add_tensor(cout)});
    return steps_.back().to;
  }

  int norm(const std::string& name, int from) {
    norm_names_.push_back(name);
    norms_.emplace_back(channels_[from], config_.batch_norm, true);
    steps_.push_back({Step::norm, static_cast<int>(norms_.size()) - 1, from, add_tensor(channels_[from])});
    return steps_.back().to;
  }

  void add(int from, int to) { steps_.push_back({Step::add, 0, from, to}); }

  int residual() {
    const int64_t w = config_.width;
    const bool plain_bias = !config_.batch_norm;
    int r = conv("h_in", 0, w, 3, true, false);
    const int sum = config_.skip ? conv("skip_in", r, w, 1, true, true) : 0;
    for (int64_t b = 0; b < config_.blocks; ++b) {
      const std::string block = "block" + std::to_string(b) + ".";
      const int kernel = config_.bottleneck ? 1 : 3;
      int t = conv(block + "conv0", norm(block + "bn0", r), w, kernel, plain_bias, false);
      if (config_.bottleneck) t = conv(block + "conv1", norm(block + "bn1", t), w, 3, plain_bias, false);
      const std::string last = config_.bottleneck ? "2" : "1";
      t = conv(block + "conv" + last, norm(block + "bn" + last, t), w, kernel, true, true);
      add(r, t);
      r = t;
      if (config_.skip) add(conv("skip" + std::to_string(b), r, w, 1, true, true), sum);
    }
    return conv("out", norm("bn_out", config_.skip ? sum : r), this->out_channels(), 1, true, true);
  }

  int plain() {
    const int64_t w = config_.width;
    if (!config_.bottleneck) {
      return conv("out", norm("bn_out", conv("h0", 0, w, 3, !config_.batch_norm, false)),
                  this->out_channels(), 3, true, true);
    }
    const int t = norm("bn_mid", conv("h0", 0, w, 1, !config_.batch_norm, false));
    return conv("out", norm("bn_out", conv("h1", t, w, 3, !config_.batch_norm, false)), this->out_channels(),
                1, true, true);
  }

  ResNetConfig config_;
  int64_t normed_;  ///< input channels before the context
  NormUnit<T> input_norm_;
  std::vector<int64_t> channels_;  ///< of each tensor
  std::vector<Step> steps_;
  std::vector<ConvUnit<T>> convs_;
  std::vector<bool> magnitudes_;  ///< whether weight norm gives the convolution a learned length
  std::vector<NormUnit<T>> norms_;
  std::vector<std::string> conv_names_;
  std::vector<std::string> norm_names_;
  int output_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Conditioner<T>> res_net(Shape in, int64_t out_channels, const ResNetConfig& config) {
  return std::make_unique<ResNet<T>>(in, out_channels, config);
}

template std::unique_ptr<Conditioner<float>> res_net<float>(Shape, int64_t, const ResNetConfig&);
template std::unique_ptr<Conditioner<double>> res_net<double>(Shape, int64_t, const ResNetConfig&);

}  // namespace evenflow
