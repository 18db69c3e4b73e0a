#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "check_layer.hpp"
#include "embedded.hpp"
#include "plain_table.hpp"

// Columns within bounds: the layer, a model's setting, and what lies outside.

namespace evenflow::test {
namespace {

constexpr double kOpen = std::numeric_limits<double>::infinity();

/// Both ends, one, the other and none in turn, around the harness's inputs.
std::vector<Bounds> in_turn(int64_t columns) {
  const Bounds kinds[] = {{-2, 1.75}, {-1.625, kOpen}, {-kOpen, 2}, {}};
  std::vector<Bounds> bounds;
  for (int64_t c = 0; c < columns; ++c) bounds.push_back(kinds[c % 4]);
  return bounds;
}

TEST_CASE("columns within bounds: the layer") {
  // 70 columns are three blocks of a kernel.
  for (const Shape& shape : {Shape{0, 1, 1, 2}, Shape{0, 1, 1, 7}, Shape{0, 3, 2, 4}, Shape{0, 1, 1, 70}}) {
    LayerCase c;
    c.name = "unbound " + to_string(shape);
    c.make64 = [shape] { return unbound<double>(shape, in_turn(shape.c)); };
    c.make32 = [shape] { return unbound<float>(shape, in_turn(shape.c)); };
    CAPTURE(c.name);
    for (const int64_t batch : {3, 1}) {
      c.batch = batch;
      const Report report = check_layer(c);
      CHECK_MESSAGE(report.empty(), joined(report));
    }
  }
}

/// A flow of the layer alone, initialised.
template <class T>
struct Alone {
  explicit Alone(const std::vector<Bounds>& bounds)
      : shape{0, 1, 1, static_cast<int64_t>(bounds.size())}, flow(shape, Base::gaussian) {
    flow.add("bounds", unbound<T>(shape, bounds));
    flow.finalize();
    arena = std::make_unique<ParamArena<T>>(flow.layout());
    arena->values()[0] = T(1);  // initialized, the only parameter
  }
  std::vector<T> inverse(const std::vector<T>& z) {
    std::vector<T> x(z.size());
    const int64_t n = static_cast<int64_t>(z.size()) / shape.c;
    std::vector<double> logdet(static_cast<size_t>(n));
    flow.inverse(ctx, *arena, z.data(), n, nullptr, {x.data(), shape.with_batch(n)}, logdet.data());
    return x;
  }
  std::vector<double> log_prob(const std::vector<T>& x, const char* call = "log_prob") {
    const int64_t n = static_cast<int64_t>(x.size()) / shape.c;
    std::vector<double> out(static_cast<size_t>(n));
    flow.log_prob(ctx, *arena, {x.data(), shape.with_batch(n)}, nullptr, out.data(), call);
    return out;
  }
  Context ctx{"cpu", 1};
  Shape shape;
  Flow<T> flow;
  std::unique_ptr<ParamArena<T>> arena;
};

TEST_CASE_TEMPLATE("columns within bounds: samples lie strictly inside, and have a density", T, float,
                   double) {
  const T nearest0 = std::numeric_limits<T>::denorm_min();
  Alone<T> one({{0, 1}, {3, kOpen}, {-kOpen, -3}, {-kOpen, 0}});
  const T far = sizeof(T) == sizeof(float) ? T(120) : T(800);
  const std::vector<T> x = one.inverse({-far, -far, far, far, far, T(5), T(-5), T(-5)});
  CHECK(x[0] == nearest0);
  CHECK(x[1] == std::nextafter(T(3), T(4)));
  CHECK(x[2] == std::nextafter(T(-3), T(-4)));
  CHECK(x[3] == -nearest0);
  CHECK(x[4] == std::nextafter(T(1), T(0)));
  CHECK(x[5] == doctest::Approx(3 + std::exp(5.0)));
  CHECK(x[6] == doctest::Approx(-3 - std::exp(5.0)));
  for (const double density : one.log_prob(x)) CHECK(std::isfinite(density));
}

TEST_CASE_TEMPLATE("columns within bounds: a value on or outside of one is named", T, float, double) {
  Alone<T> one({{}, {0, 1}, {-1.5, kOpen}, {-kOpen, 1e6}});
  const std::vector<T> good = {1e9, 0.5, 0, 0};
  const auto with = [&](size_t column, T value) {
    std::vector<T> rows = good;
    rows.insert(rows.end(), good.begin(), good.end());
    rows[4 + column] = value;
    return rows;
  };
  CHECK(one.log_prob(with(1, T(0.25))).size() == 2);
  const RowsScope counted(one.ctx, 4);
  const auto fails = [&](size_t column, T value, const char* text) {
    CHECK_THROWS_WITH_AS(one.log_prob(with(column, value)), text, NumericError);
  };
  fails(1, T(1.25), "[log_prob] expected values between 0 and 1 for column 1, got 1.25 for sample 5");
  fails(1, T(1), "[log_prob] expected values between 0 and 1 for column 1, got 1 for sample 5");
  fails(1, T(0), "[log_prob] expected values between 0 and 1 for column 1, got 0 for sample 5");
  fails(2, T(-1.5), "[log_prob] expected values above -1.5 for column 2, got -1.5 for sample 5");
  fails(3, T(2e6), "[log_prob] expected values below 1000000 for column 3, got 2000000 for sample 5");
  std::vector<T> z(8), dx(8);
  std::vector<double> logdet(2);
  const std::vector<T> bad = with(1, T(2));
  const View<const T> x(bad.data(), one.shape.with_batch(2));
  CHECK_THROWS_WITH_AS(one.flow.forward(one.ctx, *one.arena, x, nullptr, z.data(), logdet.data()),
                       "[forward] expected values between 0 and 1 for column 1, got 2 for sample 5",
                       NumericError);
  CHECK_THROWS_WITH_AS(one.flow.log_prob_and_grad(one.ctx, *one.arena, x, nullptr, logdet.data(),
                                                  {dx.data(), one.shape.with_batch(2)}),
                       "[log_prob_and_grad] expected values between 0 and 1 for column 1, got 2 for sample 5",
                       NumericError);
  CHECK_THROWS_WITH_AS(one.flow.loss_and_grad(one.ctx, *one.arena, x, nullptr, -1),
                       "[loss_and_grad] expected values between 0 and 1 for column 1, got 2 for sample 5",
                       NumericError);
  CHECK_THROWS_WITH_AS(one.flow.init_from_data(one.ctx, *one.arena, x),
                       "[init] expected values between 0 and 1 for column 1, got 2 for sample 5",
                       NumericError);
}

CouplingFlowConfig bounded_table(const std::vector<Bounds>& bounds) {
  CouplingFlowConfig c = plain_table();
  c.dims = 2;
  c.couplings = 2;
  c.hidden = {5};
  c.bounds = bounds;
  return c;
}

TEST_CASE("bounds that no model has") {
  const auto refused = [](const std::vector<Bounds>& bounds, const char* text) {
    CHECK_THROWS_WITH_AS(coupling_flow<float>(bounded_table(bounds)), text, ConfigError);
  };
  refused({{0, 1}}, "[bounds] expected bounds for each of 2 columns, got 1");
  refused({{}, {1, 1}}, "[bounds] expected a lower bound below the upper one, got 1 and 1 for column 1");
  refused({{kOpen, -kOpen}, {}},
          "[bounds] expected a lower bound below the upper one, got inf and -inf for column 0");
  refused({{std::nan(""), 1}, {}},
          "[bounds] expected a lower bound below the upper one, got nan and 1 for column 0");
  refused({{0, 1e39}, {}}, "[bounds] expected bounds that float32 holds, got 0 and 1e+39 for column 0");
  refused({{-3e38, 3e38}, {}},
          "[bounds] expected bounds that float32 holds, got -3e+38 and 3e+38 for column 0");
  refused({{1, 1 + 1e-7}, {}},
          "[bounds] expected bounds that float32 holds numbers between, got 1 and 1.0000001 for column 0");
  CHECK_NOTHROW(coupling_flow<double>(bounded_table({{1, 1 + 1e-7}, {-3e38, 3e38}})));
  CHECK_THROWS_WITH_AS(coupling_flow<double>(bounded_table({{-1e308, 1e308}, {}})),
                       "[bounds] expected bounds that float64 holds, got -1e+308 and 1e+308 for column 0",
                       ConfigError);
  NiceConfig image;
  image.shape = {0, 2, 2, 1};
  image.bounds = {{0, 1}, {}, {}, {}};
  CHECK_THROWS_WITH_AS(nice<float>(image),
                       "[nice] bounds are for the columns of a table, and this is an image", ConfigError);
}

TEST_CASE("bounds in a file's settings") {
  const std::string text = to_json({bounded_table({{0, 0.1}, {-kOpen, -1e20}}), Dtype::float32, 3});
  CHECK(text.find("\"bounds\": [[0.0, 0.1], [null, -1e+20]], ") != std::string::npos);
  CHECK(to_json(parse_config(text)) == text);
  CHECK(to_json({bounded_table({}), Dtype::float32, 3}).find("bounds") == std::string::npos);
  CouplingFlowConfig given = bounded_table({{0, 1}, {}});
  given.context = 2;
  CHECK(to_json({given, Dtype::float32, 3}).find("null]], \"seed\": 3") != std::string::npos);
  NiceConfig columns;
  columns.shape = {0, 1, 1, 2};
  columns.bounds = {{0, kOpen}, {}};
  const std::string other = to_json({columns, Dtype::float64, 0});
  CHECK(to_json(parse_config(other)) == other);
  const auto with = [&](const std::string& bounds) {
    std::string changed = text;
    const std::string was = "[[0.0, 0.1], [null, -1e+20]]";
    return changed.replace(changed.find(was), was.size(), bounds);
  };
  CHECK(std::get<CouplingFlowConfig>(parse_config(with("[[-1, null], [null, null]]")).model).bounds[0].low ==
        -1);
  for (const char* bad : {"null", "{}", "[]", "[0, 1]", "[[0], [1]]", "[[0, 1, 2], [0, 1]]",
                          "[[\"0\", 1], [0, 1]]", "[[0, true], [0, 1]]"}) {
    CAPTURE(bad);
    CHECK_THROWS_AS(parse_config(with(bad)), ConfigError);
  }
  CHECK_THROWS_AS(build<float>(parse_config(with("[[1, 0], [0, 1]]"))), ConfigError);
}

TEST_CASE_TEMPLATE("a model with bounds: saved, loaded and verified", T, float, double) {
  // Ends that float32 rounds, a latent range of many orders, and much of the data near an end.
  Trainable<T> trained(ModelConfig{bounded_table({{0.1, 0.7}, {2, kOpen}}), dtype_of<T>(), 3});
  constexpr int64_t kRows = 200;
  std::vector<T> x;
  Rng rng(5, Stream::test);
  for (int64_t i = 0; i < kRows; ++i) {
    x.push_back(static_cast<T>(0.1 + 0.6 * std::pow(rng.uniform(0.001, 0.999), 3)));
    x.push_back(static_cast<T>(2 + std::exp(2 * rng.normal())));
  }
  Context ctx("cpu", 1);
  trained.flow.init_from_data(ctx, trained.arena, {x.data(), {kRows, 1, 1, 2}});
  for (int64_t i = 0; i < trained.flow.layout()->trainable_size(); ++i) {
    trained.arena.values()[i] += static_cast<T>(0.1 * rng.normal());
  }
  const TemporaryFile file("bounds.safetensors");
  save(file.path, trained);
  const Model model = load(file.path);
  std::vector<T> drawn(5000 * 2);
  std::vector<double> density(5000);
  model.sample(ctx, 5000, drawn.data());
  model.log_prob(ctx, drawn.data(), 5000, density.data());
  for (size_t i = 0; i < drawn.size(); i += 2) {
    CHECK((drawn[i] > static_cast<T>(0.1) && drawn[i] < static_cast<T>(0.7)));
    CHECK(drawn[i + 1] > T(2));
  }
  const VerifyReport report = model.verify(ctx, x.data(), kRows);
  CHECK_MESSAGE(report.ok, report.error, " z ", report.round_trip_z, " precision ", report.precision,
                " jacobian ", report.jacobian);
  x[3] = T(2);
  CHECK_THROWS_WITH_AS(model.log_prob(ctx, x.data(), 2, density.data()),
                       "[log_prob] expected values above 2 for column 1, got 2 for sample 1", NumericError);
}

}  // namespace
}  // namespace evenflow::test
