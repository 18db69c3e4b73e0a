#include "layers/coupling.hpp"

#include "evenflow/error.hpp"
#include "layers/tiled.hpp"

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

/// A coupling on contiguous halves of the channels or on a checkerboard. What the net takes besides the part
/// that passes is the flow's context, the same at every pixel.
template <class T>
class Coupling final : public Layer<T> {
 public:
  Coupling(const char* kind, Shape in, Mask mask, std::unique_ptr<Conditioner<T>> net, CouplingLaw law,
           const AffineOptions& options)
      : Layer<T>(kind, in, in, true), mask_(mask), net_(std::move(net)), options_(options) {
    const MaskSizes sizes = mask_sizes(mask, in.c);
    const bool affine = law != CouplingLaw::additive;
    if (sizes.pass < 1 || sizes.change < 1) {
      fail<ShapeError>(kind, "expected at least 2 channels, got ", in.c);
    }
    const Shape pass = in.with_batch(0).with_channels(sizes.pass);
    context_ = net_->input_shape().c - sizes.pass;
    if (context_ < 0 || net_->input_shape() != pass.with_channels(sizes.pass + context_) ||
        net_->out_channels() != sizes.change * (affine ? 2 : 1)) {
      fail<ShapeError>(kind, "expected a net from ", to_string(pass), " to ", sizes.change * (affine ? 2 : 1),
                       " channels, got ", to_string(net_->input_shape()), " to ", net_->out_channels());
    }
    pass_first_ = mask == Mask::first_half ? sizes.change : 0;
    change_first_ = mask == Mask::second_half ? sizes.pass : 0;
    pass_ = sizes.pass;
    dims_.law = law;
    dims_.count = sizes.change;
    dims_.h_step = affine && options.interleaved ? 2 : 1;
    dims_.r_offset = !affine ? 0 : options.interleaved ? 1 : sizes.change;
    dims_.parity = mask == Mask::checkerboard0 ? 0 : mask == Mask::checkerboard1 ? 1 : -1;
  }

  void declare(const Scope& scope) override {
    net_->declare(scope);
    if (dims_.law == CouplingLaw::real_nvp) {
      gain_ = scope.add("gain", {1}, options_.gain_decay ? Group::decay : Group::no_decay);
      if (options_.offset) offset_ = scope.add("offset", {1}, Group::no_decay);
    }
  }

  void init(ParamArena<T>& arena, Rng& rng) const override {
    net_->init(arena, rng);
    if (dims_.law == CouplingLaw::real_nvp) arena.value(gain_)[0] = static_cast<T>(options_.initial_gain);
  }

  void init_from_data(Context& ctx, ParamArena<T>& arena, View<const T> x) const override {
    WorkspaceScope scope(ctx);
    if (!context_) return net_->init_from_data(ctx, arena, passing(ctx, scope, x));
    const View<T> joined = take_input(scope, x.shape.n);  // with a context that is its mean
    ctx.kernels<T>().zero(ctx, joined.shape.size(), joined.data);
    ctx.kernels<T>().copy(ctx, passing(ctx, scope, x), joined.channels(0, pass_));
    net_->init_from_data(ctx, arena, joined);
  }

  int64_t context() const override { return context_; }
  int64_t kept_size(int64_t n) const override { return h_size(n) + net_->activation_size(n); }

 private:
  /// Whole cache lines: the net's activations lie behind.
  int64_t h_size(int64_t n) const {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    return (h_shape(n).size() + kLine - 1) / kLine * kLine;
  }

  Shape h_shape(int64_t n) const {
    return this->input_shape().with_batch(n).with_channels(net_->out_channels());
  }

  /// What the net sees: the part that passes, with a context behind it in a copy.
  View<const T> pass_input(Context& ctx, WorkspaceScope& scope, const Params<T>& params,
                           View<const T> x) const {
    if (!context_) return passing(ctx, scope, x);
    const View<T> joined = take_input(scope, x.shape.n);
    {
      WorkspaceScope inner(ctx);
      ctx.kernels<T>().copy(ctx, passing(ctx, inner, x), joined.channels(0, pass_));
    }
    const View<T> behind = joined.channels(pass_, context_);
    ctx.kernels<T>().copy_blocks(ctx, View<const T>(params.context, behind.shape, 0), context_, behind,
                                 behind.shape.pixels_per_sample() * behind.stride);
    return joined;
  }

  /// A slice of channels, or a copy with the other colour of the checkerboard zeroed.
  View<const T> passing(Context& ctx, WorkspaceScope& scope, View<const T> x) const {
    if (dims_.parity < 0) return x.channels(pass_first_, pass_);
    View<T> masked(scope.take<T>(x.shape.size()), x.shape);
    ctx.kernels<T>().mask_pixels(ctx, x, 1 - dims_.parity, false, masked);
    return masked;
  }

  /// Room for the net's input.
  View<T> take_input(WorkspaceScope& scope, int64_t n) const {
    const Shape shape = net_->input_shape().with_batch(n);
    return View<T>(scope.take<T>(shape.size()), shape);
  }

  template <class U>
  View<U> changed(View<U> v) const {
    return v.channels(change_first_, dims_.count);
  }

  void copy_pass(Context& ctx, View<const T> from, View<T> to) const {
    if (dims_.parity >= 0 || from.data == to.data) return;
    ctx.kernels<T>().copy(ctx, from.channels(pass_first_, pass_), to.channels(pass_first_, pass_));
  }

  CouplingGain<T> gain(const Params<T>& params) const {
    if (dims_.law != CouplingLaw::real_nvp) return {};
    return {params.value(gain_), options_.offset ? params.value(offset_) : nullptr};
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z, double* logdet,
                  T* kept) const override {
    const int64_t n = x.shape.n;
    WorkspaceScope scope(ctx);
    View<T> h(kept ? kept : scope.take<T>(h_size(n)), h_shape(n));
    net_->forward(ctx, params, pass_input(ctx, scope, params, x), h, kept ? kept + h_size(n) : nullptr);
    copy_pass(ctx, x, z);
    ctx.kernels<T>().coupling_forward(ctx, dims_, gain(params), changed(x), h, changed(z), logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    const int64_t n = z.shape.n;
    WorkspaceScope scope(ctx);
    View<T> h(scope.take<T>(h_size(n)), h_shape(n));
    net_->forward(ctx, params, pass_input(ctx, scope, params, z), h, nullptr);
    copy_pass(ctx, z, x);
    ctx.kernels<T>().coupling_inverse(ctx, dims_, gain(params), changed(z), h, changed(x), logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx, T* kept) const override {
    const int64_t n = z.shape.n;
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    // The net's input is the part of z that passed, so it can be read before x is rebuilt, or after.
    const View<const T> input = pass_input(ctx, scope, params, z);
    const bool recompute = !kept;
    if (recompute) kept = scope.take<T>(kept_size(n));
    View<T> h(kept, h_shape(n));
    if (recompute) net_->forward(ctx, params, input, h, kept + h_size(n));

    View<T> dh(scope.take<T>(h_size(n)), h.shape);
    double* dgain = nullptr;
    if (dims_.law == CouplingLaw::real_nvp) {
      dgain = scope.take<double>(2 * n);
      kernels.fill_doubles(ctx, 2 * n, 0, dgain);
    }
    kernels.coupling_backward(ctx, dims_, gain(params), changed(z), changed(dz), dlogdet, h, changed(x),
                              changed(dx), dh, dgain);
    copy_pass(ctx, z, x);
    copy_pass(ctx, dz, dx);
    if (dgain) {
      kernels.gain_gradients(ctx, n, dgain, params.grad(gain_),
                             options_.offset ? params.grad(offset_) : nullptr);
    }
    if (!context_ && dims_.parity < 0) {
      net_->backward(ctx, params, input, h, kept + h_size(n), dh, dx.channels(pass_first_, pass_));
      return;
    }
    const View<T> dinput = take_input(scope, n);
    kernels.zero(ctx, dinput.shape.size(), dinput.data);
    net_->backward(ctx, params, input, h, kept + h_size(n), dh, dinput);
    const View<const T> dpass = dinput.channels(0, pass_);
    if (dims_.parity < 0) {
      kernels.add(ctx, dpass, dx.channels(pass_first_, pass_));
    } else {
      kernels.mask_pixels(ctx, dpass, 1 - dims_.parity, true, dx);
    }
    if (params.dcontext) {
      kernels.add_pixel_sums(ctx, dinput.channels(pass_, context_),
                             View<T>(params.dcontext, {n, 1, 1, context_}));
    }
  }

  // The changed part's dz is dx over the scale. backward for (dx, -dz) on (passing, changed) parts and
  // -dlogdet then gives the passing part's dz, and adds the inverse's parameter gradients.
  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    const int64_t n = x.shape.n;
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    const auto take = [&] { return View<T>(scope.take<T>(x.shape.size()), x.shape); };
    const View<T> pulled = take(), flipped = take(), unused = take(), back = take();
    T* kept = scope.take<T>(kept_size(n));
    double* det = scope.take<double>(n);
    kernels.fill_doubles(ctx, n, 0, det);
    do_forward(ctx, params, x, z, det, kept);
    kernels.coupling_inverse(ctx, dims_, gain(params), changed(dx),
                             without_shift(ctx, scope, {kept, h_shape(n)}), changed(pulled), det);
    T* zeros = scope.take<T>(dims_.count);
    T* minus = scope.take<T>(dims_.count);
    kernels.zero(ctx, dims_.count, zeros);
    kernels.fill(ctx, dims_.count, T(-1), minus);
    kernels.channel_forward(ctx, dims_.parity, changed(pulled), zeros, minus, changed(flipped));
    copy_pass(ctx, dx, flipped);
    kernels.scale_doubles(ctx, n, -1, dlogdet, det);
    do_backward(ctx, params, z, flipped, det, unused, back, kept);
    if (dims_.parity < 0) {
      copy_pass(ctx, back, dz);
      kernels.copy(ctx, changed(pulled), changed(dz));
      return;
    }
    kernels.mask_pixels(ctx, back, 1 - dims_.parity, false, dz);
    kernels.mask_pixels(ctx, pulled, dims_.parity, true, dz);
  }

  /// A copy of h with shifts of zero, which leave a coupling its scale.
  View<const T> without_shift(Context& ctx, WorkspaceScope& scope, View<const T> h) const {
    View<T> out(scope.take<T>(h.shape.size()), h.shape);
    ctx.kernels<T>().copy(ctx, h, out);
    const int64_t last = (dims_.count - 1) * dims_.h_step;
    ctx.kernels<T>().fill_channels(ctx, T(0), dims_.h_step, out.channels(0, last + 1));
    return out;
  }

  Mask mask_;
  std::unique_ptr<Conditioner<T>> net_;
  AffineOptions options_;
  CouplingDims dims_;
  int64_t pass_first_;
  int64_t pass_;
  int64_t context_;
  int64_t change_first_;
  ParamId gain_ = -1;  ///< -1: there is no such
  ParamId offset_ = -1;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> coupling(const char* kind, Shape in, Mask mask, std::unique_ptr<Conditioner<T>> net,
                                   CouplingLaw law, const AffineOptions& options) {
  if (mask != Mask::odd && mask != Mask::even) {
    return std::make_unique<Coupling<T>>(kind, in, mask, std::move(net), law, options);
  }
  const Mask half = mask == Mask::odd ? Mask::second_half : Mask::first_half;
  return std::make_unique<Tiled<T>>(
      kind, std::make_unique<Coupling<T>>(kind, in, half, std::move(net), law, options));
}

template std::unique_ptr<Layer<float>> coupling<float>(const char*, Shape, Mask,
                                                       std::unique_ptr<Conditioner<float>>, CouplingLaw,
                                                       const AffineOptions&);
template std::unique_ptr<Layer<double>> coupling<double>(const char*, Shape, Mask,
                                                         std::unique_ptr<Conditioner<double>>, CouplingLaw,
                                                         const AffineOptions&);

}  // namespace evenflow
