#include "core/mode.hpp"
#include "evenflow/error.hpp"
#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"
#include "layers/channel_mask.hpp"

namespace evenflow {

bool is_checkerboard(Mask mask) {
  return mask == Mask::checkerboard0 || mask == Mask::checkerboard1;
}

MaskSizes mask_sizes(Mask mask, int64_t channels) {
  const int64_t large = (channels + 1) / 2, small = channels / 2;
  switch (mask) {
    case Mask::second_half:
    case Mask::odd:
      return {large, small};
    case Mask::first_half:
    case Mask::even:
      return {small, large};
    default:
      return {channels, channels};
  }
}

namespace {

constexpr const char* kCoupling = "coupling";

/// A coupling on slices of the channels or on a checkerboard. The net reads the part that passes and then the
/// flow's context, which is the same at every pixel.
template <class T>
class Coupling : public Layer<T> {
 public:
  Coupling(Shape in, const Slices& slices, std::unique_ptr<Conditioner<T>> net,
           const CouplingOptions& options)
      : Layer<T>(kCoupling, in, in, true),
        net_(std::move(net)),
        change_first_(slices.change_first),
        pass_first_(slices.pass_first),
        pass_(slices.pass) {
    plan_.law = law_of(options.law);
    const int64_t outputs = slices.change * numbers_of(plan_.law);
    const Shape pass = in.with_batch(0).with_channels(pass_);
    context_ = net_->input_shape().c - pass_;
    if (slices.change < 1 || pass_ + context_ < 1) {
      fail<ShapeError>(kCoupling, "expected a channel that changes, and one that passes or a context, got ",
                       slices.change, " and ", pass_, " of ", in.c, " channels");
    }
    if (context_ < 0 || net_->input_shape() != pass.with_channels(pass_ + context_) ||
        net_->out_channels() != outputs) {
      fail<ShapeError>(kCoupling, "expected a net from ", to_string(pass), " to ", outputs, " channels, got ",
                       to_string(net_->input_shape()), " to ", net_->out_channels());
    }
    plan_.count = slices.change;
    plan_.interleaved = options.interleaved;
    plan_.parity = slices.parity;
    for (const SharedNumber& number : shared_numbers_of(plan_.law))
      shared_.push_back({number.name, {number.start}});
    for (size_t i = 0; i < shared_.size() && i < options.shared.size(); ++i)
      shared_[i].options = options.shared[i];
  }

  void declare(const Scope& scope) override {
    net_->declare(scope);
    for (Shared& number : shared_) {
      if (!number.options.learned) continue;
      number.id = scope.add(number.name, {1}, number.options.decay ? Group::decay : Group::no_decay);
    }
  }

  void init(ParamArena<T>& arena, Rng& rng) const override {
    net_->init(arena, rng);
    for (const Shared& number : shared_) {
      if (number.id >= 0) arena.value(number.id)[0] = static_cast<T>(number.options.start);
    }
  }

  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    WorkspaceScope scope(ctx);
    if (!context_) return net_->init_from_data(ctx, arena, passing(ctx, scope, x));
    const View<T> joined = take_net_input(scope, x.shape.n);  // zeros: a standardised context's mean
    ctx.kernels<T>().move.zero(ctx, joined.shape.size(), joined.data);
    ctx.kernels<T>().move.copy(ctx, passing(ctx, scope, x), joined.channels(0, pass_));
    net_->init_from_data(ctx, arena, joined);
  }

  int64_t context() const override { return context_; }
  int64_t kept_size(int64_t n) const override { return h_size(n) + net_->activation_size(n); }

 private:
  /// Size of h in `kept`, rounded up to whole cache lines: the net's activations follow it.
  int64_t h_size(int64_t n) const {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    return (h_shape(n).size() + kLine - 1) / kLine * kLine;
  }

  Shape h_shape(int64_t n) const {
    return this->input_shape().with_batch(n).with_channels(net_->out_channels());
  }

  /// The net's input: the part that passes. With a context it is a copy, followed by the context.
  View<const T> net_input(Context& ctx, WorkspaceScope& scope, const Params<T>& params,
                          View<const T> x) const {
    if (!context_) return passing(ctx, scope, x);
    const View<T> joined = take_net_input(scope, x.shape.n);
    {
      WorkspaceScope inner(ctx);
      ctx.kernels<T>().move.copy(ctx, passing(ctx, inner, x), joined.channels(0, pass_));
    }
    const View<T> context_part = joined.channels(pass_, context_);
    ctx.kernels<T>().move.copy_blocks(ctx, View<const T>(params.given.context, context_part.shape, 0),
                                      context_, context_part,
                                      context_part.shape.pixels_per_sample() * context_part.stride);
    return joined;
  }

  /// The part that passes: a slice of channels, or a copy with the checkerboard's other colour zeroed.
  View<const T> passing(Context& ctx, WorkspaceScope& scope, View<const T> x) const {
    if (plan_.parity < 0) return x.channels(pass_first_, pass_);
    View<T> masked(scope.take<T>(x.shape.size()), x.shape);
    ctx.kernels<T>().move.mask_pixels(ctx, x, 1 - plan_.parity, false, masked);
    return masked;
  }

  /// Takes memory for the net's input.
  View<T> take_net_input(WorkspaceScope& scope, int64_t n) const {
    const Shape shape = net_->input_shape().with_batch(n);
    return View<T>(scope.take<T>(shape.size()), shape);
  }

  template <class U>
  View<U> changed(View<U> v) const {
    return v.channels(change_first_, plan_.count);
  }

  void copy_pass(Context& ctx, View<const T> from, View<T> to) const {
    if (plan_.parity >= 0 || from.data == to.data) return;
    ctx.kernels<T>().move.copy(ctx, from.channels(pass_first_, pass_), to.channels(pass_first_, pass_));
  }

  SharedNumbers<const T*> shared(const Params<T>& params) const {
    SharedNumbers<const T*> out{};
    for (size_t i = 0; i < shared_.size(); ++i) out[i] = params.value(shared_[i].id);
    return out;
  }
  SharedNumbers<T*> shared_gradients(const Params<T>& params) const {
    SharedNumbers<T*> out{};
    for (size_t i = 0; i < shared_.size(); ++i) out[i] = params.grad(shared_[i].id);
    return out;
  }

  /// The net's outputs for the part that passes of `x`, which is equal on both sides.
  View<const T> numbers(Context& ctx, WorkspaceScope& scope, const Params<T>& params, View<const T> x) const {
    const int64_t n = x.shape.n;
    T* kept = mode_of(params).kept;
    const View<T> h(kept ? kept : scope.take<T>(h_size(n)), h_shape(n));
    net_->forward(ctx, params, net_input(ctx, scope, params, x), h, kept ? kept + h_size(n) : nullptr);
    return h;
  }

 protected:
  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const View<const T> h = numbers(ctx, scope, params, x);
    copy_pass(ctx, x, z);
    ctx.kernels<T>().coupling.forward(ctx, plan_, shared(params), changed(x), h, changed(z), logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    WorkspaceScope scope(ctx);
    const View<const T> h = numbers(ctx, scope, params, z);
    copy_pass(ctx, z, x);
    ctx.kernels<T>().coupling.inverse(ctx, plan_, shared(params), changed(z), h, changed(x), logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    through_net(ctx, params, z, dz, x, dx, [&](View<const T> h, View<T> dh) {
      ctx.kernels<T>().coupling.backward(ctx, plan_, shared(params), changed(z), changed(dz), dlogdet, h,
                                         mode_of(params).known, changed(x), changed(dx), dh,
                                         shared_gradients(params));
    });
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    through_net(ctx, params, x, dx, z, dz, [&](View<const T> h, View<T> dh) {
      ctx.kernels<T>().coupling.inverse_backward(ctx, plan_, shared(params), changed(x), changed(dx), dlogdet,
                                                 h, mode_of(params).known, changed(z), changed(dz), dh,
                                                 shared_gradients(params));
    });
  }

 private:
  /// Computes values and gradients on one side of the coupling from `from` and `dfrom` on the other.
  /// `apply_law(h, dh)` handles the part that changes. Then dh goes back through the net to the part that
  /// passes, which is equal on both sides.
  template <class ApplyLaw>
  void through_net(Context& ctx, const Params<T>& params, View<const T> from, View<const T> dfrom, View<T> to,
                   View<T> dto, const ApplyLaw& apply_law) const {
    const int64_t n = from.shape.n;
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    const View<const T> input = net_input(ctx, scope, params, from);
    T* kept = mode_of(params).kept;
    const bool recompute = !kept;
    if (recompute) kept = scope.take<T>(kept_size(n));
    View<T> h(kept, h_shape(n));
    if (recompute) net_->forward(ctx, params, input, h, kept + h_size(n));

    View<T> dh(scope.take<T>(h_size(n)), h.shape);
    apply_law(h, dh);
    copy_pass(ctx, from, to);
    copy_pass(ctx, dfrom, dto);
    if (!context_ && plan_.parity < 0) {
      net_->backward(ctx, params, input, h, kept + h_size(n), dh, dto.channels(pass_first_, pass_));
      return;
    }
    const View<T> dinput = take_net_input(scope, n);
    kernels.move.zero(ctx, dinput.shape.size(), dinput.data);
    net_->backward(ctx, params, input, h, kept + h_size(n), dh, dinput);
    const View<const T> dpass = dinput.channels(0, pass_);
    if (plan_.parity < 0) {
      kernels.move.add(ctx, dpass, dto.channels(pass_first_, pass_));
    } else {
      kernels.move.mask_pixels(ctx, dpass, 1 - plan_.parity, true, dto);
    }
    if (params.given.dcontext) {
      kernels.move.add_pixel_sums(ctx, dinput.channels(pass_, context_),
                                  View<T>(params.given.dcontext, {n, 1, 1, context_}));
    }
  }

  struct Shared {
    const char* name;
    SharedOptions options;
    ParamId id = -1;  ///< -1: not learned
  };

  std::unique_ptr<Conditioner<T>> net_;
  CouplingPlan plan_;
  std::vector<Shared> shared_;
  int64_t change_first_;
  int64_t pass_first_;
  int64_t pass_;
  int64_t context_;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> coupling(Shape in, Mask mask, std::unique_ptr<Conditioner<T>> net,
                                   const CouplingOptions& options) {
  if (mask == Mask::odd || mask == Mask::even) {
    return coupling(in, every_second(mask, in.c), std::move(net), options);
  }
  return std::make_unique<Coupling<T>>(in, slices_of(mask, in.c), std::move(net), options);
}

template <class T>
std::unique_ptr<Layer<T>> coupling(Shape in, const std::vector<int64_t>& changed,
                                   std::unique_ptr<Conditioner<T>> net, const CouplingOptions& options) {
  return on_channels<T, Coupling<T>>(kCoupling, in, changed, std::move(net), options);
}

template std::unique_ptr<Layer<float>> coupling<float>(Shape, Mask, std::unique_ptr<Conditioner<float>>,
                                                       const CouplingOptions&);
template std::unique_ptr<Layer<double>> coupling<double>(Shape, Mask, std::unique_ptr<Conditioner<double>>,
                                                         const CouplingOptions&);
template std::unique_ptr<Layer<float>> coupling<float>(Shape, const std::vector<int64_t>&,
                                                       std::unique_ptr<Conditioner<float>>,
                                                       const CouplingOptions&);
template std::unique_ptr<Layer<double>> coupling<double>(Shape, const std::vector<int64_t>&,
                                                         std::unique_ptr<Conditioner<double>>,
                                                         const CouplingOptions&);

}  // namespace evenflow
