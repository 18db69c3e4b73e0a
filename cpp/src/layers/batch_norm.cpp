#include "core/mode.hpp"
#include "kernels/ops/constants.hpp"
#include "layers/batch_moments.hpp"
#include "layers/channel_scale.hpp"

namespace evenflow {
namespace {

constexpr const char* kBatchNorm = "batch_norm";

template <class T>
class BatchNorm : public ChannelScale<T> {
 public:
  BatchNorm(Shape in, const Slices& slices) : ChannelScale<T>(kBatchNorm, in, slices) {}

  void declare(const Scope& scope) override {
    mean_ = scope.add("mean", {this->channels()}, Group::stats);
    var_ = scope.add("var", {this->channels()}, Group::stats);
  }

  void init(ParamArena<T>& arena, Rng&) const override {
    std::fill_n(arena.value(var_), this->channels(), T(1));
  }

 protected:
  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    const Mode<T>& mode = mode_of(params);
    if (mode.training()) {
      batch_moments(ctx, this->parity(), this->changed(x), mode.batch_stat(*params.layout, mean_),
                    mode.batch_stat(*params.layout, var_));
    }
    ChannelScale<T>::do_forward(ctx, params, x, z, logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    WorkspaceScope scope(ctx);
    const KernelSet<T>& kernels = ctx.kernels<T>();
    const int64_t n = this->channels();
    const View<const T> y = this->changed(z), dy = this->changed(dz);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    T* means = scope.take<T>(2 * n);
    if (mode_of(params).training()) {
      double* sums = scope.take<double>(2 * n);
      kernels.channel.batch_norm_sums(ctx, this->parity(), y, dy, sums);
      // Each channel's log scale moves the log-det of every changed pixel.
      batch_norm_means(ctx, n, sums, sum_of<T>(ctx, scope, dlogdet, z.shape.n), this->active(),
                       z.shape.pixels(), means);
    } else {
      kernels.move.zero(ctx, 2 * n, means);
    }
    this->pass_others(ctx, z, x);
    this->pass_others(ctx, dz, dx);
    kernels.channel.batch_norm_backward(ctx, this->parity(), y, dy, c.shift, c.scale, means, means + n,
                                        this->changed(x), this->changed(dx));
  }

 private:
  // From the batch's moments in training and else from the running ones.
  ChannelCoefficients<T> coefficients(Context& ctx, WorkspaceScope& scope,
                                      const Params<T>& params) const override {
    const ChannelCoefficients<T> c(scope, this->channels());
    ctx.kernels<T>().channel.moment_coefficients(ctx, this->channels(), statistic(params, mean_),
                                                 statistic(params, var_), kBatchNormEps, c.shift, c.scale,
                                                 c.log_scale);
    return c;
  }
  // An inverse's gradients treat the moments as constants.
  bool trained() const override { return false; }

  ParamId mean_ = 0;
  ParamId var_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> batch_norm(Shape in, Mask mask) {
  if (mask == Mask::odd || mask == Mask::even) return batch_norm<T>(in, every_second(mask, in.c));
  return std::make_unique<BatchNorm<T>>(in, slices_of(mask, in.c));
}

template <class T>
std::unique_ptr<Layer<T>> batch_norm(Shape in, const std::vector<int64_t>& changed) {
  return on_channels<T, BatchNorm<T>>(kBatchNorm, in, changed);
}

template std::unique_ptr<Layer<float>> batch_norm<float>(Shape, Mask);
template std::unique_ptr<Layer<double>> batch_norm<double>(Shape, Mask);
template std::unique_ptr<Layer<float>> batch_norm<float>(Shape, const std::vector<int64_t>&);
template std::unique_ptr<Layer<double>> batch_norm<double>(Shape, const std::vector<int64_t>&);

}  // namespace evenflow
