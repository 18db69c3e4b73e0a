#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <limits>

#include "arenas.hpp"
#include "check_layer.hpp"
#include "core/linalg.hpp"
#include "kernels/coupling/apply.hpp"
#include "laws.hpp"

// docs/contract.md, tried on random pairs of parameters and inputs, for every layer and net. Pairs within the
// contract must give finite values and gradients, and come back within the stated bound. All others may also
// give a NumericError, which must name the layer. EVENFLOW_CONTRACT_PAIRS sets the number of pairs.

namespace evenflow::test {
namespace {

// The numbers of docs/contract.md.
constexpr double kMostValue = 1e6;    // inputs, latents and parameters
constexpr double kMostLogScale = 30;  // of each value, in magnitude
constexpr double kMostNet = 1e10;     // size of a net
constexpr double kMostMatrix = 1e10;  // row sums of magnitudes, of a matrix and of its inverse
constexpr double kMostLatent = 1e12;  // for a log-likelihood and its gradient
constexpr double kRoundTrip = 64;     // units of rounding

enum class Kind { movement, channels, logit, bounds, box, coupling, elementwise, matrix, whiten, top };

template <class T>
struct Case {
  std::string name;
  Kind kind;
  std::unique_ptr<Layer<T>> layer;
  const Conditioner<T>* net = nullptr;  ///< the coupling's net
  Mask mask = Mask::second_half;
  Law law;
  bool interleaved = false;
  int64_t classes = 0;
  std::vector<Bounds> bounds;
};

/// How a layer maps the values of a pair, in the terms of the contract: whether the pair is within it, and
/// how strongly errors grow.
struct Sensitivity {
  bool inside = false;
  bool finite_only = false;  ///< no round trip is promised
  double log_scale = 0;      ///< largest magnitude
  double shift = 0;          ///< largest magnitude, in units of x
  double condition = 1;
  double stretch = 1;  ///< factor by which the inverse amplifies rounding of subnormal numbers
};

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

template <class T>
class Contract {
 public:
  Contract(Case<T> c, uint64_t seed)
      : case_(std::move(c)),
        flow_(case_.layer->input_shape(), Base::gaussian),
        rng_(seed, Stream::test),
        ctx_("cpu", 1) {
    in_ = case_.layer->input_shape();
    flow_.add("probe", std::move(case_.layer));
    flow_.set_classes(case_.classes);
    flow_.finalize();
    start_ = std::make_unique<ParamArena<T>>(flow_.layout());
    arena_ = std::make_unique<ParamArena<T>>(flow_.layout());
    flow_.init(*start_, seed);
    const int64_t n = 64;
    std::vector<T> x(static_cast<size_t>(n * in_.per_sample()));
    for (T& value : x) value = static_cast<T>(0.5 + 0.1 * rng_.normal());
    flow_.init_from_data(ctx_, *start_, View<const T>(x.data(), in_.with_batch(n)));
    size_ = static_cast<size_t>(in_.per_sample());
    x_.resize(size_);
    z_.resize(size_);
    back_.resize(size_);
  }

  /// Draws and checks one random pair.
  void pair() {
    draw_parameters();
    draw(x_, bounded() || case_.kind == Kind::logit);
    label_ = static_cast<int32_t>(rng_.below(std::max<int64_t>(1, case_.classes)));
    const Sensitivity data = sensitivity(x_, true);
    inside_ += data.inside;
    data_to_latent(data);
    gradients(data);
    draw(z_, case_.kind == Kind::box);
    latent_to_data(sensitivity(z_, false));
  }

  int64_t inside() const { return inside_; }
  int64_t errors() const { return errors_; }

 private:
  static constexpr double kMostDrift = std::is_same<T, float>::value ? 1e-3 : 1e-8;
  static constexpr double eps() { return std::numeric_limits<T>::epsilon(); }

  bool bounded() const { return case_.kind == Kind::bounds || case_.kind == Kind::box; }
  const int32_t* label() const { return case_.classes ? &label_ : nullptr; }

  double draw_value() {
    constexpr double tiny = std::numeric_limits<T>::denorm_min(), least = std::numeric_limits<T>::min();
    static const double edges[] = {0, -0.0, 1, -1, 1e6, -1e6, 0.5, tiny, -tiny, least, 1e-6};
    switch (rng_.below(4)) {
      case 0:
        return edges[rng_.below(static_cast<int64_t>(std::size(edges)))];
      case 1:
        return rng_.normal();
      default:
        return (rng_.below(2) ? 1 : -1) * std::pow(10.0, rng_.uniform(-9, 6));
    }
  }

  /// Draws values of up to 1e6. With `unit`, moderate draws lie within [0, 1], often at its ends.
  void draw(std::vector<T>& out, bool unit) {
    const bool moderate = rng_.below(3) == 0;
    for (T& value : out) {
      double v = moderate ? rng_.normal() : draw_value();
      if (unit && moderate) v = rng_.below(8) ? rng_.uniform() : static_cast<double>(rng_.below(2));
      value = static_cast<T>(v);
    }
  }

  /// Draws parameters: the initial ones plus noise of one size, or values of all magnitudes and edge cases.
  void draw_parameters() {
    const int64_t total = flow_.layout()->total_size();
    std::copy(start_->values(), start_->values() + total, arena_->values());
    const bool wild = rng_.below(3) == 0;
    const double noise = wild ? 0 : std::pow(10.0, rng_.uniform(-3, rng_.below(2) ? 0 : 1));
    const std::vector<ParamLayout::Entry>& entries = flow_.layout()->entries();
    // Half of the wild draws change only one tensor, so that the others do not hide its effect.
    const int64_t one = rng_.below(2 * static_cast<int64_t>(std::max<size_t>(1, entries.size())));
    const std::string chosen = one < static_cast<int64_t>(entries.size()) ? entries[one].name : "";
    for (const ParamLayout::Entry& entry : entries) {
      const bool kept = ends_with(entry.name, "permutation") || ends_with(entry.name, "sign") ||
                        ends_with(entry.name, "initialized") || case_.kind == Kind::whiten;
      if (kept) continue;
      const bool positive = ends_with(entry.name, "var") || ends_with(entry.name, "std");
      for (int64_t i = 0; i < entry.size; ++i) {
        T& value = arena_->values()[entry.offset + i];
        if (wild) {
          if (chosen.empty() || chosen == entry.name) value = static_cast<T>(draw_value());
        } else {
          value = static_cast<T>(value + noise * rng_.normal());
        }
        if (positive) value = std::abs(value);
      }
    }
  }

  Values<T> values(const std::string& name) const { return find_tensor(*arena_, name); }

  /// The largest magnitude in a tensor; 0 if there is no such tensor.
  double most(const std::string& name) const {
    double m = 0;
    for (const T value : values(name)) m = std::max(m, std::abs(static_cast<double>(value)));
    return m;
  }

  Sensitivity sensitivity(const std::vector<T>& v, bool forward) {
    Sensitivity s;
    double input = 0;
    for (const T value : v) input = std::max(input, std::abs(static_cast<double>(value)));
    if (!(input <= kMostValue)) return s;
    const bool in_unit = std::all_of(v.begin(), v.end(), [](T u) { return u >= T(0) && u <= T(1); });
    s.inside = true;
    switch (case_.kind) {
      case Kind::movement:
        break;
      case Kind::channels:
        channels(s);
        break;
      case Kind::logit:
        s.inside = !forward || in_unit;
        s.finite_only = !forward;  // far out, x hardly depends on z
        s.log_scale = 5;
        s.shift = 1;
        break;
      case Kind::bounds:
        within_bounds(v, forward, s);
        break;
      case Kind::box:
        s.inside = in_unit;
        break;
      case Kind::coupling:
        if (!(net_size(input) <= kMostNet)) return {};
        coupling(v, forward, s);
        break;
      case Kind::elementwise:
        elementwise(v, forward, s);
        break;
      case Kind::matrix:
      case Kind::whiten:
        matrix(s);
        break;
      case Kind::top:
        top(s);
        break;
    }
    s.inside = s.inside && s.log_scale <= kMostLogScale && s.shift <= kMostNet;
    return s;
  }

  /// max(1, |input|), times (1 + fan-in x largest weight) x its output scale and (1 + largest bias) for every
  /// unit.
  double net_size(double input) const {
    double size = std::max(1.0, input);
    for (const ParamLayout::Entry& entry : arena_->layout().entries()) {
      const std::string& name = entry.name;
      const std::string scope = name.substr(0, name.rfind('.') + 1);
      const int64_t columns = entry.shape.empty() ? entry.size : entry.shape.back(),
                    rows = entry.size / columns;
      if (ends_with(name, ".weight")) {
        size *=
            (1 + static_cast<double>(rows) * most(name)) * std::exp(3 * std::max(0.0, most(scope + "logs")));
      } else if (ends_with(name, ".v")) {
        // Columns have the norm `magnitude`, or 1. Squares of tiny or huge columns are out of float32's
        // range.
        for (int64_t c = 0; c < columns; ++c) {
          double squares = 0;
          for (int64_t r = 0; r < rows; ++r) squares += std::pow(double(values(name)[r * columns + c]), 2);
          if (!(squares > 1e-20)) return HUGE_VAL;
        }
        size *= 1 + static_cast<double>(rows) * std::max(1.0, most(scope + "magnitude"));
      } else if (ends_with(name, ".bias") || ends_with(name, ".beta")) {
        size *= 1 + most(name);
      } else if (ends_with(name, ".var")) {
        const double least = *std::min_element(values(name).begin(), values(name).end());
        size *= std::max(1.0, 1 / std::sqrt(least + 1e-4)) * (1 + most(scope + "mean"));
      }
    }
    return size;
  }

  void within_bounds(const std::vector<T>& v, bool forward, Sensitivity& s) const {
    s.finite_only = !forward;  // far out, x is nearly at a bound
    for (size_t i = 0; i < v.size(); ++i) {
      const Bounds& b = case_.bounds[i % case_.bounds.size()];
      const bool above = std::isfinite(b.low), below = std::isfinite(b.high);
      const double x = static_cast<double>(v[i]);
      if (!forward) {
        s.log_scale = std::max(s.log_scale, above || below ? std::abs(x) : 0);
        continue;
      }
      s.inside = s.inside && x > b.low && x < b.high;
      double slope = above && below ? std::log(b.high - b.low) : 0;
      if (above) slope -= std::log(x - b.low);
      if (below) slope -= std::log(b.high - x);
      s.log_scale = std::max(s.log_scale, std::abs(slope));
      for (const double end : {b.low, b.high})
        s.shift = std::max(s.shift, std::isfinite(end) ? std::abs(end) : 0);
    }
  }

  void channels(Sensitivity& s) const {
    const auto log_scales = [&](const char* name, auto f) {
      for (const T value : values(name)) s.log_scale = std::max(s.log_scale, std::abs(f(double(value))));
    };
    const bool actnorm = values("probe.bias").size > 0;
    log_scales("probe.logs", [&](double v) { return (actnorm ? 3 : 1) * v; });
    log_scales("probe.std", [](double v) { return std::log(v); });
    log_scales("probe.var", [](double v) { return 0.5 * std::log(v + 1e-4); });
    s.shift = std::max(most("probe.bias"), most("probe.mean"));
    if (starts_with(case_.name, "rescale")) s.log_scale = 1.1, s.shift = 1.5;
  }

  /// Adds a value's log-slope under the law, and its shift in units of x.
  void add_value_sensitivity(double value, bool forward, const std::vector<double>& numbers,
                             const std::vector<double>& shared, Sensitivity& s) const {
    std::visit(
        [&](const auto& law) {
          const ops::ReadNumbers<double> p{numbers.data(), 1, shared.data()};
          const auto at = forward ? law.at_input(value, p) : law.at_output(value, p);
          s.log_scale = std::max(s.log_scale, std::abs(at.log));
          s.shift = std::max(s.shift, std::abs(at.y / at.slope - at.x));
          if constexpr (std::is_same_v<std::decay_t<decltype(law)>, laws::Spline>) {
            s.shift = std::max(s.shift, law.high * std::max(1.0, 1 / at.slope));  // knots are rounded
            // A rounding that the steepest part of the bin stretches may be pulled back by the flattest one.
            if (at.inside > 0) {
              const double rise = at.height / at.width, middle = 4 * rise * rise / (at.d0 + at.d1 + 2 * rise);
              const auto [flattest, steepest] = std::minmax({at.d0, at.d1, rise, middle, at.slope});
              s.condition = std::max(s.condition, steepest / flattest);
            }
          }
        },
        case_.law);
  }

  void elementwise(const std::vector<T>& v, bool forward, Sensitivity& s) const {
    const Values<T> all = values("probe.numbers");
    std::vector<double> shared;
    for (const SharedNumber& number : shared_numbers_of(case_.law)) shared.push_back(number.start);
    for (size_t i = 0; i < v.size(); ++i) {
      std::vector<double> numbers;
      for (int64_t at = static_cast<int64_t>(i) % in_.c; at < all.size; at += in_.c)
        numbers.push_back(static_cast<double>(all[at]));
      add_value_sensitivity(static_cast<double>(v[i]), forward, numbers, shared, s);
    }
  }

  bool changes(int64_t pixel, int64_t channel) const {
    const MaskSizes sizes = mask_sizes(case_.mask, in_.c);
    switch (case_.mask) {
      case Mask::second_half:
        return channel >= sizes.pass;
      case Mask::first_half:
        return channel < sizes.change;
      case Mask::odd:
        return channel % 2 == 1;
      case Mask::even:
        return channel % 2 == 0;
      default:
        return (pixel / in_.w + pixel % in_.w) % 2 == (case_.mask == Mask::checkerboard0 ? 0 : 1);
    }
  }

  void coupling(const std::vector<T>& v, bool forward, Sensitivity& s) {
    // The net reads the part that passes, which is the same in data and latents.
    const Shape shape = in_.with_batch(1);
    const MaskSizes sizes = mask_sizes(case_.mask, in_.c);
    const bool board = is_checkerboard(case_.mask);  // where every channel passes and changes
    std::vector<T> seen;
    for (int64_t i = 0; i < shape.size(); ++i) {
      const bool passes = !changes(i / in_.c, i % in_.c);
      if (passes || board) seen.push_back(passes ? v[static_cast<size_t>(i)] : T(0));
    }
    const int64_t out = case_.net->out_channels(), each = numbers_of(case_.law), change = out / each;
    std::vector<T> h(static_cast<size_t>(shape.pixels() * out));
    const ParamArena<T>& arena = *arena_;
    case_.net->forward(ctx_, arena.params(), View<const T>(seen.data(), shape.with_channels(sizes.pass)),
                       View<T>(h.data(), shape.with_channels(out)), nullptr);
    std::vector<double> shared, numbers;
    for (const SharedNumber& number : shared_numbers_of(case_.law))
      shared.push_back(tensor(*arena_, std::string("probe.") + number.name)[0]);
    for (int64_t p = 0; p < shape.pixels(); ++p) {
      const T* row = h.data() + p * out;
      for (int64_t c = 0, k = 0; c < in_.c; ++c) {
        if (changes(p, c)) {
          numbers.clear();
          for (int64_t i = 0; i < each; ++i)
            numbers.push_back(case_.interleaved ? row[k * each + i] : row[i * change + k]);
          add_value_sensitivity(v[static_cast<size_t>(p * in_.c + c)], forward, numbers, shared, s);
        }
        k += changes(p, c) || board;
      }
    }
  }

  /// The factors of a 1x1 convolution, W[i, :] = (lower upper)[permutation[i], :].
  linalg::Lu factors() const {
    const int64_t n = in_.c;
    const Values<T> weight = values("probe.weight"), lower = values("probe.lower"),
                    upper = values("probe.upper"), sign = values("probe.sign"), logs = values("probe.logs");
    if (weight.size) return linalg::lu(linalg::Matrix(weight.begin(), weight.end()), n);
    linalg::Lu f{linalg::Matrix(n * n), linalg::Matrix(n * n), {}};
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < i; ++j) f.lower[i * n + j] = lower[i * n + j];
      for (int64_t j = i + 1; j < n; ++j) f.upper[i * n + j] = upper[i * n + j];
      f.lower[i * n + i] = 1;
      f.upper[i * n + i] = sign[i] * std::exp(static_cast<double>(logs[i]));
      f.permutation.push_back(static_cast<int>(values("probe.permutation")[i]));
    }
    return f;
  }

  /// By the largest column sums of magnitudes of W and of its inverse (z = x W).
  void matrix(Sensitivity& s) const {
    const int64_t n = in_.c;
    const auto largest_sum = [&](const linalg::Matrix& m) {
      double worst = 0;
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += std::abs(m[i * n + j]);
        worst = larger(worst, sum);
      }
      return worst;
    };
    linalg::Matrix w(n * n), inverse(n * n);
    if (case_.kind == Kind::whiten) {
      std::copy_n(values("probe.matrix").begin(), n * n, w.begin());
      std::copy_n(values("probe.inverse").begin(), n * n, inverse.begin());
      s.shift = most("probe.mean");
    } else {
      const linalg::Lu f = factors();
      const linalg::Matrix product = linalg::multiply(f.lower, f.upper, n),
                           back = linalg::multiply(linalg::invert_upper(f.upper, n),
                                                   linalg::invert_lower(f.lower, n), n);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          w[i * n + j] = product[f.permutation[i] * n + j];
          inverse[j * n + i] = back[j * n + f.permutation[i]];
        }
      }
      s.log_scale = most("probe.logs");
    }
    const double a = largest_sum(w), b = largest_sum(inverse);
    s.condition = a * b;
    s.stretch = std::max(a, b);
    s.inside = a <= kMostMatrix && b <= kMostMatrix;
  }

  void top(Sensitivity& s) const {
    s.log_scale =
        (9 * most("probe.weight") + most("probe.bias")) * std::exp(3 * most("probe.logs")) +
        (most("probe.class_weight") + most("probe.class_bias")) * std::exp(3 * most("probe.class_logs"));
    s.shift = s.log_scale;
    s.inside = 3 * std::max(most("probe.logs"), most("probe.class_logs")) <= kMostLogScale;
  }

  /// The bound on |rebuilt - given|: a number of roundings of the largest intermediate value.
  double bound(const Sensitivity& s, const std::vector<T>& from, bool forward) const {
    double size = 0;
    for (const T v : from) size = std::max(size, std::abs(static_cast<double>(v)));
    // A latent's rounding is that of its data, on the latent's scale. The shift may dominate it.
    const double scale = std::exp(s.log_scale);
    const double shift = forward ? s.shift : s.shift * scale;
    return kRoundTrip * eps() * s.condition * (size + shift) +
           10 * std::numeric_limits<T>::denorm_min() * std::max(scale, s.stretch);
  }

  void check_error(const NumericError& error, bool inside) {
    ++errors_;
    const std::string text = error.what();
    const bool named = text.find("probe") != std::string::npos ||
                       text.find("base distribution") != std::string::npos ||
                       (bounded() && text.find(" for column ") != std::string::npos);
    if (!named) FAIL_CHECK(case_.name, ": ", text);
    if (inside) FAIL_CHECK(case_.name, ": within the contract, but ", text);
  }

  void check_round_trip(const Sensitivity& s, const std::vector<T>& given, const std::vector<T>& rebuilt,
                        bool forward) {
    if (!s.inside || s.finite_only) return;
    const double limit = bound(s, given, forward);
    double worst_error = 0;
    for (size_t i = 0; i < size_; ++i) {
      worst_error =
          larger(worst_error, std::abs(static_cast<double>(rebuilt[i]) - static_cast<double>(given[i])));
    }
    if (!(worst_error <= limit))
      FAIL_CHECK(case_.name, forward ? ": x off by " : ": z off by ", worst_error, ", bound ", limit);
  }

  void check_finite(const std::vector<T>& v, double logdet) {
    bool finite = std::isfinite(logdet);
    for (const T value : v) finite = finite && std::isfinite(value);
    if (!finite) FAIL_CHECK(case_.name, ": a value that is not finite was returned");
  }

  void to_latent(const std::vector<T>& x, std::vector<T>& z) {
    double logdet = 0;
    flow_.forward(ctx_, *arena_, View<const T>(x.data(), in_.with_batch(1)), label(), z.data(), &logdet);
    check_finite(z, logdet);
  }
  void to_data(const std::vector<T>& z, std::vector<T>& x) {
    double logdet = 0;
    flow_.inverse(ctx_, *arena_, z.data(), 1, label(), View<T>(x.data(), in_.with_batch(1)), &logdet);
    check_finite(x, logdet);
  }

  void data_to_latent(const Sensitivity& s) {
    try {
      to_latent(x_, z_);
      to_data(z_, back_);
    } catch (const NumericError& error) {
      return check_error(error, s.inside);
    }
    check_round_trip(s, x_, back_, true);
  }

  void latent_to_data(const Sensitivity& s) {
    const std::vector<T> given = z_;
    try {
      to_data(given, back_);
      if (!s.inside || s.finite_only) return;
      to_latent(back_, z_);
    } catch (const NumericError& error) {
      return check_error(error, s.inside);
    }
    check_round_trip(s, given, z_, false);
  }

  /// Checks gradients of the log-likelihood. They need latents whose squares are in range, and an x that the
  /// drift guard accepts.
  void gradients(Sensitivity s) {
    double largest = 1;
    for (const T v : x_) largest = std::max(largest, std::abs(static_cast<double>(v)));
    const double latent = (largest + s.shift) * std::exp(s.log_scale) * s.condition;
    // With batch norm, a training step has the scales of its own batch.
    const bool batch_norm = flow_.layout()->stats_size() > 0;
    s.inside = s.inside && !batch_norm && latent <= kMostLatent && bound(s, x_, true) <= kMostDrift * largest;
    zero_grad(ctx_, *arena_);
    std::vector<T> rows = x_;
    if (batch_norm) std::transform(x_.begin(), x_.end(), std::back_inserter(rows), std::negate<T>());
    try {
      const StepResult step =
          flow_.loss_and_grad(ctx_, *arena_, View<const T>(rows.data(), in_.with_batch(batch_norm ? 2 : 1)),
                              label(), rng_.below(2) ? 0 : -1);
      if (!std::isfinite(step.loss)) FAIL_CHECK(case_.name, ": a loss that is not finite was returned");
    } catch (const NumericError& error) {
      return check_error(error, s.inside);
    }
    const ParamArena<T>& result = *arena_;
    const int64_t count = flow_.layout()->trainable_size();
    const bool finite =
        std::all_of(result.grads(), result.grads() + count, [](T g) { return std::isfinite(g); });
    if (!finite) FAIL_CHECK(case_.name, ": a gradient that is not finite was returned");
  }

  Case<T> case_;
  Flow<T> flow_;
  Shape in_;
  Rng rng_;
  Context ctx_;
  std::unique_ptr<ParamArena<T>> start_, arena_;
  size_t size_ = 0;
  std::vector<T> x_, z_, back_;
  int32_t label_ = 0;
  int64_t inside_ = 0, errors_ = 0;
};

template <class T>
class Cases {
 public:
  std::vector<Case<T>> all() {
    for (const Shape& shape : {Shape{0, 1, 1, 3}, Shape{0, 2, 2, 2}}) channel_layers(shape);
    movements();
    for (const Shape& shape : {Shape{0, 1, 1, 1}, Shape{0, 1, 1, 4}, Shape{0, 2, 1, 3}}) {
      add("lu_conv1x1", Kind::matrix, lu_conv1x1<T>(shape));
      add("plain_conv1x1", Kind::matrix, plain_conv1x1<T>(shape));
    }
    for (Whitening kind : {Whitening::zca, Whitening::covariance})
      add("whiten", Kind::whiten, whiten<T>({0, 1, 1, 3}, kind));
    for (bool learned : {false, true}) {
      for (int64_t classes : {0, 3}) {
        if (learned || classes)
          add("top_prior", Kind::top, top_prior<T>({0, 2, 2, 2}, learned, classes)).classes = classes;
      }
    }
    couplings();
    return std::move(cases_);
  }

 private:
  Case<T>& add(const std::string& name, Kind kind, std::unique_ptr<Layer<T>> layer) {
    Case<T> c;
    c.name = name + " " + to_string(layer->input_shape());
    c.kind = kind;
    c.layer = std::move(layer);
    cases_.push_back(std::move(c));
    return cases_.back();
  }

  void channel_layers(const Shape& shape) {
    add("actnorm", Kind::channels, actnorm<T>(shape));
    add("scaling", Kind::channels, scaling<T>(shape));
    add("standardize", Kind::channels, standardize<T>(shape));
    add("rescale", Kind::channels, rescale<T>(shape, 1.5, 3));
    add("logit", Kind::logit, logit<T>(shape));
    std::vector<Bounds> bounds(static_cast<size_t>(shape.c));
    for (size_t c = 0; c < bounds.size(); ++c) {
      if (c < 2) bounds[c].low = 0;
      if (c % 2 == 0) bounds[c].high = c < 2 ? 1 : 2.5;
    }
    add("unbound", Kind::bounds, unbound<T>(shape, bounds)).bounds = bounds;
    add("unit_box", Kind::box, unit_box<T>(shape));
    for (const Mask mask : kMasks) {
      add("batch_norm", Kind::channels, batch_norm<T>(shape, mask));
    }
  }

  void movements() {
    for (Order order : {Order::reverse, Order::shuffle, Order::even_first}) {
      add("permutation", Kind::movement, permutation<T>({0, 2, 1, 5}, order));
    }
    for (SqueezeOrder order : {SqueezeOrder::raster, SqueezeOrder::diagonal}) {
      add("squeeze", Kind::movement, squeeze<T>({0, 2, 4, 1}, order));
      add("unsqueeze", Kind::movement, unsqueeze<T>({0, 1, 2, 4}, order));
    }
    add("flatten", Kind::movement, flatten<T>({0, 2, 2, 2}));
  }

  void couplings() {
    for (const LawOptions& law : every_law()) {
      add("elementwise " + law.name, Kind::elementwise, elementwise<T>({0, 1, 1, 2}, {0, 1}, law)).law =
          law_of(law);
    }
    for (const Mask mask : kMasks) {
      for (const LawOptions& law : every_law()) {
        for (auto& [name, net] : nets_of(mask, static_cast<int>(numbers_of_law(law)))) {
          const Conditioner<T>* raw = net.get();
          const bool interleaved = law.name.size() % 2 == 0;
          Case<T>& c =
              add("law " + law.name + " " + name + " mask " + std::to_string(static_cast<int>(mask)),
                  Kind::coupling, coupling<T>(shape_of(mask), mask, std::move(net), {law, interleaved, {}}));
          c.mask = mask;
          c.net = raw;
          c.law = law_of(law);
          c.interleaved = interleaved;
        }
      }
    }
  }

  static Shape shape_of(Mask mask) { return is_checkerboard(mask) ? Shape{0, 2, 2, 2} : Shape{0, 1, 2, 3}; }

  std::vector<std::pair<std::string, std::unique_ptr<Conditioner<T>>>> nets_of(Mask mask, int parts) {
    const Shape shape = shape_of(mask);
    const MaskSizes sizes = mask_sizes(mask, shape.c);
    const Shape pass = shape.with_channels(sizes.pass);
    const int64_t out = sizes.change * parts;
    std::vector<std::pair<std::string, std::unique_ptr<Conditioner<T>>>> nets;
    nets.emplace_back("mlp", mlp<T>(pass, out, {5, 4}, MlpInit::uniform_zero));
    nets.emplace_back("linear", mlp<T>(pass, out, {}, MlpInit::nice));
    nets.emplace_back("glow_net", glow_net<T>(pass, out, 4));
    nets.emplace_back("zero_conv", zero_conv<T>(pass, out));
    if (std::is_same<T, float>::value) {
      nets.emplace_back("mlp bfloat16", mlp<T>(pass, out, {5}, MlpInit::uniform_zero, NetDtype::bfloat16));
      nets.emplace_back("glow_net bfloat16", glow_net<T>(pass, out, 4, NetDtype::bfloat16));
    }
    for (const Activation activation : kActivations) {
      const std::string of = " " + std::to_string(static_cast<int>(activation));
      const NetDtype dtype = std::is_same<T, float>::value && activation == Activation::elu
                                 ? NetDtype::bfloat16
                                 : NetDtype::same;
      nets.emplace_back("mlp" + of, mlp<T>(pass, out, {3}, MlpInit::uniform_zero, dtype, activation));
      nets.emplace_back("residual_net" + of, residual_net<T>(pass, out, {3, 1, 1, activation, dtype}));
    }
    for (int bits = 0; bits < 4; ++bits) {
      ResNetConfig config;
      config.width = 2;
      config.blocks = bits & 1;
      config.bottleneck = bits & 2;
      config.skip = bits & 1;
      config.batch_norm = bits & 2;
      config.weight_norm = bits != 1;
      config.checkerboard = mask == Mask::checkerboard0 ? 1 : mask == Mask::checkerboard1 ? 0 : -1;
      nets.emplace_back("res_net " + std::to_string(bits), res_net<T>(pass, out, config));
    }
    return nets;
  }

  std::vector<Case<T>> cases_;
};

int64_t wanted_pairs() {
  const char* text = std::getenv("EVENFLOW_CONTRACT_PAIRS");
  return text ? std::atoll(text) : 80000;
}

template <class T>
void check_contract(int64_t pairs) {
  std::vector<Case<T>> cases = Cases<T>().all();
  const int64_t each = (pairs + static_cast<int64_t>(cases.size()) - 1) / static_cast<int64_t>(cases.size());
  int64_t done = 0, inside = 0, errors = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const std::string name = cases[i].name;
    Contract<T> contract(std::move(cases[i]), 100 + i);
    for (int64_t k = 0; k < each; ++k) contract.pair();
    // The promise is tried in each case, not only where nothing is promised.
    CHECK_MESSAGE(contract.inside() * 20 >= each, name, ": only ", contract.inside(), " pairs of ", each,
                  " within the contract");
    done += each;
    inside += contract.inside();
    errors += contract.errors();
  }
  MESSAGE(done, " pairs, ", inside, " within the contract, ", errors, " errors");
  CHECK(errors > 0);
}

TEST_CASE("an error names the layer, the channel and the sample, or the parameter") {
  // A scaling, then an ActNorm, of two channels.
  Flow<float> flow({0, 1, 1, 2}, Base::gaussian);
  flow.add("first", scaling<float>({0, 1, 1, 2}));
  flow.add("second", actnorm<float>({0, 1, 1, 2}));
  flow.finalize();
  ParamArena<float> arena(flow.layout());
  tensor(arena, "initialized").fill(1);
  Context ctx("cpu", 1);
  const Shape shape{2, 1, 1, 2};
  std::vector<float> out(4);
  double det[2] = {0, 0};
  const auto forward = [&](const std::vector<float>& x) {
    flow.forward(ctx, arena, View<const float>(x.data(), shape), nullptr, out.data(), det);
  };
  const auto log_prob = [&](const std::vector<float>& x) {
    flow.log_prob(ctx, arena, View<const float>(x.data(), shape), nullptr, det);
  };
  const auto inverse = [&](const std::vector<float>& z) {
    flow.inverse(ctx, arena, z.data(), 2, nullptr, View<float>(out.data(), shape), det);
  };
  const auto sample = [&](const std::vector<float>&) {
    flow.sample(ctx, arena, 0, 1, 0, nullptr, View<float>(out.data(), shape));
  };
  const auto loss = [&](const std::vector<float>& x) {
    flow.loss_and_grad(ctx, arena, View<const float>(x.data(), shape), nullptr, 0, 2);
  };
  const auto refused = [&](const auto& call, const std::vector<float>& x, float first, float second,
                           const std::string& text) {
    tensor(arena, "first.logs").fill(first);
    tensor(arena, "second.logs").fill(second);
    CHECK_THROWS_WITH_AS(call(x), doctest::Contains(text.c_str()), NumericError);
  };
  const std::vector<float> large = {1, 2, 3, 3e38F}, latent = {1, 2, 3.3e38F, 3};
  refused(forward, large, 0, 0.5F,
          "[forward] expected finite values, got inf from layer second, channel 1, for sample 1");
  refused(log_prob, large, 0, 0.5F,
          "[log_prob] expected finite values, got inf from layer second, channel 1, for sample 1");
  CHECK_NOTHROW(inverse(large));
  refused(inverse, latent, -0.1F, 0, "got inf from layer first, channel 0, for sample 1");
  refused(inverse, latent, 0, -0.1F, "got inf from layer second, channel 0, for sample 1");  // inverted first
  {
    const RowsScope counted(ctx, 40);
    refused(log_prob, {1, 2, 3, 4}, -HUGE_VALF, 0,
            "got log-determinant -inf from layer first, for sample 40");
  }
  refused(sample, {}, -200, 0,
          "[sample] expected finite samples, got -inf from layer first, channel 0, for sample 0; try a lower "
          "temperature");
  ctx.set_first_row(100);
  refused(log_prob, {0, 0, 0, 1e20F}, 0, 0, "latents too large for the base distribution, for sample 101");
  // A log-likelihood in range, the derivative by log scales out of it; gradients stay what they were.
  arena.grads()[0] = 7;
  refused(loss, {0, 0, 0, 1.8e19F}, 0, 0,
          "[loss_and_grad] expected finite gradients, got inf for second.logs, value 1");
  CHECK(arena.grads()[0] == 7);
}

TEST_CASE("the contract, on random parameters and inputs of every layer: float32") {
  check_contract<float>(wanted_pairs() / 4 * 3);
}

TEST_CASE("the contract, on random parameters and inputs of every layer: float64") {
  check_contract<double>(wanted_pairs() / 4);
}

}  // namespace
}  // namespace evenflow::test
