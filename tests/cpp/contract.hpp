#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <iterator>
#include <limits>

#include "check_layer.hpp"
#include "core/linalg.hpp"
#include "kernels/coupling/apply.hpp"
#include "laws.hpp"

// Checks the promises of docs/contract.md on random pairs of parameters and inputs of one layer.

namespace evenflow::test {

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
  double unit = 1;  ///< factor for the rounding of the net's arithmetic
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

template <class T>
const T* find(const ParamArena<T>& arena, const std::string& name, int64_t* size) {
  for (const ParamLayout::Entry& entry : arena.layout().entries()) {
    if (entry.name != name) continue;
    *size = entry.size;
    return arena.values() + entry.offset;
  }
  *size = 0;
  return nullptr;
}

/// The largest magnitude in a tensor; 0 if there is no such tensor.
template <class T>
double most(const ParamArena<T>& arena, const std::string& name) {
  int64_t size = 0;
  const T* values = find(arena, name, &size);
  double m = 0;
  for (int64_t i = 0; i < size; ++i) m = std::max(m, std::abs(static_cast<double>(values[i])));
  return m;
}

inline bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// The size of a net: max(1, |input|), times (1 + fan-in x largest weight) x its output scale and
/// (1 + largest bias) for every unit.
template <class T>
double net_size(const ParamArena<T>& arena, double input) {
  double size = std::max(1.0, input);
  for (const ParamLayout::Entry& entry : arena.layout().entries()) {
    const std::string& name = entry.name;
    const std::string scope = name.substr(0, name.rfind('.') + 1);
    const double rows = entry.shape.empty() ? 1 : static_cast<double>(entry.size / entry.shape.back());
    if (ends_with(name, ".weight")) {
      size *= (1 + rows * most(arena, name)) * std::exp(3 * std::max(0.0, most(arena, scope + "logs")));
    } else if (ends_with(name, ".v")) {
      // Columns have the norm `magnitude`, or 1. Squares of tiny or huge columns are out of float32's range.
      const T* v = arena.values() + entry.offset;
      const int64_t columns = entry.shape.back();
      for (int64_t c = 0; c < columns; ++c) {
        double squares = 0;
        for (int64_t r = 0; r < entry.size / columns; ++r) squares += std::pow(double(v[r * columns + c]), 2);
        if (!(squares > 1e-20)) return HUGE_VAL;
      }
      const double magnitude = most(arena, scope + "magnitude");
      size *= 1 + rows * std::max(1.0, magnitude);
    } else if (ends_with(name, ".bias") || ends_with(name, ".beta")) {
      size *= 1 + most(arena, name);
    } else if (ends_with(name, ".var")) {
      const T* var = arena.values() + entry.offset;
      const double least = *std::min_element(var, var + entry.size);
      size *= std::max(1.0, 1 / std::sqrt(least + 1e-4)) * (1 + most(arena, scope + "mean"));
    }
  }
  return size;
}

inline double row_sums(const linalg::Matrix& m, int64_t n) {
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < n; ++j) sum += std::abs(m[static_cast<size_t>(i * n + j)]);
    worst = larger(worst, sum);
  }
  return worst;
}

/// Largest column sums of magnitudes of W and of its inverse (z = x W).
inline void set_matrix_sensitivity(const linalg::Matrix& w, const linalg::Matrix& inverse, int64_t n,
                                   Sensitivity& sensitivity) {
  const double a = row_sums(linalg::transpose(w, n), n), b = row_sums(linalg::transpose(inverse, n), n);
  sensitivity.condition = a * b;
  sensitivity.stretch = std::max(a, b);
  sensitivity.inside = a <= kMostMatrix && b <= kMostMatrix;
}

inline linalg::Matrix inverse_of(const linalg::Matrix& w, int64_t n) {
  const linalg::Lu f = linalg::lu(w, n);
  const linalg::Matrix product =
      linalg::multiply(linalg::invert_upper(f.upper, n), linalg::invert_lower(f.lower, n), n);
  linalg::Matrix out(product.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      out[static_cast<size_t>(j * n + i)] =
          product[static_cast<size_t>(j * n + f.permutation[static_cast<size_t>(i)])];
    }
  }
  return out;
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
    draw(x_, case_.kind == Kind::logit || case_.kind == Kind::bounds || case_.kind == Kind::box);
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

  const int32_t* label() const { return case_.classes ? &label_ : nullptr; }

  double draw_value() {
    static const double edges[] = {0,
                                   -0.0,
                                   1,
                                   -1,
                                   1e6,
                                   -1e6,
                                   0.5,
                                   std::numeric_limits<T>::denorm_min(),
                                   -std::numeric_limits<T>::denorm_min(),
                                   std::numeric_limits<T>::min(),
                                   1e-6};
    switch (rng_.below(4)) {
      case 0:
        return edges[rng_.below(sizeof edges / sizeof *edges)];
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
    const std::string chosen =
        rng_.below(2) ? flow_.layout()
                            ->entry(static_cast<ParamId>(
                                rng_.below(static_cast<int64_t>(flow_.layout()->entries().size()))))
                            .name
                      : "";
    for (const ParamLayout::Entry& entry : flow_.layout()->entries()) {
      const bool kept = ends_with(entry.name, "permutation") || ends_with(entry.name, "sign") ||
                        ends_with(entry.name, "initialized") || case_.kind == Kind::whiten;
      if (kept) continue;
      const bool positive = ends_with(entry.name, "var") || ends_with(entry.name, "std");
      for (int64_t i = 0; i < entry.size; ++i) {
        T& value = arena_->values()[entry.offset + i];
        // Half of the wild draws change only one tensor, so that the others do not hide its effect.
        if (wild) {
          if (chosen.empty() || chosen == entry.name) value = static_cast<T>(draw_value());
        } else {
          value = static_cast<T>(value + noise * rng_.normal());
        }
        if (positive) value = std::abs(value);
      }
    }
  }

  Sensitivity sensitivity(const std::vector<T>& v, bool forward) {
    Sensitivity s;
    double input = 0;
    for (const T value : v) input = std::max(input, std::abs(static_cast<double>(value)));
    if (!(input <= kMostValue)) return s;
    switch (case_.kind) {
      case Kind::movement:
        s.inside = true;
        return s;
      case Kind::channels:
        return channels();
      case Kind::logit:
        s.inside = !forward || std::all_of(v.begin(), v.end(), [](T u) { return u >= T(0) && u <= T(1); });
        s.finite_only = !forward;  // far out, x hardly depends on z
        s.log_scale = 5;
        s.shift = 1;
        return s;
      case Kind::bounds:
        return within_bounds(v, forward);
      case Kind::box:
        s.inside = std::all_of(v.begin(), v.end(), [](T u) { return u >= T(0) && u <= T(1); });
        return s;
      case Kind::coupling:
        return coupling(v, input, forward);
      case Kind::elementwise:
        return elementwise(v, forward);
      case Kind::matrix:
      case Kind::whiten:
        return matrix();
      case Kind::top:
        return top();
    }
    return s;
  }

  Sensitivity within_bounds(const std::vector<T>& v, bool forward) const {
    Sensitivity s;
    s.inside = true;
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
    s.inside = s.inside && s.log_scale <= kMostLogScale;
    return s;
  }

  Sensitivity channels() const {
    Sensitivity s;
    int64_t size = 0;
    const auto log_scales = [&](const char* name, auto f) {
      const T* p = find(*arena_, name, &size);
      for (int64_t i = 0; i < size; ++i)
        s.log_scale = std::max(s.log_scale, std::abs(f(static_cast<double>(p[i]))));
    };
    const bool actnorm = find(*arena_, "probe.bias", &size) != nullptr;
    log_scales("probe.logs", [&](double v) { return (actnorm ? 3 : 1) * v; });
    log_scales("probe.std", [](double v) { return std::log(v); });
    log_scales("probe.var", [](double v) { return 0.5 * std::log(v + 1e-4); });
    s.shift = std::max(most(*arena_, "probe.bias"), most(*arena_, "probe.mean"));
    if (case_.name.find("rescale") == 0) s.log_scale = 1.1, s.shift = 1.5;
    s.inside = s.log_scale <= kMostLogScale;
    return s;
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

  Sensitivity elementwise(const std::vector<T>& v, bool forward) const {
    Sensitivity s;
    int64_t size = 0;
    const T* all = find(*arena_, "probe.numbers", &size);
    std::vector<double> shared;
    for (const SharedNumber& number : shared_numbers_of(case_.law)) shared.push_back(number.start);
    for (size_t i = 0; i < v.size(); ++i) {
      std::vector<double> numbers;
      for (int64_t at = static_cast<int64_t>(i) % in_.c; at < size; at += in_.c)
        numbers.push_back(static_cast<double>(all[at]));
      add_value_sensitivity(static_cast<double>(v[i]), forward, numbers, shared, s);
    }
    s.inside = s.log_scale <= kMostLogScale && s.shift <= kMostNet;
    return s;
  }

  Sensitivity coupling(const std::vector<T>& v, double input, bool forward) {
    Sensitivity s;
    if (!(net_size(*arena_, input) <= kMostNet)) return s;
    // The net reads the part that passes, which is the same in data and latents.
    const Shape shape = in_.with_batch(1);
    const MaskSizes sizes = mask_sizes(case_.mask, in_.c);
    std::vector<T> seen;
    for (int64_t p = 0; p < shape.pixels(); ++p) {
      for (int64_t c = 0; c < in_.c; ++c) {
        const T value = v[static_cast<size_t>(p * in_.c + c)];
        const int64_t colour = (p / in_.w + p % in_.w) % 2;
        const bool second = c >= sizes.pass;
        switch (case_.mask) {
          case Mask::second_half:
            if (!second) seen.push_back(value);
            break;
          case Mask::first_half:
            if (c >= sizes.change) seen.push_back(value);
            break;
          case Mask::odd:
            if (c % 2 == 0) seen.push_back(value);
            break;
          case Mask::even:
            if (c % 2 == 1) seen.push_back(value);
            break;
          case Mask::checkerboard0:
            seen.push_back(colour == 1 ? value : T(0));
            break;
          case Mask::checkerboard1:
            seen.push_back(colour == 0 ? value : T(0));
            break;
        }
      }
    }
    const int64_t out = case_.net->out_channels(), change = out / numbers_of(case_.law);
    std::vector<T> h(static_cast<size_t>(shape.pixels() * out));
    const ParamArena<T>& values = *arena_;
    case_.net->forward(ctx_, values.params(), View<const T>(seen.data(), shape.with_channels(sizes.pass)),
                       View<T>(h.data(), shape.with_channels(out)), nullptr);
    std::vector<double> shared, numbers;
    for (const SharedNumber& number : shared_numbers_of(case_.law)) {
      int64_t size = 0;
      shared.push_back(*find(*arena_, std::string("probe.") + number.name, &size));
    }
    for (int64_t p = 0; p < shape.pixels(); ++p) {
      for (int64_t k = 0; k < change; ++k) {
        const T* row = h.data() + p * out;
        numbers.clear();
        for (int64_t i = 0; i < out / change; ++i) {
          numbers.push_back(case_.interleaved ? row[k * (out / change) + i] : row[i * change + k]);
        }
        const int64_t channel = case_.mask == Mask::second_half ? sizes.pass + k
                                : case_.mask == Mask::odd       ? 2 * k + 1
                                : case_.mask == Mask::even      ? 2 * k
                                                                : k;
        add_value_sensitivity(v[static_cast<size_t>(p * in_.c + channel)], forward, numbers, shared, s);
      }
    }
    s.inside = s.log_scale <= kMostLogScale && s.shift <= kMostNet;
    return s;
  }

  Sensitivity matrix() const {
    Sensitivity s;
    const int64_t n = in_.c;
    int64_t size = 0;
    linalg::Matrix w(static_cast<size_t>(n * n)), inverse;
    if (case_.kind == Kind::whiten) {
      const T *m = find(*arena_, "probe.matrix", &size), *v = find(*arena_, "probe.inverse", &size);
      w.assign(m, m + n * n);
      inverse.assign(v, v + n * n);
      s.shift = most(*arena_, "probe.mean");
    } else if (const T* weight = find(*arena_, "probe.weight", &size)) {
      w.assign(weight, weight + n * n);
      inverse = inverse_of(w, n);
    } else {
      const T *lower = find(*arena_, "probe.lower", &size), *upper = find(*arena_, "probe.upper", &size),
              *sign = find(*arena_, "probe.sign", &size), *logs = find(*arena_, "probe.logs", &size),
              *order = find(*arena_, "probe.permutation", &size);
      linalg::Matrix l(w.size(), 0.0), u(w.size(), 0.0);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < i; ++j) l[static_cast<size_t>(i * n + j)] = lower[i * n + j];
        for (int64_t j = i + 1; j < n; ++j) u[static_cast<size_t>(i * n + j)] = upper[i * n + j];
        l[static_cast<size_t>(i * n + i)] = 1;
        u[static_cast<size_t>(i * n + i)] = sign[i] * std::exp(static_cast<double>(logs[i]));
        s.log_scale = std::max(s.log_scale, std::abs(static_cast<double>(logs[i])));
      }
      const linalg::Matrix product = linalg::multiply(l, u, n);
      for (int64_t i = 0; i < n; ++i) {
        std::copy_n(product.begin() + static_cast<int64_t>(order[i]) * n, n, w.begin() + i * n);
      }
      const linalg::Matrix back = linalg::multiply(linalg::invert_upper(u, n), linalg::invert_lower(l, n), n);
      inverse.resize(back.size());
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          inverse[static_cast<size_t>(j * n + i)] =
              back[static_cast<size_t>(j * n + static_cast<int64_t>(order[i]))];
        }
      }
    }
    set_matrix_sensitivity(w, inverse, n, s);
    s.inside = s.inside && s.log_scale <= kMostLogScale;
    return s;
  }

  Sensitivity top() const {
    Sensitivity s;
    s.log_scale = (9 * most(*arena_, "probe.weight") + most(*arena_, "probe.bias")) *
                      std::exp(3 * most(*arena_, "probe.logs")) +
                  (most(*arena_, "probe.class_weight") + most(*arena_, "probe.class_bias")) *
                      std::exp(3 * most(*arena_, "probe.class_logs"));
    s.shift = s.log_scale;
    const double logs = 3 * std::max(most(*arena_, "probe.logs"), most(*arena_, "probe.class_logs"));
    s.inside = s.log_scale <= kMostLogScale && logs <= kMostLogScale;
    return s;
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
                       ((case_.kind == Kind::bounds || case_.kind == Kind::box) &&
                        text.find(" for column ") != std::string::npos);
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

  void data_to_latent(const Sensitivity& s) {
    double logdet = 0, logdet_back = 0;
    try {
      flow_.forward(ctx_, *arena_, View<const T>(x_.data(), in_.with_batch(1)), label(), z_.data(), &logdet);
      check_finite(z_, logdet);
      flow_.inverse(ctx_, *arena_, z_.data(), 1, label(), View<T>(back_.data(), in_.with_batch(1)),
                    &logdet_back);
      check_finite(back_, logdet_back);
    } catch (const NumericError& error) {
      check_error(error, s.inside);
      return;
    }
    check_round_trip(s, x_, back_, true);
  }

  void latent_to_data(const Sensitivity& s) {
    double logdet = 0;
    std::vector<T> given = z_;
    try {
      flow_.inverse(ctx_, *arena_, given.data(), 1, label(), View<T>(back_.data(), in_.with_batch(1)),
                    &logdet);
      check_finite(back_, logdet);
      if (!s.inside || s.finite_only) return;
      flow_.forward(ctx_, *arena_, View<const T>(back_.data(), in_.with_batch(1)), label(), z_.data(),
                    &logdet);
      check_finite(z_, logdet);
    } catch (const NumericError& error) {
      check_error(error, s.inside);
      return;
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
      check_error(error, s.inside);
      return;
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

}  // namespace evenflow::test
