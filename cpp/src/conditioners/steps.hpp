#pragma once

#include <string>

#include "conditioners/net.hpp"
#include "core/mode.hpp"
#include "kernels/ops/constants.hpp"
#include "layers/batch_moments.hpp"

namespace evenflow {

/// Batch norm, y = (x - mean) / sqrt(var + kBatchNormEps) + beta, with or without ReLU; without batch norm
/// only the ReLU. In training the moments are the batch's (of all ranks), and are left in Mode::batch_stats.
/// The last `others` channels pass unchanged.
template <class T>
class Norm final : public NetStep<T> {
 public:
  Norm(const std::string& name, int64_t normed, int64_t others, bool batch_norm, bool relu)
      : NetStep<T>(normed + others, true, false),
        name_(name),
        normed_(normed),
        others_(others),
        batch_norm_(batch_norm),
        relu_(relu) {}

  bool declared_first() const override { return true; }
  void declare(const Scope& net) override {
    if (!batch_norm_) return;
    beta_ = (net / name_).add("beta", {normed_}, Group::no_decay);
    mean_ = (net / name_).add("mean", {normed_}, Group::stats);
    var_ = (net / name_).add("var", {normed_}, Group::stats);
  }

  void init(ParamArena<T>& arena, Rng&) const override {
    if (batch_norm_) std::fill_n(arena.value(var_), normed_, T(1));
  }

  void forward(Context& ctx, const StepForward<T>& f) const override {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    const View<const T> x = f.x.channels(0, normed_);
    const Mode<T>& mode = mode_of(f.params);
    if (batch_norm_ && mode.training()) {
      batch_moments(ctx, -1, x, mode.batch_stat(*f.params.layout, mean_),
                    mode.batch_stat(*f.params.layout, var_));
    }
    const Coefficients c = coefficients(ctx, scope, f.params);
    kernels.net.norm_relu(ctx, x, c.shift, c.scale, c.beta, relu_, f.y.channels(0, normed_));
    if (others_) kernels.move.copy(ctx, f.x.channels(normed_, others_), f.y.channels(normed_, others_));
  }

  void backward(Context& ctx, const StepBackward<T>& b) const override {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    const View<const T> x = b.x.channels(0, normed_);
    const View<T> dy = b.dy.channels(0, normed_), dx = b.dx.channels(0, normed_);
    const Coefficients c = coefficients(ctx, scope, b.params);
    double* sums = scope.take<double>(2 * normed_);
    T* means = scope.take<T>(2 * normed_);
    kernels.net.norm_relu_sums(ctx, x, c.shift, c.scale, c.beta, relu_, dy, sums);
    if (batch_norm_ && mode_of(b.params).training()) {  // moments depend on x
      batch_norm_means(ctx, normed_, sums, nullptr, 0, x.shape.pixels(), means);
    } else {
      kernels.move.zero(ctx, 2 * normed_, means);
    }
    if (batch_norm_ && b.params.grads) kernels.move.add_sums(ctx, normed_, 1, sums, b.params.grad(beta_));
    kernels.net.norm_relu_backward(ctx, x, c.shift, c.scale, means, means + normed_, dy, dx);
    if (others_) kernels.move.add(ctx, b.dy.channels(normed_, others_), b.dx.channels(normed_, others_));
  }

 private:
  struct Coefficients {
    const T *shift, *scale, *beta;
  };

  Coefficients coefficients(Context& ctx, WorkspaceScope& scope, const Params<T>& params) const {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    T* shift = scope.take<T>(normed_);
    T* scale = scope.take<T>(normed_);
    if (!batch_norm_) {
      kernels.move.zero(ctx, normed_, shift);
      kernels.move.fill(ctx, normed_, T(1), scale);
      return {shift, scale, shift};
    }
    kernels.channel.moment_coefficients(ctx, normed_, statistic(params, mean_), statistic(params, var_),
                                        kBatchNormEps, shift, scale, scope.take<double>(normed_));
    return {shift, scale, params.value(beta_)};
  }

  std::string name_;
  int64_t normed_, others_;
  bool batch_norm_, relu_;
  ParamId beta_ = 0, mean_ = 0, var_ = 0;
};

/// y = relu([gain x, -gain x]), followed by a checkerboard's mask as a channel (parity -1: none). No other
/// step may read x, because backward overwrites dx.
template <class T>
class ConcatRelu final : public NetStep<T> {
 public:
  ConcatRelu(int64_t inputs, T gain, int parity)
      : NetStep<T>(2 * inputs + (parity >= 0 ? 1 : 0), false, true), gain_(gain), parity_(parity) {}

  void forward(Context& ctx, const StepForward<T>& f) const override {
    ctx.kernels<T>().net.concat_relu(ctx, f.x, gain_, parity_, f.y);
  }
  void backward(Context& ctx, const StepBackward<T>& b) const override {
    ctx.kernels<T>().net.concat_relu_backward(ctx, b.y, b.dy, gain_, b.dx);
  }

 private:
  T gain_;
  int parity_;
};

/// y = f(x). In place, x2 is x: backward turns dy into dx.
template <class T>
class Activate final : public NetStep<T> {
 public:
  Activate(int64_t inputs, Activation f, bool in_place_)
      : NetStep<T>(inputs, false, f != Activation::silu, in_place_), f_(f) {}

  /// silu's slope needs x, whose place may be another value's by then.
  int64_t kept_size(int64_t pixels) const override {
    return f_ == Activation::silu ? (pixels * this->channels + 15) / 16 * 16 : 0;
  }

  void forward(Context& ctx, const StepForward<T>& f) const override {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    if (f_ == Activation::silu && f.kept) kernels.move.copy(ctx, f.x, View<T>(f.kept, f.x.shape));
    kernels.net.activate(ctx, f_, f.x, f.y);
  }
  void backward(Context& ctx, const StepBackward<T>& b) const override {
    const View<const T> at = f_ == Activation::silu ? View<const T>(b.kept, b.dy.shape) : b.y;
    ctx.kernels<T>().net.activate_backward(ctx, f_, at, b.dy, b.dx, !this->in_place);
  }

 private:
  Activation f_;
};

/// y = x with a share p of its values set to 0 and the others divided by 1 - p, in training; else y = x. The
/// mask is a function of the step's seed, so that a repeated forward pass and backward draw the same one.
template <class T>
class Dropout final : public NetStep<T> {
 public:
  Dropout(int64_t inputs, double p) : NetStep<T>(inputs, false, false), p_(p) {}

  void declare(const Scope& net) override { stream_ = net.add_stream(); }

  void forward(Context& ctx, const StepForward<T>& f) const override {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    const MaskSeed* masks = mode_of(f.params).masks;
    if (!masks) return kernels.move.copy(ctx, f.x, f.y);
    kernels.net.dropout(ctx, p_, masks, stream_, f.params.given.first_row, f.x, f.y, false);
  }
  void backward(Context& ctx, const StepBackward<T>& b) const override {
    const KernelSet<T>& kernels = ctx.kernels<T>();
    const MaskSeed* masks = mode_of(b.params).masks;
    if (!masks) return kernels.move.add(ctx, b.dy, b.dx);
    kernels.net.dropout(ctx, p_, masks, stream_, b.params.given.first_row, b.dy, b.dx, true);
  }

 private:
  double p_;
  uint32_t stream_ = 0;
};

/// y = x2 sigmoid(x), in place of x2.
template <class T>
class Gate final : public NetStep<T> {
 public:
  explicit Gate(int64_t inputs) : NetStep<T>(inputs, true, true, true) {}
  void forward(Context& ctx, const StepForward<T>& f) const override {
    ctx.kernels<T>().net.gate(ctx, f.x, f.y);
  }
  void backward(Context& ctx, const StepBackward<T>& b) const override {
    ctx.kernels<T>().net.gate_backward(ctx, b.x, b.y, b.dy, b.dx);
  }
};

/// y = x + x2, in place of x2: dx2 is dy.
template <class T>
class Sum final : public NetStep<T> {
 public:
  explicit Sum(int64_t inputs) : NetStep<T>(inputs, false, false, true) {}
  void forward(Context& ctx, const StepForward<T>& f) const override {
    ctx.kernels<T>().move.add(ctx, f.x, f.y);
  }
  void backward(Context& ctx, const StepBackward<T>& b) const override {
    ctx.kernels<T>().move.add(ctx, b.dy, b.dx);
  }
};

}  // namespace evenflow
