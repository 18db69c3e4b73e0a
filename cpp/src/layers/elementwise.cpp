#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/mode.hpp"
#include "core/numbers.hpp"
#include "evenflow/error.hpp"
#include "evenflow/layers.hpp"
#include "kernels/kernel_set.hpp"
#include "layers/channel_mask.hpp"

namespace evenflow {
namespace {

constexpr const char* kElementwise = "elementwise";
constexpr const char* kBounds = "bounds";

/// y = f(x; p) of a slice of the channels by a law. Rows share the numbers p: as a coupling's outputs of a
/// net they are an array whose rows are 0 apart.
template <class T>
class ByLaw : public Layer<T> {
 public:
  ByLaw(const char* kind, Shape in, const Slices& slices, const Law& law)
      : Layer<T>(kind, in, in, true), slices_(slices) {
    if (slices.change < 1) fail<ShapeError>(kind, "expected a channel that changes, got none of ", in.c);
    plan_.law = law;
    plan_.count = slices.change;
  }

 protected:
  int64_t numbers() const { return numbers_of(plan_.law); }
  int64_t channels() const { return plan_.count; }

  void do_forward(Context& ctx, const Params<T>& params, View<const T> x, View<T> z,
                  double* logdet) const override {
    HostScope host(ctx);
    pass(ctx, x, z);
    ctx.kernels<T>().coupling.forward(ctx, plan_, {}, changed(x), h(host, params, x.shape.n), changed(z),
                                      logdet);
  }

  void do_inverse(Context& ctx, const Params<T>& params, View<const T> z, View<T> x,
                  double* logdet) const override {
    HostScope host(ctx);
    pass(ctx, z, x);
    ctx.kernels<T>().coupling.inverse(ctx, plan_, {}, changed(z), h(host, params, z.shape.n), changed(x),
                                      logdet);
  }

  void do_backward(Context& ctx, const Params<T>& params, View<const T> z, View<const T> dz,
                   const double* dlogdet, View<T> x, View<T> dx) const override {
    pass(ctx, z, x);
    pass(ctx, dz, dx);
    with_gradients(ctx, params, z.shape.n, [&](View<const T> h, View<T> dh) {
      ctx.kernels<T>().coupling.backward(ctx, plan_, {}, changed(z), changed(dz), dlogdet, h,
                                         mode_of(params).known, changed(x), changed(dx), dh, {});
    });
  }

  void do_inverse_backward(Context& ctx, const Params<T>& params, View<const T> x, View<const T> dx,
                           const double* dlogdet, View<T> z, View<T> dz) const override {
    pass(ctx, x, z);
    pass(ctx, dx, dz);
    with_gradients(ctx, params, x.shape.n, [&](View<const T> h, View<T> dh) {
      ctx.kernels<T>().coupling.inverse_backward(ctx, plan_, {}, changed(x), changed(dx), dlogdet, h,
                                                 mode_of(params).known, changed(z), changed(dz), dh, {});
    });
  }

  // The numbers of all channels, those of one kind side by side: a parameter, or else constants.
  ParamId numbers_ = -1;
  std::vector<T> constants_;

 private:
  Shape h_shape(int64_t n) const {
    return this->input_shape().with_batch(n).with_channels(numbers() * channels());
  }
  View<const T> h(HostScope& host, const Params<T>& params, int64_t n) const {
    const T* parameters = params.value(numbers_);
    const T* values =
        parameters ? parameters : host.send(constants_.data(), static_cast<int64_t>(constants_.size()));
    return View<const T>(values, h_shape(n), 0);
  }

  /// apply_law(h, dh) fills the numbers' gradients of each row; their sums are those of the parameters.
  template <class ApplyLaw>
  void with_gradients(Context& ctx, const Params<T>& params, int64_t n, const ApplyLaw& apply_law) const {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const Shape shape = h_shape(n);
    const View<T> dh(numbers_ < 0 ? nullptr : scope.take<T>(shape.size()), shape);
    apply_law(h(host, params, n), dh);
    if (numbers_ < 0) return;
    // The numbers are the bias of a net without inputs.
    ctx.kernels<T>().net.epilogue_backward(ctx, dh, dh, Epilogue<T>(), params.grad(numbers_), nullptr, T(1));
  }

  template <class U>
  View<U> changed(View<U> v) const {
    return v.channels(slices_.change_first, slices_.change);
  }

  void pass(Context& ctx, View<const T> from, View<T> to) const {
    if (from.data == to.data || slices_.pass == 0) return;
    ctx.kernels<T>().move.copy(ctx, from.channels(slices_.pass_first, slices_.pass),
                               to.channels(slices_.pass_first, slices_.pass));
  }

  Slices slices_;
  CouplingPlan plan_;
};

/// By a law whose numbers are parameters.
template <class T>
class Elementwise : public ByLaw<T> {
 public:
  Elementwise(Shape in, const Slices& slices, const LawOptions& law)
      : ByLaw<T>(kElementwise, in, slices, law_of(law)) {}

  void declare(const Scope& scope) override {
    this->numbers_ = scope.add("numbers", {this->numbers(), this->channels()}, Group::no_decay);
  }
  void init(ParamArena<T>& arena, Rng&) const override {
    std::fill_n(arena.value(this->numbers_), this->numbers() * this->channels(), T(0));
  }
};

/// All channels, by a law whose numbers are constants.
template <class T>
class Fixed final : public ByLaw<T> {
 public:
  /// What inputs of column c must be, for an error; empty if x is that.
  using Refuse = std::function<std::string(int64_t c, T x)>;

  Fixed(const char* kind, Shape in, const Law& law, std::vector<T> constants = {}, Refuse refuse = nullptr)
      : ByLaw<T>(kind, in, {0, in.c}, law), refuse_(std::move(refuse)) {
    this->constants_ = std::move(constants);
  }

  void init_from_data(Context& ctx, ParamArena<T>&, View<const T> x) const override {
    check_inputs(ctx, "init", x);
  }
  void check_inputs(Context& ctx, const char* call, View<const T> x) const override {
    if (!refuse_) return;
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const View<T> dense(scope.take<T>(x.shape.size()), x.shape);
    ctx.kernels<T>().move.copy(ctx, x, dense);
    const T* values = host.read(static_cast<const T*>(dense.data), x.shape.size());
    for (int64_t i = 0; i < x.shape.size(); ++i) {
      const int64_t c = i % x.shape.c;
      const std::string expected = refuse_(c, values[i]);
      if (expected.empty()) continue;
      fail<NumericError>(call, "expected values ", expected, " for column ", c, ", got ",
                         exact_text(values[i]), " for sample ", ctx.first_row() + i / x.shape.per_sample());
    }
  }
  /// Constants are in the data's units.
  bool standardizes() const override { return !this->constants_.empty(); }

 private:
  Refuse refuse_;
};

/// ConfigError if T cannot represent the bounds of column c, or no number between them.
template <class T>
void check_bounds(const Bounds& bounds, int64_t c) {
  const char* dtype = std::is_same<T, float>::value ? "float32" : "float64";
  if (!(bounds.low < bounds.high)) {
    fail<ConfigError>(kBounds, "expected a lower bound below the upper one, got ", exact_text(bounds.low),
                      " and ", exact_text(bounds.high), " for column ", c);
  }
  const T low = static_cast<T>(bounds.low), high = static_cast<T>(bounds.high);
  const bool has_low = std::isfinite(bounds.low), has_high = std::isfinite(bounds.high);
  const bool held = std::isfinite(low) == has_low && std::isfinite(high) == has_high &&
                    std::isfinite(high - low) == (has_low && has_high);
  if (!held || !(std::nextafter(low, high) < high)) {
    fail<ConfigError>(kBounds, "expected bounds that ", dtype, held ? " holds numbers between" : " holds",
                      ", got ", exact_text(bounds.low), " and ", exact_text(bounds.high), " for column ", c);
  }
}

}  // namespace

template <class T>
std::unique_ptr<Layer<T>> elementwise(Shape in, const std::vector<int64_t>& changed, const LawOptions& law) {
  return on_channels<T, Elementwise<T>>(kElementwise, in, changed, law);
}

template <class T>
std::unique_ptr<Layer<T>> logit(Shape in) {
  return std::make_unique<Fixed<T>>("logit", in, laws::Logit());
}

template <class T>
std::unique_ptr<Layer<T>> unit_box(Shape in) {
  return std::make_unique<Fixed<T>>("unit_box", in, laws::UnitBox(), std::vector<T>(),
                                    [](int64_t, T x) { return x >= T(0) && x <= T(1) ? "" : "in [0, 1]"; });
}

template <class T>
std::unique_ptr<Layer<T>> unbound(Shape in, const std::vector<Bounds>& bounds) {
  if (static_cast<int64_t>(bounds.size()) != in.c) {
    fail<ConfigError>(kBounds, "expected bounds for each of ", in.c, " columns, got ", bounds.size());
  }
  const size_t columns = bounds.size();
  std::vector<T> constants(5 * columns);  // as laws::Unbound has them
  for (size_t c = 0; c < columns; ++c) {
    check_bounds<T>(bounds[c], static_cast<int64_t>(c));
    const T low = static_cast<T>(bounds[c].low), high = static_cast<T>(bounds[c].high);
    const bool has_low = std::isfinite(low), has_high = std::isfinite(high);
    constants[c] = low;
    constants[columns + c] = high;
    constants[2 * columns + c] = has_low && has_high ? std::log(high - low) : T(0);
    constants[3 * columns + c] = has_low ? std::nextafter(low, high) : low;
    constants[4 * columns + c] = has_high ? std::nextafter(high, low) : high;
  }
  const auto refuse = [=](int64_t c, T x) {
    const T low = constants[static_cast<size_t>(c)], high = constants[columns + static_cast<size_t>(c)];
    const bool has_low = std::isfinite(low), has_high = std::isfinite(high);
    if ((!has_low || x > low) && (!has_high || x < high)) return std::string();
    return has_low && has_high ? text_of("between ", exact_text(low), " and ", exact_text(high))
           : has_low           ? text_of("above ", exact_text(low))
                               : text_of("below ", exact_text(high));
  };
  return std::make_unique<Fixed<T>>(kBounds, in, laws::Unbound(), constants, refuse);
}

template std::unique_ptr<Layer<float>> elementwise<float>(Shape, const std::vector<int64_t>&,
                                                          const LawOptions&);
template std::unique_ptr<Layer<double>> elementwise<double>(Shape, const std::vector<int64_t>&,
                                                            const LawOptions&);
template std::unique_ptr<Layer<float>> logit<float>(Shape);
template std::unique_ptr<Layer<double>> logit<double>(Shape);
template std::unique_ptr<Layer<float>> unit_box<float>(Shape);
template std::unique_ptr<Layer<double>> unit_box<double>(Shape);
template std::unique_ptr<Layer<float>> unbound<float>(Shape, const std::vector<Bounds>&);
template std::unique_ptr<Layer<double>> unbound<double>(Shape, const std::vector<Bounds>&);

}  // namespace evenflow
