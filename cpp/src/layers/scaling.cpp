#include "layers/channel_scale.hpp"

namespace evenflow {
namespace {

template <class T>
class Scaling final : public ChannelScale<T> {
 public:
  explicit Scaling(Shape in) : ChannelScale<T>("scaling", in) {}

  void declare(const Scope& scope) override {
    logs_ = scope.add("logs", {this->channels()}, Group::no_decay);
  }

 private:
  ChannelCoefficients<T> coefficients(Context& ctx, WorkspaceScope& scope,
                                      const Params<T>& params) const override {
    const ChannelCoefficients<T> c(scope, this->channels());
    ctx.kernels<T>().channel.log_scale_coefficients(ctx, this->channels(), nullptr, params.value(logs_), 1,
                                                    c.shift, c.scale, c.log_scale);
    return c;
  }

  void add_gradients(Context& ctx, const Params<T>& params, const double* sums,
                     const double* dlogdet) const override {
    ctx.kernels<T>().channel.gradients(ctx, this->channels(), sums, dlogdet, this->active(), 1, nullptr,
                                       params.grad(logs_));
  }

  ParamId logs_ = 0;
};

template <class T>
class Rescale final : public ChannelScale<T> {
 public:
  Rescale(Shape in, double offset, double width)
      : ChannelScale<T>("rescale", in), offset_(offset), width_(width) {}

 private:
  ChannelCoefficients<T> coefficients(Context& ctx, WorkspaceScope& scope, const Params<T>&) const override {
    const ChannelCoefficients<T> c(scope, this->channels());
    const KernelSet<T>& kernels = ctx.kernels<T>();
    kernels.move.fill(ctx, this->channels(), static_cast<T>(-offset_), c.shift);
    kernels.move.fill(ctx, this->channels(), static_cast<T>(1 / width_), c.scale);
    kernels.move.fill_doubles(ctx, this->channels(), -std::log(width_), c.log_scale);
    return c;
  }
  bool trained() const override { return false; }

  double offset_;
  double width_;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> scaling(Shape in) {
  return std::make_unique<Scaling<T>>(in);
}

template <class T>
std::unique_ptr<Layer<T>> rescale(Shape in, double offset, double width) {
  return std::make_unique<Rescale<T>>(in, offset, width);
}

template std::unique_ptr<Layer<float>> scaling<float>(Shape);
template std::unique_ptr<Layer<double>> scaling<double>(Shape);
template std::unique_ptr<Layer<float>> rescale<float>(Shape, double, double);
template std::unique_ptr<Layer<double>> rescale<double>(Shape, double, double);

}  // namespace evenflow
