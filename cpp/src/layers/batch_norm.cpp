#include <cmath>

#include "core/mode.hpp"
#include "kernels/ops/constants.hpp"
#include "layers/batch_moments.hpp"
#include "layers/channel_mask.hpp"
#include "layers/channel_scale.hpp"

namespace evenflow {
namespace {

constexpr const char* kBatchNorm = "batch_norm";

template <class T>
class BatchNorm : public Layer<T> {
 public:
  BatchNorm(Shape in, const Slices& slices)
      : Layer<T>(kBatchNorm, in, in, true),
        parity_(slices.parity),
        count_(slices.change),
        first_(slices.change_first),
        active_(0) {
    for (int64_t i = 0; i < in.h; ++i) {
      for (int64_t j = 0; j < in.w; ++j) active_ += parity_ < 0 || (i + j) % 2 == parity_;
    }
  }

  void declare(const Scope& scope) override {
    mean_ = scope.add("mean", {count_}, Group::stats);
    var_ = scope.add("var", {count_}, Group::stats);
  }

  void init(ParamArena<T>& arena, Rng&) const override {
    for (int64_t c = 0; c < count_; ++c) arena.value(var_)[c] = T(1);
  }

 private:
  // Coefficients of y = (x + shift) * scale, from the batch's moments in training and else from the running
  // ones.
  ChannelCoefficients<T> coefficients(Context& ctx, WorkspaceScope& scope, const Params<T>& params) const {
    const ChannelCoefficients<T> c(scope, count_);
    ctx.kernels<T>().channel.moment_coefficients(ctx, count_, statistic(params, mean_),
                                                 statistic(params, var_), kBatchNormEps, c.shift, c.scale,
                                                 c.log_scale);
    return c;
  }

  template <class U>
  View<U> changed(View<U> v) const {
    return v.channels(first_, count_);
  }

  // Copies the unchanged channels if the buffers differ.
  void pass_others(Context& ctx, View<const T> from, View<T> to) const {
    if (count_ < from.shape.c && from.data != to.data) ctx.kernels<T>().move.copy(ctx, from, to);
  }

 protected:
  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const Mode<T>& mode = mode_of(params);
    if (mode.training()) {
      batch_moments(ctx, parity_, changed(x), mode.batch_stat(*params.layout, mean_),
                    mode.batch_stat(*params.layout, var_));
    }
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    pass_others(ctx, x, z);
    ctx.kernels<T>().channel.forward(ctx, parity_, changed(x), c.shift, c.scale, changed(z));
    c.add_log_det(ctx, count_, x.shape.n, static_cast<double>(active_), logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    pass_others(ctx, z, x);
    ctx.kernels<T>().channel.inverse(ctx, parity_, changed(z), c.shift, c.scale, changed(x));
    c.add_log_det(ctx, count_, z.shape.n, -static_cast<double>(active_), logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    WorkspaceScope scope(ctx);
    const KernelSet<T>& kernels = ctx.kernels<T>();
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    T* means = scope.take<T>(2 * count_);
    if (mode_of(params).training()) {
      double* sums = scope.take<double>(2 * count_);
      kernels.channel.batch_norm_sums(ctx, parity_, changed(z), changed(dz), sums);
      // Each channel's log scale moves the log-det of every changed pixel.
      batch_norm_means(ctx, count_, sums, sum_of<T>(ctx, scope, dlogdet, z.shape.n),
                       static_cast<double>(active_), z.shape.pixels(), means);
    } else {
      kernels.move.zero(ctx, 2 * count_, means);
    }
    pass_others(ctx, z, x);
    pass_others(ctx, dz, dx);
    kernels.channel.batch_norm_backward(ctx, parity_, changed(z), changed(dz), c.shift, c.scale, means,
                                        means + count_, changed(x), changed(dx));
  }

  // The moments are treated as constants.
  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double*, View<T> z, View<T> dz) const override {
    WorkspaceScope scope(ctx);
    const ChannelCoefficients<T> c = coefficients(ctx, scope, params);
    pass_others(ctx, x, z);
    pass_others(ctx, dx, dz);
    ctx.kernels<T>().channel.forward(ctx, parity_, changed(x), c.shift, c.scale, changed(z));
    T* zeros = scope.take<T>(count_);
    ctx.kernels<T>().move.zero(ctx, count_, zeros);
    ctx.kernels<T>().channel.inverse(ctx, parity_, changed(dx), zeros, c.scale, changed(dz));
  }

 private:
  int parity_;
  int64_t count_;
  int64_t first_;
  int64_t active_;  ///< changed pixels per sample
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
