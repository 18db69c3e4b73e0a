#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "check_layer.hpp"
#include "kernels/coupling/apply.hpp"
#include "kernels/kernel_set.hpp"
#include "laws.hpp"

// Laws alone, in float64; test_layers.cpp has their inverses and gradients, test_contract.cpp the edges of
// what parameters and inputs may be, and tests/python/test_oracle.py their formulas.

namespace evenflow::test {
namespace {

/// Numbers of one value, and of what all share.
struct Numbers {
  std::vector<double> own, shared;

  Numbers(const Law& law, uint64_t seed, double size)
      : own(random_values(numbers_of(law), seed, -size, size)), shared{0.7, -0.3} {}
  ops::ReadNumbers<double> read() const { return {own.data(), 1, shared.data()}; }
};

/// A law's point, whichever law it is.
struct Value {
  double x, y, log, slope;
};

Value at_input(const Law& law, double x, const Numbers& p) {
  const auto of = [](const auto& at) { return Value{at.x, at.y, at.log, at.slope}; };
  return std::visit([&](const auto& l) { return of(l.at_input(x, p.read())); }, law);
}
Value at_output(const Law& law, double y, const Numbers& p) {
  const auto of = [](const auto& at) { return Value{at.x, at.y, at.log, at.slope}; };
  return std::visit([&](const auto& l) { return of(l.at_output(y, p.read())); }, law);
}

/// dx, and gradients by the law's numbers.
struct Gradients {
  double dx;
  std::vector<double> own, shared;
};

Gradients backward(const Law& law, double x, const Numbers& p, double dy, double dlog) {
  Gradients out{0, std::vector<double>(p.own.size()), {0, 0}};
  const ops::WriteNumbers<double> to{out.own.data(), 1, 1};
  out.dx = std::visit(
      [&](const auto& l) {
        return l.backward(l.at_input(x, p.read()), p.read(), dy, dlog, to, out.shared.data());
      },
      law);
  return out;
}

/// Knots of a spline with these numbers, along x.
std::vector<double> knots_of(const laws::Spline& spline, const Numbers& p) {
  double total = 0, before = 0;
  for (int k = 0; k < spline.bins; ++k) total += std::exp(p.own[static_cast<size_t>(k)]);
  std::vector<double> out{spline.low};
  for (int k = 0; k + 1 < spline.bins; ++k) {
    before += std::exp(p.own[static_cast<size_t>(k)]);
    out.push_back(spline.low +
                  (spline.high - spline.low) *
                      (spline.least * (k + 1) + (1 - spline.least * spline.bins) * before / total));
  }
  out.push_back(spline.high);
  return out;
}

/// Empty for a law without numbers that could be trained.
std::string name_of(const Law& law) {
  return std::visit(
      [](const auto& l) -> std::string {
        if constexpr (std::is_base_of_v<laws::FixedLaw, std::decay_t<decltype(l)>>) {
          return "";
        } else {
          return l.name;
        }
      },
      law);
}

TEST_CASE("laws: names are told apart, and what is not in the table is refused") {
  std::set<std::string> names;
  for (const std::string& name : law_names()) {
    CHECK(names.insert(name).second);
    CHECK(name_of(law_of({name, 8, 4, false})) == name);
  }
  for (const std::string& name : table_law_names()) CHECK(names.count(name) == 1);
  CHECK_THROWS_WITH_AS(law_of({"cubic", 8, 4, false}), doctest::Contains("there is no law 'cubic'"),
                       ConfigError);
  for (const int64_t bins : {0, 65}) CHECK_THROWS_AS(law_of({"spline", bins, 4, false}), ConfigError);
  for (const double bound : {0.0, HUGE_VAL})
    CHECK_THROWS_AS(law_of({"spline", 8, bound, false}), ConfigError);
  CHECK(numbers_of_law({"spline", 10, 4, false}) == 29);
  CHECK(numbers_of_law({"spline", 10, 4, true}) == 31);
  CHECK(numbers_of_law({"affine", 10, 4, true}) == 2);
}

TEST_CASE("laws: the largest scale of softplus") {
  const Law law = law_of({"softplus", 8, 4, false});
  Numbers p(law, 0, 1);
  p.own = {0.5, 4};  // softplus(4) > 3
  const Value at = at_input(law, 2.0, p);
  CHECK(at.y == doctest::Approx(6.5).epsilon(1e-12));
  CHECK(at.log == doctest::Approx(std::log(3.0)).epsilon(1e-12));
  CHECK(backward(law, 2.0, p, 0.3, 0.7).own == std::vector<double>{0.3, 0});
}

TEST_CASE("spline: at its knots, at the ends of its box and beyond") {
  for (const bool unit : {false, true}) {
    const Law law = law_of({"spline", 6, 3, unit});
    const laws::Spline& spline = std::get<laws::Spline>(law);
    for (uint64_t seed = 0; seed < 20; ++seed) {
      CAPTURE(unit);
      CAPTURE(seed);
      const Numbers p(law, seed, 5);
      for (const double knot : knots_of(spline, p)) {
        CAPTURE(knot);
        const Value at = at_input(law, knot, p);
        CHECK(std::abs(at_output(law, at.y, p).x - knot) <= 1e-10 * std::max(1.0, 1 / at.slope));
        for (const double side : {-1e-8, 1e-8}) {  // the slopes of both sides agree
          const double near = knot + side, bend = std::abs(backward(law, near, p, 0, 1).dx);
          if (near < spline.low || near > spline.high) continue;
          CHECK(std::abs(at_input(law, near, p).log - at.log) <= 2e-8 * std::max(1.0, bend));
        }
      }
      for (const double end : {spline.low, spline.high})
        CHECK(std::abs(at_input(law, end, p).y - end) < 1e-14);
      for (const double x : {spline.low - 1e-9, spline.low - 1, spline.high + 1e-9, 1e6, -1e300, HUGE_VAL}) {
        CAPTURE(x);
        const Value at = at_input(law, x, p);
        CHECK(at.y == x);
        CHECK(at.log == 0);
        CHECK(at_output(law, x, p).x == x);
        const Gradients g = backward(law, x, p, 0.5, 2);
        CHECK(g.dx == 0.5);
        for (const double d : g.own) CHECK(d == 0);
      }
      CHECK(std::isnan(at_input(law, std::nan(""), p).y));
    }
  }
}

/// Outside another formula holds, so that rounding must not lead there.
TEST_CASE("spline: what lies in the box stays in it, in float32") {
  Context ctx("cpu", 1);
  for (const bool unit : {false, true}) {
    const Law law = law_of({"spline", 5, 3, unit});
    const float low = unit ? 0 : -3, high = unit ? 1 : 3;
    const int64_t n = 4000, numbers = numbers_of(law);
    std::vector<float> x, h, y(n), back(n);
    for (const double v : random_values(n * numbers, 3, -6, 6)) h.push_back(static_cast<float>(v));
    for (int64_t i = 0; i < n; ++i) {
      const float end = i % 2 ? low : high;
      float near = end;
      for (int64_t k = 0; k < i % 9; ++k) near = std::nextafter(near, low + high - end);
      x.push_back(near);
    }
    const Shape shape{n, 1, 1, 1}, h_shape{n, 1, 1, numbers};
    const CouplingPlan plan{law, 1, false, -1};
    std::vector<double> det(n);
    const View<const float> read(h.data(), h_shape);
    ctx.kernels<float>().coupling.forward(ctx, plan, {}, {x.data(), shape}, read, {y.data(), shape},
                                          det.data());
    ctx.kernels<float>().coupling.inverse(ctx, plan, {}, {x.data(), shape}, read, {back.data(), shape},
                                          det.data());
    for (const std::vector<float>* out : {&y, &back})
      CHECK(std::all_of(out->begin(), out->end(), [&](float v) { return v >= low && v <= high; }));
  }
}

TEST_CASE("spline: bins as steep, as flat and as narrow as numbers make them") {
  const Law law = law_of({"spline", 8, 4, false});
  for (uint64_t seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    Numbers p(law, seed, seed % 2 ? 60 : 1e6);
    for (const double x : random_values(20, 1000 + seed, -4.2, 4.2)) {
      const Value at = at_input(law, x, p);
      const Gradients g = backward(law, x, p, 1, 1);
      CHECK(std::isfinite(at.y));
      CHECK(std::isfinite(at.log));
      CHECK(std::isfinite(g.dx));
      for (const double d : g.own) CHECK(std::isfinite(d));
      CHECK(std::abs(at_output(law, at.y, p).x - x) <= 1e-9 * std::max(1.0, 1 / at.slope));
    }
  }
}

}  // namespace
}  // namespace evenflow::test
