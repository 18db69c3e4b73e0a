#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/numbers.hpp"
#include "evenflow/error.hpp"
#include "layers/law_layer.hpp"

namespace evenflow {
namespace {

constexpr const char* kElementwise = "elementwise";
constexpr const char* kBounds = "bounds";

/// y = f(x; p) of a slice of the channels by a law. Rows share the numbers p: as a coupling's outputs of a
/// net they are an array whose rows are 0 apart.
template <class T>
class ByLaw : public LawLayer<T> {
 public:
  ByLaw(const char* kind, Shape in, const Slices& slices, const Law& law)
      : LawLayer<T>(kind, in, slices, law) {
    if (slices.change < 1) fail<ShapeError>(kind, "expected a channel that changes, got none of ", in.c);
  }

 protected:
  // The numbers of all channels, those of one kind side by side: a parameter, or else constants.
  ParamId parameter_ = -1;
  std::vector<T> constants_;

 private:
  View<const T> numbers(Context&, WorkspaceScope&, HostScope& host, const Params<T>& params,
                        View<const T> x) const override {
    const T* parameters = params.value(parameter_);
    const T* values =
        parameters ? parameters : host.send(constants_.data(), static_cast<int64_t>(constants_.size()));
    return View<const T>(values, this->h_shape(x.shape.n), 0);
  }

  /// Rows have gradients by the numbers; their sums are those of the parameters.
  void through(Context& ctx, const Params<T>& params, View<const T> from, View<T>,
               const typename LawLayer<T>::Apply& apply) const override {
    WorkspaceScope scope(ctx);
    HostScope host(ctx);
    const Shape shape = this->h_shape(from.shape.n);
    const View<T> dh(parameter_ < 0 ? nullptr : scope.take<T>(shape.size()), shape);
    apply(numbers(ctx, scope, host, params, from), dh);
    if (parameter_ < 0) return;
    // The numbers are the bias of a net without inputs.
    ctx.kernels<T>().net.epilogue_backward(ctx, dh, dh, Epilogue<T>(), params.grad(parameter_), nullptr,
                                           T(1));
  }
};

/// By a law whose numbers are parameters.
template <class T>
class Elementwise : public ByLaw<T> {
 public:
  Elementwise(Shape in, const Slices& slices, const LawOptions& law)
      : ByLaw<T>(kElementwise, in, slices, law_of(law)) {}

  void declare(const Scope& scope) override {
    this->parameter_ =
        scope.add("numbers", {numbers_of(this->plan_.law), this->plan_.count}, Group::no_decay);
  }
  void init(ParamArena<T>& arena, Rng&) const override {
    std::fill_n(arena.value(this->parameter_), this->numbers_, T(0));
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
