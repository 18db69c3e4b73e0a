#include "evenflow/error.hpp"
#include "layers/law_layer.hpp"

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
class Coupling : public LawLayer<T> {
 public:
  Coupling(Shape in, const Slices& slices, std::unique_ptr<Conditioner<T>> net,
           const CouplingOptions& options)
      : LawLayer<T>(kCoupling, in, slices, law_of(options.law), options.interleaved),
        net_(std::move(net)),
        context_(net_->input_shape().c - slices.pass) {
    const Shape pass = in.with_batch(0).with_channels(slices.pass);
    if (slices.change < 1 || slices.pass + context_ < 1) {
      fail<ShapeError>(kCoupling, "expected a channel that changes, and one that passes or a context, got ",
                       slices.change, " and ", slices.pass, " of ", in.c, " channels");
    }
    if (context_ < 0 || net_->input_shape() != pass.with_channels(slices.pass + context_) ||
        net_->out_channels() != this->numbers_) {
      fail<ShapeError>(kCoupling, "expected a net from ", to_string(pass), " to ", this->numbers_,
                       " channels, got ", to_string(net_->input_shape()), " to ", net_->out_channels());
    }
    for (const SharedNumber& number : shared_numbers_of(this->plan_.law))
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
    if (!context_) return net_->init_from_data(ctx, arena, kept_part(ctx, scope, x));
    const View<T> joined = take_net_input(scope, x.shape.n);  // zeros: a standardised context's mean
    ctx.kernels<T>().move.zero(ctx, joined.shape.size(), joined.data);
    ctx.kernels<T>().move.copy(ctx, kept_part(ctx, scope, x), joined.channels(0, pass()));
    net_->init_from_data(ctx, arena, joined);
  }

  int64_t context() const override { return context_; }
  int64_t kept_size(int64_t n) const override { return h_size(n) + net_->activation_size(n); }

 private:
  int64_t pass() const { return this->slices_.pass; }
  bool checkerboard() const { return this->slices_.parity >= 0; }

  /// Size of h in `kept`, rounded up to whole cache lines: the net's activations follow it.
  int64_t h_size(int64_t n) const {
    constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
    return (this->h_shape(n).size() + kLine - 1) / kLine * kLine;
  }

  /// The net's input: the part that passes. With a context it is a copy, followed by the context.
  View<const T> net_input(Context& ctx, WorkspaceScope& scope, const Params<T>& params,
                          View<const T> x) const {
    if (!context_) return kept_part(ctx, scope, x);
    const View<T> joined = take_net_input(scope, x.shape.n);
    {
      WorkspaceScope inner(ctx);
      ctx.kernels<T>().move.copy(ctx, kept_part(ctx, inner, x), joined.channels(0, pass()));
    }
    const View<T> context_part = joined.channels(pass(), context_);
    ctx.kernels<T>().move.copy_blocks(ctx, View<const T>(params.given.context, context_part.shape, 0),
                                      context_, context_part,
                                      context_part.shape.pixels_per_sample() * context_part.stride);
    return joined;
  }

  /// The part that passes: a slice of channels, or a copy with the checkerboard's other colour zeroed.
  View<const T> kept_part(Context& ctx, WorkspaceScope& scope, View<const T> x) const {
    if (!checkerboard()) return this->passing(x);
    View<T> masked(scope.take<T>(x.shape.size()), x.shape);
    ctx.kernels<T>().move.mask_pixels(ctx, x, 1 - this->slices_.parity, false, masked);
    return masked;
  }

  /// Takes memory for the net's input.
  View<T> take_net_input(WorkspaceScope& scope, int64_t n) const {
    const Shape shape = net_->input_shape().with_batch(n);
    return View<T>(scope.take<T>(shape.size()), shape);
  }

  SharedNumbers<const T*> shared(const Params<T>& params) const override {
    SharedNumbers<const T*> out{};
    for (size_t i = 0; i < shared_.size(); ++i) out[i] = params.value(shared_[i].id);
    return out;
  }
  SharedNumbers<T*> shared_gradients(const Params<T>& params) const override {
    SharedNumbers<T*> out{};
    for (size_t i = 0; i < shared_.size(); ++i) out[i] = params.grad(shared_[i].id);
    return out;
  }

  /// The net's outputs for the part that passes.
  View<const T> numbers(Context& ctx, WorkspaceScope& scope, HostScope&, const Params<T>& params,
                        View<const T> x) const override {
    const int64_t n = x.shape.n;
    T* kept = mode_of(params).kept;
    const View<T> h(kept ? kept : scope.take<T>(h_size(n)), this->h_shape(n));
    net_->forward(ctx, params, net_input(ctx, scope, params, x), h, kept ? kept + h_size(n) : nullptr);
    return h;
  }

  /// The gradients of the net's outputs go back through the net to the part that passes.
  void through(Context& ctx, const Params<T>& params, View<const T> from, View<T> dto,
               const typename LawLayer<T>::Apply& apply) const override {
    const int64_t n = from.shape.n;
    const KernelSet<T>& kernels = ctx.kernels<T>();
    WorkspaceScope scope(ctx);
    const View<const T> input = net_input(ctx, scope, params, from);
    T* kept = mode_of(params).kept;
    const bool recompute = !kept;
    if (recompute) kept = scope.take<T>(kept_size(n));
    View<T> h(kept, this->h_shape(n));
    if (recompute) net_->forward(ctx, params, input, h, kept + h_size(n));

    View<T> dh(scope.take<T>(h_size(n)), h.shape);
    apply(h, dh);
    if (!context_ && !checkerboard()) {
      net_->backward(ctx, params, input, h, kept + h_size(n), dh, this->passing(dto));
      return;
    }
    const View<T> dinput = take_net_input(scope, n);
    kernels.move.zero(ctx, dinput.shape.size(), dinput.data);
    net_->backward(ctx, params, input, h, kept + h_size(n), dh, dinput);
    const View<const T> dpass = dinput.channels(0, pass());
    if (checkerboard()) {
      kernels.move.mask_pixels(ctx, dpass, 1 - this->slices_.parity, true, dto);
    } else {
      kernels.move.add(ctx, dpass, this->passing(dto));
    }
    if (params.given.dcontext) {
      kernels.move.add_pixel_sums(ctx, dinput.channels(pass(), context_),
                                  View<T>(params.given.dcontext, {n, 1, 1, context_}));
    }
  }

  struct Shared {
    const char* name;
    SharedOptions options;
    ParamId id = -1;  ///< -1: not learned
  };

  std::unique_ptr<Conditioner<T>> net_;
  std::vector<Shared> shared_;
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
