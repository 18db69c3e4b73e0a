#include "core/mode.hpp"
#include "evenflow/error.hpp"
#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"
#include "layers/channel_mask.hpp"

namespace evenflow {
namespace {

constexpr const char* kElementwise = "elementwise";

/// y = f(x; p) of a slice of the channels, with numbers p that are parameters of the layer. Rows share them:
/// as a coupling's outputs of a net they are an array whose rows are 0 apart.
template <class T>
class Elementwise final : public Layer<T> {
 public:
  Elementwise(Shape in, const Split& split, const LawOptions& law)
      : Layer<T>(kElementwise, in, in, true), split_(split) {
    if (split.change < 1)
      fail<ShapeError>(kElementwise, "expected a channel that changes, got none of ", in.c);
    plan_.law = law_of(law);
    plan_.count = split.change;
  }

  void declare(const Scope& scope) override {
    numbers_ = scope.add("numbers", {numbers_of(plan_.law), plan_.count}, Group::no_decay);
  }

  void init(ParamArena<T>& arena, Rng&) const override {
    std::fill_n(arena.value(numbers_), outputs(), T(0));
  }

 private:
  int64_t outputs() const { return numbers_of(plan_.law) * plan_.count; }

  Shape h_shape(int64_t n) const { return this->input_shape().with_batch(n).with_channels(outputs()); }
  View<const T> h(const Params<T>& params, int64_t n) const {
    return View<const T>(params.value(numbers_), h_shape(n), 0);
  }

  template <class U>
  View<U> changed(View<U> v) const {
    return v.channels(split_.change_first, split_.change);
  }

  void pass(Context& ctx, View<const T> from, View<T> to) const {
    if (from.data == to.data) return;
    ctx.kernels<T>().move.copy(ctx, from.channels(split_.pass_first, split_.pass),
                               to.channels(split_.pass_first, split_.pass));
  }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    pass(ctx, x, z);
    ctx.kernels<T>().coupling.forward(ctx, plan_, {}, changed(x), h(params, x.shape.n), changed(z), logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    pass(ctx, z, x);
    ctx.kernels<T>().coupling.inverse(ctx, plan_, {}, changed(z), h(params, z.shape.n), changed(x), logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    pass(ctx, z, x);
    pass(ctx, dz, dx);
    with_gradients(ctx, params, z.shape.n, [&](View<T> dh) {
      ctx.kernels<T>().coupling.backward(ctx, plan_, {}, changed(z), changed(dz), dlogdet,
                                         h(params, z.shape.n), mode_of(params).known, changed(x), changed(dx),
                                         dh, {});
    });
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    pass(ctx, x, z);
    pass(ctx, dx, dz);
    with_gradients(ctx, params, x.shape.n, [&](View<T> dh) {
      ctx.kernels<T>().coupling.inverse_backward(ctx, plan_, {}, changed(x), changed(dx), dlogdet,
                                                 h(params, x.shape.n), mode_of(params).known, changed(z),
                                                 changed(dz), dh, {});
    });
  }

  /// apply_law(dh) fills the numbers' gradients of each row; their sums are those of the parameters.
  template <class ApplyLaw>
  void with_gradients(Context& ctx, const Params<T>& params, int64_t n, const ApplyLaw& apply_law) const {
    WorkspaceScope scope(ctx);
    const View<T> dh(scope.take<T>(h_shape(n).size()), h_shape(n));
    apply_law(dh);
    // The numbers are the bias of a net without inputs.
    ctx.kernels<T>().net.epilogue_backward(ctx, dh, dh, Epilogue<T>(), params.grad(numbers_), nullptr, T(1));
  }

  Split split_;
  CouplingPlan plan_;
  ParamId numbers_ = 0;
};

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> elementwise(Shape in, const std::vector<int64_t>& changed, const LawOptions& law) {
  return on_channels<T>(kElementwise, in, changed,
                        [&](const Split& split) { return std::make_unique<Elementwise<T>>(in, split, law); });
}

template std::unique_ptr<Layer<float>> elementwise<float>(Shape, const std::vector<int64_t>&,
                                                          const LawOptions&);
template std::unique_ptr<Layer<double>> elementwise<double>(Shape, const std::vector<int64_t>&,
                                                            const LawOptions&);

}  // namespace evenflow
